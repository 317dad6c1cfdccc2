"""One labelled data set, from wherever it lies, as three splits with the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from transfer import config, records
from transfer.data import columns, folds, formats, labels, leakage, splits, stored
from transfer.data.budgets import check_size
from transfer.data.columns import Rows
from transfer.data.files import SPLIT_NAMES, SPLITS, Location, fingerprint, locate, split_fingerprint
from transfer.data.stored import Stored
from transfer.errors import Problem, UserError

__all__ = ["Splits", "fingerprint", "load"]


# Of the files of rows that are kept.
VERSION = 1
_STRING, _NUMBER = datasets.Value("string"), datasets.Value("float64")
INPUT_TYPES = {
    "text": _STRING,
    "text_pair": _STRING,
    "tokens": datasets.List(_STRING),
    "choices": datasets.List(_STRING),
    "features": datasets.List(_NUMBER),
    "image": datasets.Value("binary"),
}
LABEL_TYPES = {
    "single_label": _STRING,
    "multi_label": datasets.List(_STRING),
    "regression": _NUMBER,
    "tags": datasets.List(_STRING),
    "spans": datasets.List({"text": _STRING, "start": datasets.Value("int64")}),
    "choice": _STRING,
    "text": _STRING,
    "none": _STRING,
}


@dataclass(eq=False)
class Splits:
    """The splits of a data set with the columns `id`, the inputs (`INPUT_TYPES`) and `label` (`LABEL_TYPES`).

    Attributes:
        labels: the class names in their order; empty for a regression.
        notes: what the user should know: rows that were dropped, duplicates, splits that were drawn.
        strata: by what the training rows can be stratified: their labels, or nothing much where each is its own.
        groups: split -> the group of each of its rows, where a column names them (`columns.group`).
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    labels: list[str]
    notes: list[str] = field(default_factory=list)
    strata: Sequence[Any] = field(default_factory=list)
    groups: dict[str, list[str | None]] = field(default_factory=dict)


def load(data: config.Data, *, key: str, data_seed: int, problem_type: str, folder: Path | None = None) -> Splits:
    """Read, check and split the data; the same on every machine for the same files and ``data_seed``.

    ``key`` is the prefix of the messages, such as ``target.data``. ``problem_type`` is ``single_label`` (label: str),
    ``multi_label`` (list[str]), ``regression`` (float), ``tags`` (list[str], IOB2), ``spans`` (list of text and start),
    ``choice`` (the column of the right answer), ``text`` (str) or ``none`` (an empty str). `train_size` is checked
    here, but it is `transfer.data.budgets.subset` that applies it.

    Args:
        folder: where the rows of large files are unpacked, and mapped into memory from; without it, all are held there.

    Raises:
        UserError: anything in the config or in the files that would stop or spoil a training later.
    """
    assert problem_type in LABEL_TYPES, problem_type
    notes: list[str] = []
    location = locate(data, key=key)
    named = data.columns
    if location.hub is None:
        tables = formats.read_files(location, key=key, folder=folder)
        names = {split: path.name for split, path in location.files.items()}
    else:
        tables = _from_hub(formats.read_hub(location, data, key=key), location, key=key, folder=folder)
        names = {split: f"{location.hub}, {split}" for split in tables}
        if data.revision is None:
            notes.append(
                f"{key}: {location.hub} is read without {key}.revision; a change on the hub would go unnoticed"
            )
    if data.columns.image is not None:
        named = _with_images(tables, data.columns, location, names, key=key)
    rows = columns.canonical(tables, named, names, key=key, local=location.local, notes=notes)
    rows = labels.read_labels(rows, data, key=key, problem_type=problem_type, notes=notes)
    if data.folds is not None:
        rows = folds.cut(rows, data, key=key, data_seed=data_seed, notes=notes)
    rows = splits.draw(rows, data, key=key, data_seed=data_seed, notes=notes)
    classes = labels.class_names(rows, data, key=key, problem_type=problem_type, notes=notes)
    rows = splits.cap(rows, data, key=key, data_seed=data_seed)
    check_size(rows["train"].strata, data.train_size, key)
    notes += splits.straddling(rows, key=key)
    made = {}
    for split in SPLITS:
        large = folder is not None and any(isinstance(column, Stored) for column in rows[split].inputs.values())
        about = [split_fingerprint(data, key=key), data_seed, problem_type, split, VERSION] if large else []
        file = folder / f"{records.fingerprint({'rows': about})}.arrow" if folder is not None and large else None
        made[split] = dataset_of(rows[split], problem_type, file)
    repeated = leakage.overlap(made["train"], {"validation": made["validation"], "test": made["test"]})
    notes += [f"{key}: {note}" for note in repeated]
    groups = {split: found for split in SPLITS if (found := rows[split].groups) is not None}
    return Splits(made["train"], made["validation"], made["test"], classes, notes, rows["train"].strata, groups)


def _with_images(
    tables: dict[str, formats.Table], named: config.Columns, location: Location, names: dict[str, str], *, key: str
) -> config.Columns:
    """The column of images as bytes, in place; the columns with the files' names for ids, where there are files."""
    from transfer.data import image_files, images

    assert named.image is not None
    for split, table in tables.items():
        if named.image in table:
            table[named.image] = list(images.encoded(table[named.image], named.image, names[split], key))
    folders = {*location.formats.values()} == {image_files.FOLDER}
    return replace(named, id="file") if folders and named.id is None else named


def _from_hub(
    loaded: datasets.DatasetDict, location: Location, *, key: str, folder: Path | None = None
) -> dict[str, formats.Table]:
    tables = {}
    for split, stems in SPLIT_NAMES.items():
        found = next((stem for stem in stems if stem in loaded), None)
        if found is not None and len(loaded[found]):
            tables[split] = formats.table_of(loaded[found], folder)
    if len(loaded) == 1 and len(tables) == 1:
        # What was published for evaluation alone (XQuAD) is split like a single file.
        tables = {"train": next(iter(tables.values()))}
    if "train" not in tables:
        received = f"{location.hub} with the splits {', '.join(map(str, loaded)) or 'none'}"
        action = f"Choose another {key}.config_name, or save the split that is meant as a file."
        raise UserError(Problem(f"{key}.path", received, "a split called train, with rows", action))
    return tables


def dataset_of(rows: Rows, problem_type: str, file: Path | None = None) -> datasets.Dataset:
    """Rows whose labels are of this problem type, with the canonical columns.

    With a file they are mapped into memory from there, where they are written first if they are not there yet.
    """
    # the types are given, so that a split in which every list is empty has the same ones as the others
    types = {name: INPUT_TYPES[name] for name in rows.inputs}
    features = datasets.Features({"id": _STRING, **types, "label": LABEL_TYPES[problem_type]})
    columns = {"id": rows.ids, **rows.inputs, "label": rows.labels}
    if file is None:
        return datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()}, features=features)
    if not file.is_file():
        schema = features.arrow_schema
        readers = [iter(values) for values in columns.values()]
        with stored.replacing(file) as sink, pa.ipc.new_stream(sink, schema) as writer:
            for _ in range(0, len(rows), stored.BLOCK):
                parts = [list(islice(reader, stored.BLOCK)) for reader in readers]
                arrays = [pa.array(part, kind) for part, kind in zip(parts, schema.types, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
    return datasets.Dataset.from_file(str(file))
