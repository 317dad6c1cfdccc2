"""Cross-validation: all labelled rows in k folds, one of which is the test split."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from transfer import config
from transfer.data.budgets import strata
from transfer.data.columns import Rows
from transfer.data.files import SPLITS
from transfer.errors import Problem, UserError


def cut(rows: dict[str, Rows], data: config.Data, *, key: str, data_seed: int, notes: list[str]) -> dict[str, Rows]:
    """The rows of all splits anew as training and test rows: the test split is the fold `data.fold`, of `data.folds`.

    Every row is in one fold, and ``data_seed`` alone decides in which. Classes (of several labels a row, its rarest; of
    numbers, the deciles) are shared out evenly, groups stay whole. The validation split is left to be drawn.

    Raises:
        UserError: more folds than some class has rows (or groups); some splits with groups and some without.
    """
    assert data.folds is not None
    assert data.fold is not None
    everything = _pooled(rows, key)
    _check(everything, data.folds, key)
    places = _places(everything, data.folds, data_seed)
    test, train = np.flatnonzero(places == data.fold), np.flatnonzero(places != data.fold)
    from_all = f" of {', '.join(rows)} together" if len(rows) > 1 else ""
    by = "labels and whole groups" if everything.groups else "labels"
    notes.append(
        f"{key}: the test split is fold={data.fold} of folds={data.folds}, {len(test)} of {len(everything)} "
        f"rows{from_all}, drawn by {by}, data_seed={data_seed}"
    )
    return {"train": everything.take(train), "test": everything.take(test)}


def _pooled(rows: dict[str, Rows], key: str) -> Rows:
    """All rows as those of one split."""
    parts = [rows[split] for split in SPLITS if split in rows]
    if len(parts) == 1:
        return parts[0]
    lacking = [part.name for part in parts if part.groups is None]
    if lacking and len(lacking) < len(parts):
        action = f"Every row goes into a fold, so every file needs the column; or set {key}.columns.group=null."
        raise UserError(
            Problem(f"{key}.columns.group", f"none in {' or '.join(lacking)}", "groups of all rows", action)
        )

    def joined(name: str) -> Any:
        columns = [getattr(part, name) for part in parts]
        return None if columns[0] is None else [value for column in columns for value in column]

    inputs: dict[str, Any] = {
        name: [value for part in parts for value in part.inputs[name]] for name in parts[0].inputs
    }
    name = " and ".join(part.name for part in parts)
    numbers = np.concatenate([part.numbers for part in parts])
    return Rows(name, numbers, joined("ids"), joined("labels"), inputs, joined("groups"), joined("strata"))


def _check(rows: Rows, folds: int, key: str) -> None:
    """Every class has to be in every fold."""
    unit = "groups" if rows.groups else "rows"
    units: Sequence[Any] = range(len(rows))
    if rows.groups:
        units = [("row", place) if group is None else group for place, group in enumerate(rows.groups)]
    problems = []
    size = len(set(units)) if rows.groups else len(rows)
    if size < folds:
        allowed = f"2 to {size}, the {unit} of {rows.name}"
        problems.append(Problem(f"{key}.folds", folds, allowed, "Take fewer folds."))
    elif not isinstance(rows.strata[0], float):
        shown = ((name, place) for place, label in zip(units, rows.strata, strict=True) for name in _names(label))
        counts = Counter(name for name, _ in (dict.fromkeys(shown) if rows.groups else shown))
        rarest, least = min(counts.items(), key=lambda item: item[1], default=("", folds))
        if least < folds:
            allowed = f"at most {least}, the {unit} with {rarest}, so that every fold has some"
            fewer = "Take fewer folds, or join" if least > 1 else "Join"
            action = f"{fewer} rare classes with {key}.label_map, or leave their rows out."
            problems.append(Problem(f"{key}.folds", folds, allowed, action))
    if problems:
        raise UserError(problems)


def _names(label: Any) -> Iterable[str]:
    """The classes of a row."""
    return (label,) if isinstance(label, str) else label


def _places(rows: Rows, folds: int, data_seed: int) -> np.ndarray:
    """The fold [n] of each row."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    classes, _ = strata(rows.strata, most=min(10, len(rows) // folds))
    groups = None
    if rows.groups:
        groups = [f"row {place}" if group is None else f"group {group}" for place, group in enumerate(rows.groups)]
    kind = StratifiedGroupKFold if groups else StratifiedKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=data_seed)
    places = np.empty(len(rows), dtype=np.int64)
    with warnings.catch_warnings():
        # Of several labels a row, those without any may be fewer than the folds.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, test) in enumerate(splitter.split(np.zeros(len(rows)), classes, groups)):
            places[test] = fold
    return places
