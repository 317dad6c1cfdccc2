"""A training split that is read as it is trained on: its rows are in memory only while they are shuffled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, IterableDataset

from transfer import config
from transfer.data import columns, formats, labels, leakage, splits
from transfer.data.files import SPLIT_NAMES, Location, locate
from transfer.data.parsing import Row, UnreadableError, records
from transfer.data.sources import Splits, dataset_of
from transfer.data.stored import BLOCK
from transfer.errors import Problem, UserError

# Rows of a split for which there is neither a file nor a size.
TAKEN = 1000
# Repeated texts are looked for, and the words of a vocabulary counted, in so many rows.
SURVEYED = 1_000_000
# Rows that are handed on together.
READ = 256


class Stream:
    """The training rows, each with `number` (its place, from 1), `text`, perhaps `text_pair`, and `label`.

    Args:
        rows: all of them in their order, with the label as it is in the file.
        taken: so many at the beginning are not for training.
        name: what messages call them; `key` is the prefix of the keys there.
    """

    def __init__(
        self, rows: IterableDataset, data: config.Data, taken: int, problem_type: str, *, name: str, key: str
    ) -> None:
        self.rows = rows.skip(taken) if taken else rows
        self.data = data
        self.problem_type = problem_type
        self.name = name
        self.key = key
        self.classes: list[str] = []
        self.column_names = ["text", *(["text_pair"] if data.columns.text_pair else []), "label"]

    def shuffled(self, seed: int, time: int) -> Iterator[Row]:
        """All rows, in the order in which they are gone through for the `time`-th time, from 0."""
        shuffled = self.rows.shuffle(seed=seed, buffer_size=self.data.shuffle_buffer)
        shuffled.set_epoch(time)
        return self._read(shuffled)

    def blocks(self, name: str) -> Iterator[list[Any]]:
        """A column of the first `SURVEYED` rows, in lists of some thousands."""
        values = (row[name] for row in islice(self._read(self.rows), SURVEYED))
        return iter(lambda: list(islice(values, BLOCK)), [])

    def sample(self) -> Dataset:
        """Its first rows."""
        rows = list(islice(self._read(self.rows), READ))
        return Dataset.from_dict({name: [row[name] for row in rows] for name in self.column_names})

    def labels(self) -> list[str]:
        """The classes, sorted: all rows are read for it."""
        return sorted(Counter(row["label"] for row in self._read(self.rows)))

    def _read(self, rows: IterableDataset) -> Iterator[Row]:
        """Rows without a label are left out, as they are elsewhere."""
        names = self.column_names[:-1]
        try:
            # Iterating over single rows would, in a process that loads batches, give its share alone.
            for block in rows.iter(READ):
                for values in zip(*(block[name] for name in ("number", "label", *names)), strict=True):
                    number, label, *texts = values
                    if (name := self._label(label)) is None:
                        continue
                    if not all(isinstance(text, str) for text in texts):
                        self._refuse("text", f"row {number} has a text that is no string", "a string in every row")
                    if self.classes and name not in self.classes:
                        self._refuse("label", f"row {number} has the label {name}", ", ".join(self.classes))
                    yield {"number": number, **dict(zip(names, texts, strict=True)), "label": name}
        except UnreadableError as error:
            action = f"Mend the file, or say with {self.key}.format what it is."
            problem = Problem(f"{self.key}.files.train", f"{self.name}: {error}", "a file of its format", action)
            raise UserError(problem) from error

    def _label(self, value: Any) -> str | None:
        if self.problem_type == "none":
            return ""
        name = labels.name_of(value)
        return None if name is None else self.data.label_map.get(name, name)

    def _refuse(self, column: str, received: str, allowed: str) -> None:
        problem = Problem(f"{self.key}.columns.{column}", f"{self.name}: {received}", allowed, "Mend or remove it.")
        raise UserError(problem)


def load(data: config.Data, *, key: str, data_seed: int, problem_type: str, folder: Path) -> Splits:
    """The splits, of which the training one is a `Stream`.

    Validation and test rows are those of their files, or else the first `validation_size` and `test_size` rows.

    Raises:
        UserError: what can be seen in the first rows, in those of the other splits, and, where the classes are not
            given, in the labels of all rows.
    """
    notes: list[str] = []
    location = locate(data, key=key)
    sizes = {split: getattr(data, f"{split}_size") or TAKEN for split in ("validation", "test")}
    if location.hub is None:
        tables, first = _tables_of_files(location, sizes, key=key, folder=folder)
        names = {split: location.files.get(split, location.files["train"]).name for split in sizes}
        names["train"] = location.files["train"].name
    else:
        loaded: Any = formats.read_hub(location, data, key=key, streaming=True)
        tables, first = _tables_of_hub(loaded, sizes)
        names = dict.fromkeys(["train", *sizes], location.hub)
    taken = sum(sizes[split] for split in sizes if split not in tables)
    whole, first = first, {name: values[taken:] for name, values in first.items()}
    if not any(map(len, first.values())):
        received = f"{names['train']} has not more than {len(next(iter(whole.values()), []))} rows"
        allowed = f"more than {taken}: so many are taken away for validation and test"
        raise UserError(Problem(f"{key}.validation_size", received, allowed, "Lower it, or read it without streaming."))
    begin = 0
    for split in [split for split in sizes if split not in tables]:
        end = begin + sizes[split]
        tables[split] = {name: values[begin:end] for name, values in whole.items()}
        notes.append(f"{key}: {split} is the rows {begin + 1} to {end} of {names['train']}")
        begin = end
    tables = {"train": first, **tables}
    data = replace(data, columns=columns.existing(tables, data.columns, names, key=key, local=location.local))
    places = names | ({"train": f"{names['train']}, after its first {taken} rows"} if taken else {})
    made = columns.canonical(tables, data.columns, places, key=key, local=location.local, notes=notes)
    made = labels.read_labels(made, data, key=key, problem_type=problem_type, notes=notes)
    made = splits.cap(made, data, key=key, data_seed=data_seed)
    rows = _of_file(location, data) if location.hub is None else _of_hub(loaded, data)
    stream = Stream(rows, data, taken, problem_type, name=names["train"], key=key)
    if problem_type == "single_label":
        stream.classes = list(data.labels) or stream.labels()
        _require_classes(stream, {split: made[split] for split in sizes})
    others = {split: dataset_of(made[split], problem_type) for split in sizes}
    notes.append(f"{key}: {names['train']} streams; repeated texts are looked for in {SURVEYED:,} rows at most")
    notes += [f"{key}: {note}" for note in leakage.overlap(stream, others)]
    return Splits(stream, others["validation"], others["test"], stream.classes, notes)


def _require_classes(stream: Stream, others: dict[str, columns.Rows]) -> None:
    column, classes = f"{stream.key}.columns.label", stream.classes
    problems = []
    if len(classes) < 2:
        action = "Name the column with the labels."
        problems.append(Problem(column, f"only {', '.join(classes)} in {stream.name}", "at least 2 classes", action))
    for split, rows in others.items():
        unknown = sorted({*rows.labels} - {*classes})
        if unknown:
            received = f"{', '.join(unknown[:5])}: in {rows.name} ({split}), but no class of the training rows"
            problems.append(Problem(column, received, ", ".join(classes[:12]), f"Mend it with {stream.key}.label_map."))
    if problems:
        raise UserError(problems)


def _tables_of_files(
    location: Location, sizes: dict[str, int], *, key: str, folder: Path
) -> tuple[dict[str, formats.Table], formats.Table]:
    """What the other splits have of their own, and the first training rows, one more than could be taken away."""
    own = {split: path for split, path in location.files.items() if split != "train"}
    tables = formats.read_files(replace(location, files=own), key=key, folder=folder)
    rows = records(location.files["train"], location.formats["train"])
    try:
        return tables, formats.table(list(islice(rows, sum(sizes.values()) + READ)))
    except UnreadableError as error:
        problem = Problem(location.keys["train"], str(error), "a file of its format", "Mend it.")
        raise UserError(problem) from error


def _tables_of_hub(loaded: Any, sizes: dict[str, int]) -> tuple[dict[str, formats.Table], formats.Table]:
    found = {split: next((stem for stem in SPLIT_NAMES[split] if stem in loaded), None) for split in sizes}
    tables = {
        split: formats.table(_first(loaded[stem], sizes[split])) for split, stem in found.items() if stem is not None
    }
    return tables, formats.table(_first(loaded["train"], sum(sizes.values()) + READ))


def _first(rows: IterableDataset, number: int) -> list[Row]:
    return [formats.named(rows, row) for row in rows.take(number)]


def _of_file(location: Location, data: config.Data) -> IterableDataset:
    known = {"path": str(location.files["train"]), "kind": location.formats["train"], "wanted": _wanted(data)}
    return IterableDataset.from_generator(_rows, gen_kwargs=known)


def _rows(path: str, kind: str, wanted: dict[str, str | None]) -> Iterator[Row]:
    for number, row in enumerate(records(Path(path), kind), start=1):
        yield _canonical(row, number, wanted)


def _canonical(row: Row, number: int, wanted: dict[str, str | None]) -> Row:
    values = {name: None if column is None else row.get(column) for name, column in wanted.items()}
    return {"number": number, **values}


def _of_hub(loaded: datasets.IterableDatasetDict, data: config.Data) -> IterableDataset:
    rows = loaded["train"]
    made = partial(_named, rows, _wanted(data))
    return rows.map(made, with_indices=True, remove_columns=rows.column_names)


def _named(rows: IterableDataset, wanted: dict[str, str | None], row: Row, place: int) -> Row:
    return _canonical(formats.named(rows, row), place + 1, wanted)


def _wanted(data: config.Data) -> dict[str, str | None]:
    """The columns of a row, by what they are called in the file."""
    pair = {"text_pair": data.columns.text_pair} if data.columns.text_pair else {}
    return {"text": data.columns.text, **pair, "label": data.columns.label}
