"""The bytes of one file, or a hub set, as columns of plain values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer import config
from transfer.data import files, image_files, stored
from transfer.data.files import Location, local_folder
from transfer.data.parsing import Row, UnreadableError, records
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    import datasets

# Column name -> one value a row. A csv gives only strings; None is a value that is missing. Types are never guessed:
# a label "007" or "NA" stays what it is.
Table = dict[str, Sequence[Any]]


def read_files(location: Location, *, key: str, folder: Path | None = None) -> dict[str, Table]:
    """Split -> its table, of at least one row each; ``key`` is the prefix of the messages.

    Args:
        folder: where the rows of large files are unpacked; without it, all are held in memory.

    Raises:
        UserError: files that cannot be parsed, or have no rows; all of them at once.
    """
    tables, problems = {}, []
    for split, path in location.files.items():
        name = location.formats[split]
        try:
            table = _read(path, name, folder)
        except UnreadableError as error:
            allowed = _WHOLE.get(name, f"a {name} file in UTF-8")
            action = f"Mend the file, or say with {key}.format what it is."
            problems.append(Problem(location.keys[split], f"{path}: {error}", allowed, action))
            continue
        if not any(map(len, table.values())):
            action = "Check that the file was written to its end."
            problems.append(Problem(location.keys[split], f"{path} (no rows)", "at least one row", action))
        tables[split] = table
    if problems:
        raise UserError(problems)
    return tables


def read_hub(location: Location, data: config.Data, *, key: str, streaming: bool = False) -> datasets.DatasetDict:
    """The hub set as `datasets` gives it, from its cache where it was loaded before; or not loaded, to be streamed.

    Raises:
        UserError: whatever keeps it from loading; the message says which local forms there are.
    """
    import datasets

    assert location.hub is not None
    try:
        loaded = datasets.load_dataset(location.hub, data.config_name, revision=data.revision, streaming=streaming)
    except Exception as error:  # the hub's client raises of all kinds, and the advice is the same for each
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        action = (
            f"Without a network, use a copy on this disk: {key}.path=FILE or FOLDER (train.csv, test.csv; also tsv, "
            f"jsonl, json, parquet, each also .gz), {key}.path=embedded:movies, or {_local_form(data, key)}."
        )
        allowed = "the id of a data set on the Hugging Face hub, with its config_name where it has several"
        raise UserError(Problem(f"{key}.path", f"{location.hub} ({reason})", allowed, action)) from error
    assert isinstance(loaded, datasets.IterableDatasetDict if streaming else datasets.DatasetDict)
    return loaded


def table_of(dataset: datasets.Dataset, folder: Path | None = None) -> Table:
    """A hub split as a table: class numbers become their names, the hub's -1 for "no label" becomes None.

    Images stay encoded. Of a large split without any, the rows are unpacked in the folder, where there is one.
    """
    import datasets

    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    for name in images:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    if folder is not None and not images and dataset.data.nbytes >= stored.LARGE:
        return {**stored.table(lambda: map(partial(named, dataset), dataset), folder / f"{dataset._fingerprint}.arrow")}
    return {name: [_plain(feature, value) for value in dataset[name][:]] for name, feature in dataset.features.items()}


def named(dataset: Any, row: Row) -> Row:
    """A row of a hub split with the names of its classes."""
    features = dataset.features or {}
    return {name: _plain(features.get(name), value) for name, value in row.items()}


def _plain(feature: Any, value: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return _name(feature, value)
    if value is not None and isinstance(inner := getattr(feature, "feature", None), datasets.ClassLabel):
        return [_name(inner, each) for each in value]
    return value


def _name(feature: datasets.ClassLabel, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.names[value]


def _local_form(data: config.Data, key: str) -> str:
    if data.local is None:
        return f"{key}.local=NAME with the environment variable TRANSFER_DATA, for the folder $TRANSFER_DATA/NAME"
    assert local_folder(data) is None
    return f"the environment variable TRANSFER_DATA, for the folder $TRANSFER_DATA/{data.local}"


def _read(path: Path, name: str, folder: Path | None) -> Table:
    if name in image_files.FORMATS:
        from transfer.data import images

        return images.read(path)
    if folder is None or name == "json" or not stored.is_large(path) or _has_bytes(path, name):
        return table(list(records(path, name)))
    file = folder / f"{files.content_hash(path)}-{name}-{stored.VERSION}.arrow"
    return {**stored.table(partial(records, path, name), file)}


def _has_bytes(path: Path, name: str) -> bool:
    """Whether a table has images, or other values that are neither text nor JSON."""
    if name != "parquet" or path.name.lower().endswith(".gz"):
        return False
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError):
        return False  # which reading it says better
    return any("binary" in str(kind) for kind in schema.types)


def table(rows: list[Row]) -> Table:
    """The columns of these rows, None where a row lacks one."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


# What a file is that is no text.
_WHOLE = {
    "parquet": "a parquet file",
    image_files.IDX: "two idx files, of images and of labels",
    image_files.FOLDER: "a folder with a subfolder of images for every class",
}
