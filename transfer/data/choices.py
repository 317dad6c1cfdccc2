"""Which of several columns holds the right answer, however the label column says it."""

from __future__ import annotations

import string
from typing import Any

from transfer import config
from transfer.data.columns import Rows, first
from transfer.errors import Problem


def read(made: Rows, data: config.Data, key: str, problems: list[Problem]) -> list[str | None]:
    """The column of the right answer of each row, None without a label; what is wrong goes to ``problems``.

    A label is the column itself, the place of the answer from 0, its letter, or its text: the first of these that all
    labels of a split can be. `label_map` comes before.
    """
    columns, rows = list(data.columns.choices), made.inputs.get("choices")
    if rows is None or len(columns) < 2:
        allowed = "the columns with the answers to choose from, at least two"
        problems.append(Problem(f"{key}.columns.choices", columns, allowed, f"'{key}.columns.choices=[a,b]'"))
        return [None] * len(made)
    labels = [
        data.label_map.get(label, label) if (label := _text(value)) is not None else None for value in made.labels
    ]
    letters = string.ascii_uppercase[: len(columns)]
    forms = [
        [_place(columns, label) for label in labels],
        [_place([str(place) for place in range(len(columns))], label) for label in labels],
        [_place(list(letters), None if label is None else label.upper()) for label in labels],
        [_place([choice.strip() for choice in row], label) for row, label in zip(rows, labels, strict=True)],
    ]
    unread = [
        [number for number, label, place in zip(made.numbers, labels, form, strict=True) if label and place is None]
        for form in forms
    ]
    best = min(range(len(forms)), key=lambda form: len(unread[form]))
    if unread[best]:
        sample = labels[made.numbers.tolist().index(unread[best][0])]
        received = f"{data.columns.label}: {len(unread[best])} of {len(made)} rows are not ({first(unread[best])} of "
        received += f"{made.name}, such as {sample!r})"
        allowed = (
            f"one of {', '.join(columns)}; or 0 to {len(columns) - 1}; or A to {letters[-1]}; or a text of the row"
        )
        action = f"Mend these rows, or name the columns with {key}.label_map, such as {{'1': {columns[0]}}}."
        problems.append(Problem(f"{key}.columns.label", received, allowed, action))
    return [None if place is None else columns[place] for place in forms[best]]


def _text(value: Any) -> str | None:
    if value is None or value == "" or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _place(names: list[str], label: str | None) -> int | None:
    """Where the label stands among the names, None where it does not or does so twice."""
    return names.index(label) if label is not None and names.count(label) == 1 else None
