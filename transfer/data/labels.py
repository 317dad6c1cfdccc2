"""The values of the label column as class names, lists of them, or numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from transfer import config
from transfer.data import structured
from transfer.data.columns import Rows, first, number
from transfer.errors import Problem, UserError, nearest


def read_labels(
    rows: dict[str, Rows], data: config.Data, *, key: str, problem_type: str, notes: list[str]
) -> dict[str, Rows]:
    """The same splits with labels of the problem type; rows without a label and unlabelled splits are gone.

    `label_map` is applied here. What was dropped is added to ``notes``.

    Raises:
        UserError: labels that are not of the problem type, in any split.
    """
    rows = dict(rows)
    if (
        problem_type != "none"
        and "test" in rows
        and _unlabelled(rows["test"].labels, rows["train"].labels, problem_type)
    ):
        substitute = rows.get("validation")
        used = "its validation split is used as the test split" if substitute else "one is drawn from the training rows"
        notes.append(f"{key}: {rows.pop('test').name} has no labels, so {used}")
        if substitute:
            rows["test"] = rows.pop("validation")
    problems: list[Problem] = []
    if problem_type == "regression":
        for field, value in (("labels", data.labels), ("label_map", data.label_map)):
            if value:
                action = f"Remove it, or choose another column with {key}.columns.label."
                problems.append(Problem(f"{key}.{field}", value, "nothing: a regression has no classes", action))
        for made in rows.values():
            made.labels = _numbers(made, data.columns.label, key, problems)
    elif problem_type in structured.KINDS:
        for made in rows.values():
            made.labels = structured.read(made, data, key, problem_type, problems)
    else:
        for made in rows.values():
            if problem_type == "multi_label":
                made.labels = _lists(made, data, key, problems)
            else:
                made.labels = _names(made, data, key, problems)
    if problems:
        raise UserError(problems)
    for split, made in list(rows.items()):
        kept = np.flatnonzero(np.fromiter((label is not None for label in made.labels), bool, len(made)))
        if len(kept) < len(made):
            dropped, kind = len(made) - len(kept), "valid label" if data.drop_invalid else "label"
            notes.append(f"{key}: {dropped} of {len(made)} rows of {made.name} have no {kind}; they were dropped")
            rows[split] = made.take(kept)
        if not len(kept) and split == "train":
            received = f"{data.columns.label}: no label in {made.name}"
            action = "Name the column with the labels."
            raise UserError(Problem(f"{key}.columns.label", received, "a label in most rows", action))
        if not len(kept):
            del rows[split]
    if problem_type in ("single_label", "multi_label"):
        _map_labels(rows, data, key)
    for made in rows.values():
        plain = problem_type not in structured.KINDS
        made.strata = made.labels if plain else structured.strata(made.labels, problem_type)
    return rows


def class_names(
    rows: dict[str, Rows], data: config.Data, *, key: str, problem_type: str, notes: list[str]
) -> list[str]:
    """The classes in their order: `data.labels`, or else those of the training rows, sorted. None for a regression.

    Raises:
        UserError: fewer than two classes or values; a class of another split, or not in `data.labels`, that
            the training rows lack.
    """
    if problem_type in structured.KINDS:
        if problem_type == "choice":
            return list(data.columns.choices)
        return structured.tag_names(rows, data, key=key) if problem_type == "tags" else []
    column = f"{key}.columns.label"
    train = rows["train"]
    if problem_type == "regression":
        if len(set(train.labels)) < 2:
            action = "Name the column with the target values."
            raise UserError(Problem(column, f"{train.labels[0]} in every row of {train.name}", "two values", action))
        return []
    counts = {split: _count(made.labels) for split, made in rows.items()}
    found = sorted(counts["train"])
    needed = 1 if problem_type == "multi_label" else 2
    if len(found) < needed:
        received = f"{data.columns.label}: {'only ' + found[0] if found else 'no class'}"
        action = "Name the column with the labels; a file sorted by label and cut short also looks like this."
        raise UserError(Problem(column, f"{received} in {train.name}", f"at least {needed} classes", action))
    problems = []
    for split, counted in counts.items():
        unknown = {name: count for name, count in sorted(counted.items()) if name not in counts["train"]}
        if unknown:
            listed = ", ".join(f"{name} ({count} rows)" for name, count in list(unknown.items())[:5])
            guess = nearest(next(iter(unknown)), found)
            action = f"Join spellings with {key}.label_map" + (f" ({guess}?)" if guess else "") + ", or mend the split."
            received = f"{listed}: in {rows[split].name} ({split}), but in no training row"
            problems.append(Problem(column, received, _shown(found), action))
    outside = [name for name in found if data.labels and name not in data.labels]
    if outside:
        received = f"{_shown(list(data.labels))}, without {_shown(outside)} of {train.name}"
        action = f"Add what is missing, or rename it with {key}.label_map."
        problems.append(Problem(f"{key}.labels", received, "every class of the training rows", action))
    if problems:
        raise UserError(problems)
    names = list(data.labels) or found
    if absent := [name for name in names if name not in counts["train"]]:
        notes.append(f"{key}: no training row has the label {_shown(absent)} of {key}.labels")
    folded = Counter(name.strip().casefold() for name in found)
    if alike := [name for name in found if folded[name.strip().casefold()] > 1]:
        notes.append(f"{key}: the classes {_shown(alike)} differ only in case or spaces; {key}.label_map can join them")
    return names


def _unlabelled(test: Sequence[Any], train: Sequence[Any], problem_type: str) -> bool:
    """-1 is the usual mark of a withheld label, unless the training rows have it as a class."""
    marks: set[Any] = {None, ""}
    marked = problem_type in ("single_label", "regression", "choice")
    if marked and not any(value in (-1, "-1") for value in train if not isinstance(value, list)):
        marks |= {-1, "-1"}
    return all(not isinstance(value, list | dict) and value in marks for value in test)


def _names(made: Rows, data: config.Data, key: str, problems: list[Problem]) -> list[str | None]:
    wrong = [place for place, value in zip(made.numbers, made.labels, strict=True) if isinstance(value, list | dict)]
    if wrong:
        received = f"{data.columns.label}: {len(wrong)} lists ({first(wrong)} of {made.name})"
        action = "For several labels a row, set the task's multi_label=true."
        problems.append(Problem(f"{key}.columns.label", received, "one label a row", action))
    # each name once, however many rows have it
    once: dict[str | None, str | None] = {}
    return [once.setdefault(name, name) for name in map(name_of, made.labels)]


def name_of(value: Any) -> str | None:
    """The class that a value of a label column names; None where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    # a whole number that was stored as a float, as happens to integer columns with gaps
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _lists(made: Rows, data: config.Data, key: str, problems: list[Problem]) -> list[list[str] | None]:
    """None stays None (no answer); an empty list or string is a row to which no class applies."""
    separator = data.label_separator
    text = next((value for value in made.labels if not isinstance(value, list) and value not in (None, "")), None)
    if text is not None and not separator:
        received = f"null, and {data.columns.label} of {made.name} holds text such as {text!r}"
        action = f"Set {key}.label_separator to the character between two labels."
        problems.append(Problem(f"{key}.label_separator", received, "a separator, or a column of lists", action))
        return [None] * len(made)
    labels: list[list[str] | None] = []
    once: dict[tuple[str, ...], list[str]] = {}  # the same classes are the same list
    for value in made.labels:
        if value is None:
            labels.append(None)
            continue
        parts = value if isinstance(value, list) else str(value).split(separator) if value != "" else []
        names = [name_of(part.strip() if isinstance(part, str) else part) for part in parts]
        classes = sorted({name for name in names if name is not None})
        labels.append(once.setdefault(tuple(classes), classes))
    return labels


