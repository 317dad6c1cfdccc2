"""One labelled data set, from wherever it lies, as three splits with the same columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import datasets

from transfer import config
from transfer.data import columns, folds, formats, labels, leakage, splits
from transfer.data.budgets import check_size
from transfer.data.columns import Rows
from transfer.data.files import SPLIT_NAMES, SPLITS, Location, fingerprint, locate
from transfer.errors import Problem, UserError

__all__ = ["Splits", "fingerprint", "load"]


@dataclass(eq=False)
class Splits:
    """The splits of a data set with the columns `id`, `text` (and `text_pair`) or `features`, and `label`.

    Attributes:
        labels: the class names in their order; empty for a regression.
        notes: what the user should know: rows that were dropped, duplicates, splits that were drawn.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    labels: list[str]
    notes: list[str] = field(default_factory=list)


def load(data: config.Data, *, key: str, data_seed: int, problem_type: str) -> Splits:
    """Read, check and split the data; the same on every machine for the same files and ``data_seed``.

    ``key`` is the prefix of the messages, such as ``target.data``. ``problem_type`` is ``single_label`` (label: str),
    ``multi_label`` (list[str]) or ``regression`` (float). `train_size` is checked here, but it is
    `transfer.data.budgets.subset` that applies it.

    Raises:
        UserError: anything in the config or in the files that would stop or spoil a training later.
    """
    assert problem_type in ("single_label", "multi_label", "regression"), problem_type
    notes: list[str] = []
    location = locate(data, key=key)
    if location.hub is None:
        tables = formats.read_files(location, key=key)
        names = {split: path.name for split, path in location.files.items()}
    else:
        tables = _from_hub(formats.read_hub(location, data, key=key), location, key=key)
        names = {split: f"{location.hub}, {split}" for split in tables}
        if data.revision is None:
            notes.append(
                f"{key}: {location.hub} is read without {key}.revision; a change on the hub would go unnoticed"
            )
    rows = columns.canonical(tables, data.columns, names, key=key, local=location.local, notes=notes)
    rows = labels.read_labels(rows, data, key=key, problem_type=problem_type, notes=notes)
    if data.folds is not None:
        rows = folds.cut(rows, data, key=key, data_seed=data_seed, notes=notes)
    rows = splits.draw(rows, data, key=key, data_seed=data_seed, notes=notes)
    classes = labels.class_names(rows, data, key=key, problem_type=problem_type, notes=notes)
    rows = splits.cap(rows, data, key=key, data_seed=data_seed)
    check_size(rows["train"].labels, data.train_size, key)
    notes += splits.straddling(rows, key=key)
    made = {split: _dataset(rows[split], problem_type) for split in SPLITS}
    repeated = leakage.overlap(made["train"], {"validation": made["validation"], "test": made["test"]})
    notes += [f"{key}: {note}" for note in repeated]
    return Splits(made["train"], made["validation"], made["test"], classes, notes)


def _from_hub(loaded: datasets.DatasetDict, location: Location, *, key: str) -> dict[str, formats.Table]:
    tables = {}
    for split, stems in SPLIT_NAMES.items():
        found = next((stem for stem in stems if stem in loaded), None)
        if found is not None and len(loaded[found]):
            tables[split] = formats.table_of(loaded[found])
    if "train" not in tables:
        received = f"{location.hub} with the splits {', '.join(map(str, loaded)) or 'none'}"
        action = f"Choose another {key}.config_name, or save the split that is meant as a file."
        raise UserError(Problem(f"{key}.path", received, "a split called train, with rows", action))
    return tables


def _dataset(rows: Rows, problem_type: str) -> datasets.Dataset:
    # the types are given, so that a split in which every list is empty has the same ones as the others
    string, number = datasets.Value("string"), datasets.Value("float64")
    features: dict[str, object] = {"id": string}
    content: dict[str, list[object]] = {"id": [*rows.ids]}
    for name, values, kind in (
        ("text", rows.texts, string),
        ("text_pair", rows.pairs, string),
        ("features", rows.features, datasets.List(number)),
    ):
        if values is not None:
            features[name], content[name] = kind, [*values]
    features["label"] = {"single_label": string, "multi_label": datasets.List(string), "regression": number}[
        problem_type
    ]
    content["label"] = rows.labels
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))
