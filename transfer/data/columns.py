"""The user's columns as canonical rows: id, inputs (such as text), label, group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from transfer import config
from transfer.data.formats import Table
from transfer.data.stored import Numbered, Stored
from transfer.errors import Problem, UserError, nearest


@dataclass
class Rows:
    """The rows of one split. `labels` are raw until `transfer.data.labels` has been over them.

    `name` says in messages where the rows are from; `numbers` are their places there, from 1. `inputs` has a column for
    each canonical one: a list, or what lies on disk. `strata` are the labels as far as rows can be stratified by them.
    """

    name: str
    numbers: np.ndarray
    ids: Sequence[str]
    labels: Sequence[Any]
    inputs: dict[str, Sequence[Any]]
    groups: list[str | None] | None = None
    strata: Sequence[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: np.ndarray) -> Rows:
        """Only the rows in these places, which ascend."""

        def of(values: Sequence[Any]) -> Any:
            return (
                values.take(chosen) if isinstance(values, Stored | Numbered) else [values[i] for i in chosen.tolist()]
            )

        inputs = {name: of(values) for name, values in self.inputs.items()}
        groups = None if self.groups is None else of(self.groups)
        labels = of(self.labels)
        strata = labels if self.strata is self.labels else of(self.strata) if self.strata else []
        return Rows(self.name, self.numbers[chosen], of(self.ids), labels, inputs, groups, strata)


def canonical(
    tables: dict[str, Table], columns: config.Columns, names: dict[str, str], *, key: str, local: bool, notes: list[str]
) -> dict[str, Rows]:
    """Split -> its rows. ``names`` has, for each split, what messages call it; what was noticed is added to ``notes``.

    Raises:
        UserError: missing columns, all of them at once; else missing or wrong values, all columns at once.
    """
    columns = existing(tables, columns, names, key=key, local=local)
    problems: list[Problem] = []
    rows = {}
    for split, table in tables.items():
        size = len(next(iter(table.values())))
        labels = table.get(columns.label, [None] * size) if columns.label is not None else [None] * size
        numbers = np.arange(1, size + 1)
        # the running number is the row's place in the file: it stays the same whatever rows are dropped
        made = Rows(names[split], numbers, Numbered(split, numbers), labels, {})
        if columns.id is not None:
            made.ids = _ids(table[columns.id], columns.id, names[split], key, problems)
        made.inputs = _inputs(table, columns, names[split], key, problems, notes)
        if columns.group is not None and columns.group in table:
            made.groups = [None if value in (None, "") else str(value) for value in table[columns.group]]
        rows[split] = made
    if problems:
        raise UserError(problems)
    if columns.id is not None and repeated(*(made.ids for made in rows.values())):
        # an id column often starts anew in each file
        for split, made in rows.items():
            made.ids = each(made.ids, f"{split}-{{}}".format)
    return rows


def _inputs(
    table: Table, columns: config.Columns, name: str, key: str, problems: list[Problem], notes: list[str]
) -> dict[str, Sequence[Any]]:
    if columns.features:
        return {"features": _features(table, columns.features, name, key, problems)}
    if columns.tokens is not None:
        return {"tokens": _lists_of_words(table[columns.tokens], columns.tokens, name, key, problems)}
    if columns.image is not None:
        return {"image": table[columns.image]}
    assert columns.text is not None

    def strings(field: str, column: str) -> Sequence[str]:
        return _strings(table[column], field, column, name, key, problems, notes)

    inputs: dict[str, Sequence[Any]] = {"text": strings("text", columns.text)}
    if columns.text_pair is not None:
        inputs["text_pair"] = strings("text_pair", columns.text_pair)
    if columns.choices:
        choices = [strings("choices", column) for column in columns.choices]
        inputs["choices"] = [list(row) for row in zip(*choices, strict=False)]
    return inputs


def _lists_of_words(
    values: Sequence[Any], column: str, name: str, key: str, problems: list[Problem]
) -> Sequence[list[str]]:
    wrong = [
        place
        for place, value in enumerate(values, start=1)
        if not (isinstance(value, list) and value and all(isinstance(word, str) for word in value))
    ]
    if wrong:
        received = f"{column}: {len(wrong)} of {len(values)} are not ({first(wrong)} of {name})"
        action = "Give a column of lists, or a CoNLL file (a word and its tag a line, a blank line after a sentence)."
        problems.append(Problem(f"{key}.columns.tokens", received, "a list of words in every row", action))
    return values


def first(numbers: Sequence[int], *, limit: int = 5) -> str:
    """``rows 3, 17, 40, ...`` for a message."""
    shown = ", ".join(map(str, numbers[:limit])) + (", ..." if len(numbers) > limit else "")
    return f"row {shown}" if len(numbers) == 1 else f"rows {shown}"


def existing(
    tables: dict[str, Table], columns: config.Columns, names: dict[str, str], *, key: str, local: bool
) -> config.Columns:
    """The columns as they are called in these files; all that do not exist are raised at once."""
    replaced = bool(columns.features or columns.tokens or columns.image)
    if columns.text is None and not replaced:
        action = f"Set {key}.columns.text to the column with the text, or {key}.columns.features to numeric columns."
        raise UserError(Problem(f"{key}.columns.text", "null", ", ".join(tables["train"]), action))
    if local:
        # the local copy of a hub set has the plain names, whatever they are on the hub
        for kind, plain in (("text", ("text", "source")), ("label", ("label", "target"))):
            there = next((name for name in plain if name in tables["train"]), None)
            if getattr(columns, kind) not in (None, *tables["train"]) and there:
                columns = replace(columns, text=there) if kind == "text" else replace(columns, label=there)
    wanted: list[tuple[str, str | None]] = [("label", columns.label), ("id", columns.id), ("group", columns.group)]
    if columns.features:
        wanted += [("features", name) for name in columns.features]
    elif columns.tokens or columns.image:
        wanted.append(("tokens", columns.tokens) if columns.tokens else ("image", columns.image))
    else:
        wanted += [("text", columns.text), ("text_pair", columns.text_pair)]
        wanted += [("choices", name) for name in columns.choices]
    problems = []
    for kind, name in wanted:
        if name is None:
            continue
        lacking = [split for split, table in tables.items() if name not in table]
        if kind == "label" and lacking == ["test"]:
            continue  # an unlabelled test split, which is dealt with later
        if kind == "group" and "train" not in lacking:
            continue  # only drawn splits need groups
        if lacking:
            existing = list(tables[lacking[0]])
            received = f"{name}, not in {' or '.join(names[split] for split in lacking)}"
            problems.append(Problem(f"{key}.columns.{kind}", received, ", ".join(existing), _advice(name, existing)))
    if problems:
        raise UserError(problems)
    return columns


def _advice(wanted: str, existing: list[str]) -> str:
    folded = {name.casefold(): name for name in existing}
    guess = nearest(wanted.casefold(), list(folded))
    return f"Did you mean {folded[guess]}?" if guess else "Set it to the column that is meant."


def _strings(
    values: Sequence[Any], field: str, column: str, name: str, key: str, problems: list[Problem], notes: list[str]
) -> Sequence[str]:
    wrong = [number for number, value in enumerate(values, start=1) if not isinstance(value, str)]
    if wrong:
        nulls = sum(values[number - 1] is None for number in wrong)
        kinds = [f"{nulls} without a value"] if nulls else []
        if len(wrong) > nulls:
            kind = next(type(values[n - 1]).__name__ for n in wrong if values[n - 1] is not None)
            kinds.append(f"{len(wrong) - nulls} of type {kind}")
        received = f"{column}: {', '.join(kinds)} among {len(values)} rows ({first(wrong)} of {name})"
        action = "Remove or fill these rows, or name another column; an empty string is allowed."
        problems.append(Problem(f"{key}.columns.{field}", received, "a string in every row", action))
        return []
    if empty := sum(not value.strip() for value in values):
        notes.append(f"{key}: {empty} of {len(values)} rows of {name} have an empty {column}; they were kept")
    return values


def each(values: Sequence[Any], made: Callable[[Any], Any]) -> Sequence[Any]:
    """This of every value; of what lies on disk, whenever it is read."""
    return values.map(made) if isinstance(values, Stored) else [made(value) for value in values]


def repeated(*columns: Sequence[str]) -> list[str]:
    """What is in these columns more than once. There may be too many values for a set of them."""
    hashes = np.fromiter(map(hash, chain(*columns)), np.int64, sum(map(len, columns)))
    hashes.sort()
    alike = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    counted = Counter(value for value in chain(*columns) if hash(value) in alike) if alike else {}
    return [value for value, count in counted.items() if count > 1]


def _ids(values: Sequence[Any], column: str, name: str, key: str, problems: list[Problem]) -> Sequence[str]:
    missing = [number for number, value in enumerate(values, start=1) if value in (None, "")]
    ids = each(values, str)
    twice = repeated(ids)
    if missing or twice:
        what = f"{len(missing)} rows without one ({first(missing)})" if missing else f"{len(twice)} used more than once"
        shown = "" if missing else f" ({', '.join(twice[:3])})"
        action = f"Name another column, or set {key}.columns.id=null: the rows are then numbered."
        problems.append(
            Problem(f"{key}.columns.id", f"{column}: {what}{shown} in {name}", "a different id in every row", action)
        )
    return ids


def number(value: Any) -> float | None:
    """``value`` as a finite float, or None."""
    try:
        made = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return made if math.isfinite(made) else None


def _features(table: Table, columns: list[str], name: str, key: str, problems: list[Problem]) -> list[list[float]]:
    made = []
    for column in columns:
        values = [number(value) for value in table[column]]
        wrong = [place for place, value in enumerate(values, start=1) if value is None]
        if wrong:
            received = f"{column}: {len(wrong)} of {len(values)} are not ({first(wrong)} of {name}, "
            received += f"such as {table[column][wrong[0] - 1]!r})"
            action = "Remove or fill these rows, or leave the column out."
            problems.append(Problem(f"{key}.columns.features", received, "finite numbers", action))
        made.append(values)
    return [list(row) for row in zip(*made, strict=True)]  # type: ignore[arg-type]
