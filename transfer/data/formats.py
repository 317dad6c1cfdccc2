"""The bytes of one file, or a hub set, as columns of plain values."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer import config
from transfer.data import image_files
from transfer.data.files import Location, local_folder
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    import datasets

# Column name -> one value a row. A csv gives only strings; None is a value that is missing. Types are never guessed:
# a label "007" or "NA" stays what it is.
Table = dict[str, list[Any]]


class UnreadableError(Exception):
    """A file whose bytes are not what its format says; the message names the line where it can."""


def read_files(location: Location, *, key: str) -> dict[str, Table]:
    """Split -> its table, of at least one row each; ``key`` is the prefix of the messages.

    Raises:
        UserError: files that cannot be parsed, or have no rows; all of them at once.
    """
    tables, problems = {}, []
    for split, path in location.files.items():
        name = location.formats[split]
        try:
            table = _read(path, name)
        except UnreadableError as error:
            allowed = _WHOLE.get(name, f"a {name} file in UTF-8")
            action = f"Mend the file, or say with {key}.format what it is."
            problems.append(Problem(location.keys[split], f"{path}: {error}", allowed, action))
            continue
        if not any(table.values()):
            action = "Check that the file was written to its end."
            problems.append(Problem(location.keys[split], f"{path} (no rows)", "at least one row", action))
        tables[split] = table
    if problems:
        raise UserError(problems)
    return tables


def read_hub(location: Location, data: config.Data, *, key: str) -> datasets.DatasetDict:
    """The hub set as `datasets` gives it, from its cache where it was loaded before.

    Raises:
        UserError: whatever keeps it from loading; the message says which local forms there are.
    """
    import datasets

    assert location.hub is not None
    try:
        loaded = datasets.load_dataset(location.hub, data.config_name, revision=data.revision)
    except Exception as error:  # the hub's client raises of all kinds, and the advice is the same for each
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        action = (
            f"Without a network, use a copy on this disk: {key}.path=FILE or FOLDER (train.csv, test.csv; also tsv, "
            f"jsonl, json, parquet, each also .gz), {key}.path=embedded:movies, or {_local_form(data, key)}."
        )
        allowed = "the id of a data set on the Hugging Face hub, with its config_name where it has several"
        raise UserError(Problem(f"{key}.path", f"{location.hub} ({reason})", allowed, action)) from error
    assert isinstance(loaded, datasets.DatasetDict)
    return loaded


def table_of(dataset: datasets.Dataset) -> Table:
    """A hub split as a table: class numbers become their names, the hub's -1 for "no label" becomes None.

    Images stay encoded.
    """
    import datasets

    table: Table = {}
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        values = dataset[name][:]
        if isinstance(feature, datasets.ClassLabel):
            values = [_name(feature, value) for value in values]
        elif isinstance(inner := getattr(feature, "feature", None), datasets.ClassLabel):
            values = [None if row is None else [_name(inner, value) for value in row] for row in values]
        table[name] = values
    return table


def _name(feature: datasets.ClassLabel, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.names[value]


def _local_form(data: config.Data, key: str) -> str:
    if data.local is None:
        return f"{key}.local=NAME with the environment variable TRANSFER_DATA, for the folder $TRANSFER_DATA/NAME"
    assert local_folder(data) is None
    return f"the environment variable TRANSFER_DATA, for the folder $TRANSFER_DATA/{data.local}"


def _read(path: Path, name: str) -> Table:
    if name in image_files.FORMATS:
        from transfer.data import images

        return images.read(path)
    found = content(path)
    return _READERS[name](found) if found.strip() else {}


def content(path: Path) -> bytes:
    """The bytes of a file, unpacked.

    Raises:
        UnreadableError: they cannot be had.
    """
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path, "rb") as file:
                return file.read()
        return path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableError(f"not a whole gzip file ({error})") from error
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # spreadsheets begin UTF-8 files with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x})") from error


def _read_csv(content: bytes, delimiter: str = ",") -> Table:
    text = _text(content)
    before = csv.field_size_limit(len(text) + 1)  # the default, 131072 characters, is less than a long document
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        names = next(reader)
        for row in reader:
            if len(row) != len(names) and row:
                raise UnreadableError(f"line {reader.line_num} has {len(row)} fields, the header has {len(names)}")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnreadableError(f"the header has {', '.join(twice)} twice")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _read_tsv(content: bytes) -> Table:
    return _read_csv(content, delimiter="\t")


def _read_jsonl(content: bytes) -> Table:
    rows = []
    # split at \n only: a JSON string may hold the other line separators of Unicode
    for number, line in enumerate(_text(content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UnreadableError(f"line {number}: {error.msg} (column {error.colno})") from error
        if not isinstance(row, dict):
            raise UnreadableError(f'line {number} is no object like {{"text": ..., "label": ...}}')
        rows.append(row)
    return _columns(rows)


def _read_json(content: bytes) -> Table:
    try:
        rows = json.loads(_text(content))
    except json.JSONDecodeError as error:
        raise UnreadableError(f"line {error.lineno}: {error.msg} (column {error.colno})") from error
    if not isinstance(rows, list):
        raise UnreadableError('not a list of objects like [{"text": ..., "label": ...}]')
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise UnreadableError(f'element {wrong} of the list is no object like {{"text": ..., "label": ...}}')
    return _columns(rows)


def _read_parquet(content: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableError(str(error).splitlines()[0]) from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _columns(rows: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _read_conll(content: bytes) -> Table:
    """A word and its tag a line (the first and the last of the columns), a blank line after each sentence."""
    tokens: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(_text(content).splitlines(), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens[-1]:
                tokens.append([])
                tags.append([])
            continue
        # A word may hold any character but the separator; some files have blanks inside of words and tabs between.
        fields = line.rstrip().split("\t") if "\t" in line else line.split()
        if len(fields) < 2:
            raise UnreadableError(f"line {number} has one field ({line.strip()[:40]}), not a word and its tag")
        tokens[-1].append(fields[0])
        tags[-1].append(fields[-1])
    whole = slice(None, None if tokens[-1] else -1)
    return {"tokens": tokens[whole], "label": tags[whole]}  # type: ignore[dict-item]


def _read_txt(content: bytes) -> Table:
    """One text a line; blank lines stand between paragraphs and are no texts."""
    return {"text": [line for line in _text(content).splitlines() if line.strip()]}


# What a file is that is no text.
_WHOLE = {
    "parquet": "a parquet file",
    image_files.IDX: "two idx files, of images and of labels",
    image_files.FOLDER: "a folder with a subfolder of images for every class",
}
_READERS = {
    "conll": _read_conll,
    "txt": _read_txt,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
}