def _numbers(made: Rows, column: str | None, key: str, problems: list[Problem]) -> list[float | None]:
    values = [number(value) for value in made.labels]
    wrong = [index for index, value in enumerate(values) if value is None]
    if wrong:
        sample, places = made.labels[wrong[0]], first(made.numbers[wrong].tolist())
        received = f"{column}: {len(wrong)} of {len(made)} are not ({places} of {made.name}, such as {sample!r})"
        action = "Remove or fill these rows, or name the column with the numbers."
        problems.append(Problem(f"{key}.columns.label", received, "finite numbers", action))
    return values


def _map_labels(rows: dict[str, Rows], data: config.Data, key: str) -> None:
    if not data.label_map:
        return
    before = sorted(set().union(*(_count(made.labels) for made in rows.values())))
    unused = [name for name in data.label_map if name not in before]
    if unused:
        guess = nearest(unused[0], before)
        action = f"Did you mean {guess}?" if guess else "Remove the entry."
        raise UserError(Problem(f"{key}.label_map", f"{_shown(unused)}: no such label", _shown(before), action))
    for made in rows.values():
        if made.labels and isinstance(made.labels[0], list):
            made.labels = [sorted({data.label_map.get(name, name) for name in names}) for names in made.labels]
        else:
            made.labels = [data.label_map.get(name, name) for name in made.labels]


def _count(labels: Sequence[Any]) -> Counter[str]:
    return Counter(chain.from_iterable(label if isinstance(label, list) else (label,) for label in labels))


def _shown(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
