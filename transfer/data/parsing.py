"""The rows of one file, one after another: no more of it is in memory than that (of json and parquet, more)."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]

# A carriage return that ends a line of its own, as in the files of old Macs.
_RETURN = re.compile(r"(?<=\r)(?!\n)")


class UnreadableError(Exception):
    """A file whose bytes are not what its format says; the message names the line where it can."""


def records(path: Path, name: str) -> Iterator[Row]:
    """The rows of a file of this format. A csv gives only strings; None is a value that is missing.

    Types are never guessed: a label "007" or "NA" stays what it is.

    Raises:
        UnreadableError: on coming to the place.
    """
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            yield from READERS[name](file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableError(f"not a whole gzip file ({error})") from error
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


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


def _lines(file: Any) -> Iterator[str]:
    """The lines with their ends, cut at \\n only: a JSON string may hold the other line separators of Unicode."""
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            wrong = f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x}); save the file in this encoding"
            raise UnreadableError(wrong) from error
        # spreadsheets begin UTF-8 files with a byte order mark
        yield text.removeprefix("\ufeff") if number == 1 else text


def _all_lines(file: IO[bytes]) -> Iterator[str]:
    """The lines without their ends, cut at every separator that Unicode knows."""
    for line in _lines(file):
        yield from line.splitlines()


def _csv(file: IO[bytes], delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(1 << 30)  # the default, 131072 characters, is less than a long document
    lines = (part for line in _lines(file) for part in (_RETURN.split(line) if "\r" in line else (line,)) if part)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UnreadableError(f"the header has {', '.join(twice)} twice")
        for row in reader:
            if len(row) != len(names) and row:
                raise UnreadableError(f"line {reader.line_num} has {len(row)} fields, the header has {len(names)}")
            if row:
                yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num}: {error}") from error


def _tsv(file: IO[bytes]) -> Iterator[Row]:
    return _csv(file, delimiter="\t")


def _jsonl(file: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.removesuffix("\n"))
        except json.JSONDecodeError as error:
            raise UnreadableError(f"line {number}: {error.msg} (column {error.colno})") from error
        if not isinstance(row, dict):
            raise UnreadableError(f'line {number} is no object like {{"text": ..., "label": ...}}')
        yield row


def _json(file: IO[bytes]) -> Iterator[Row]:
    text = "".join(_lines(file))
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"line {error.lineno}: {error.msg} (column {error.colno})") from error
    if not isinstance(rows, list):
        raise UnreadableError('not a list of objects like [{"text": ..., "label": ...}]')
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise UnreadableError(f'element {wrong} of the list is no object like {{"text": ..., "label": ...}}')
    yield from rows


def _parquet(file: Any) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        # what is packed cannot be searched quickly
        opened = io.BytesIO(file.read()) if isinstance(file, gzip.GzipFile) else file
        if not opened.seek(0, io.SEEK_END):
            return
        with pyarrow.parquet.ParquetFile(opened) as table:
            for batch in table.iter_batches(batch_size=10_000):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableError(str(error).splitlines()[0]) from error


def _conll(file: IO[bytes]) -> Iterator[Row]:
    """A word and its tag a line (the first and the last of the columns), a blank line after each sentence."""
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(_all_lines(file), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens:
                yield {"tokens": tokens, "label": tags}
                tokens, tags = [], []
            continue
        # A word may hold any character but the separator; some files have blanks inside of words and tabs between.
        fields = line.rstrip().split("\t") if "\t" in line else line.split()
        if len(fields) < 2:
            raise UnreadableError(f"line {number} has one field ({line.strip()[:40]}), not a word and its tag")
        tokens.append(fields[0])
        tags.append(fields[-1])
    if tokens:
        yield {"tokens": tokens, "label": tags}


def _txt(file: IO[bytes]) -> Iterator[Row]:
    """One text a line; blank lines stand between paragraphs and are no texts."""
    return ({"text": line} for line in _all_lines(file) if line.strip())


READERS = {
    "conll": _conll,
    "txt": _txt,
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
}
