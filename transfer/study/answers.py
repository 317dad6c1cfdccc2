"""What the arms answer: class by class, mixed-up classes, and the examples that transfer fixed and broke."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.study.pairing import Side
from transfer.study.results import Comparison, Contrast, Row
from transfer.study.statistics import Spread, aligned, spread
from transfer.study.weighted_metrics import Array

MOST_CLASSES = 12
MOST_EXAMPLES = 8
_PER_CLASS = ("f1", "recall", "precision")


@dataclass(frozen=True)
class ClassScore:
    """A strategy's metric on one class over its seeds, and its gain over scratch paired by seed (nan without)."""

    budget_labels: int
    label: str
    name: str
    score: Spread
    gain: float


@dataclass(frozen=True)
class Confusion:
    """Test examples of each class (rows) by the answer (columns), summed over the seeds."""

    classes: tuple[str, ...]
    counts: Array
    num_seeds: int

    @property
    def worst(self) -> list[tuple[str, str, int]]:
        """Class, wrong answer and count, the most frequent first."""
        wrong = [
            (self.classes[i], self.classes[j], int(count))
            for (i, j), count in np.ndenumerate(self.counts)
            if i != j and count
        ]
        return sorted(wrong, key=lambda item: -item[2])


@dataclass(frozen=True)
class Example:
    """A test example with the answers of both arms, a seed each; ``text`` is empty where the run kept none."""

    id: str
    text: str
    label: str
    treated: tuple[str, ...]
    control: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """Examples that most seeds of the control get wrong and most of the treated right, and the other way round.

    For numbers: where the mean error falls, and where it grows. The lists hold the clearest of each.
    """

    num_fixed: int
    num_broken: int
    num_test: int
    fixed: list[Example]
    broken: list[Example]


def class_metric(comparison: Comparison) -> str | None:
    """The metric that was recorded class by class, the compared one if it was; None without."""
    names = {
        name.split("/")[1]
        for row in comparison.rows
        for side in row.sides
        for name in side.run.record.get("metrics") or {}
        if name.startswith("test/") and name.count("/") >= 2
    }
    wanted = [comparison.metric.removesuffix("_macro"), *_PER_CLASS]
    return next((name for name in wanted if name in names), None)


def per_class(comparison: Comparison, metric: str) -> list[ClassScore]:
    """Every class of every row, with its gain over the first scratch twin."""
    found = []
    for row in comparison.rows:
        contrast = row.over_scratch[0] if row.over_scratch else None
        for name in _classes(row, metric):
            values = [v for side in row.sides if (v := side.value(f"{metric}/{name}")) is not None]
            gains = [] if contrast is None else _class_gains(contrast, f"{metric}/{name}")
            mean = sum(gains) / len(gains) if gains else math.nan
            found.append(ClassScore(row.num_labels, row.label, name, spread(values), mean))
    return found


def _classes(row: Row, metric: str) -> list[str]:
    prefix = f"{row.sides[0].prefix}/{metric}/" if row.sides else ""
    metrics = row.sides[0].run.record.get("metrics") or {} if row.sides else {}
    return [
        name.removeprefix(prefix)
        for name in metrics
        if name.startswith(prefix) and row.sides[0].run.metric(name) is not None
    ]


def _class_gains(contrast: Contrast, name: str) -> list[float]:
    both = [(t.value(name), c.value(name)) for t, c in zip(contrast.treated, contrast.control, strict=True)]
    return [treated - control for treated, control in both if treated is not None and control is not None]


def confusion(sides: Sequence[Side]) -> Confusion | None:
    """Of classifiers with one label an example that kept their predictions; None for anything else."""
    tables = [(side.run.predictions, side.answers()) for side in sides]
    columns = [(found.labels, answers) for found, answers in tables if found is not None and answers is not None]
    if not columns or any(column.dtype.kind != "U" for pair in columns for column in pair):
        return None
    classes, codes = np.unique(np.concatenate([c for pair in columns for c in pair]), return_inverse=True)
    size, counts, start = len(classes), np.zeros(len(classes) ** 2, dtype=int), 0
    for labels, _ in columns:
        n = len(labels)
        counts += np.bincount(codes[start : start + n] * size + codes[start + n : start + 2 * n], minlength=size**2)
        start += 2 * n
    return Confusion(tuple(classes.tolist()), counts.reshape(size, size), len(columns))


def changed(contrast: Contrast) -> Changed | None:
    """Which examples the treated arm fixed and broke; None where a run kept no predictions."""
    both = _by_seed(contrast.treated), _by_seed(contrast.control)
    if not all(both):
        return None
    first = both[0][0]
    treated, control = (_in_order(arm, first.ids) for arm in both)
    if treated is None or control is None:
        return None  # seeds with other test examples
    ours, theirs = ([_quality(first.labels, answers) for answers in arm] for arm in (treated, control))
    gain = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    if first.labels.dtype.kind == "f":
        fixed, broken = gain > 0, gain < 0
    else:
        now, before = np.mean(ours, axis=0), np.mean(theirs, axis=0)
        fixed, broken = (now > 0.5) & (before < 0.5), (now < 0.5) & (before > 0.5)

    def shown(chosen: Array, sign: int) -> list[Example]:
        order = np.flatnonzero(chosen)
        order = order[np.argsort(-sign * gain[order], kind="stable")][:MOST_EXAMPLES]
        return [
            Example(
                str(first.ids[i]),
                "" if first.texts is None else str(first.texts[i]),
                _words(first.labels[i]),
                tuple(_words(answers[i]) for answers in treated),
                tuple(_words(answers[i]) for answers in control),
            )
            for i in order
        ]

    return Changed(int(fixed.sum()), int(broken.sum()), len(first.ids), shown(fixed, 1), shown(broken, -1))


@dataclass(frozen=True)
class _Answers:
    """What one seed answered [n], on the test examples of all its folds; ``texts`` None where a run kept none."""

    ids: Array
    labels: Array
    answers: Array
    texts: Array | None


def _by_seed(sides: Sequence[Side]) -> list[_Answers]:
    """Nothing where a run kept no predictions."""
    parts: dict[Any, list[_Answers]] = {}
    for side in sides:
        answers, own = side.answers(), side.run.predictions
        if answers is None or own is None:
            return []
        texts = own.column("text") if "text" in own.names else None
        parts.setdefault(side.run.seeds, []).append(_Answers(own.ids, own.labels, answers, texts))
    return [found[0] if len(found) == 1 else _joined(found) for found in parts.values()]


def _joined(folds: Sequence[_Answers]) -> _Answers:
    texts = [fold.texts for fold in folds if fold.texts is not None]
    ids, labels, answers = (
        np.concatenate([getattr(fold, name) for fold in folds]) for name in ("ids", "labels", "answers")
    )
    return _Answers(ids, labels, answers, np.concatenate(texts) if len(texts) == len(folds) else None)


def _in_order(seeds: Sequence[_Answers], ids: Array) -> list[Array] | None:
    if any(not np.array_equal(np.sort(seed.ids), np.sort(ids)) for seed in seeds):
        return None
    return [aligned(seed.answers, seed.ids, ids) for seed in seeds]


def _quality(labels: Array, answers: Array) -> Array:
    """1 for a right answer and 0 for a wrong one; for numbers the negative error."""
    if labels.dtype.kind == "f":
        return -np.abs(labels - answers)
    if labels.dtype == object:
        return np.array([float(set(a) == set(b)) for a, b in zip(labels, answers, strict=True)])
    return (labels == answers).astype(float)


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(sorted(value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
