"""What the arms answer: class by class, mixed-up classes, and the examples that transfer fixed and broke."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer.study import terms
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

    Where answers are more or less good and not right or wrong (``graded``): those that are better on the mean of the
    seeds, and those that are worse. The lists hold the clearest of each.
    """

    num_fixed: int
    num_broken: int
    num_test: int
    fixed: list[Example]
    broken: list[Example]
    graded: bool


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


def changed(contrast: Contrast, metric: str, higher_is_better: bool = True) -> Changed | None:
    """Which examples the treated arm fixed and broke; None where a run kept no predictions.

    By the metric's terms where it has them: a row with a perfect ratio is right.
    """
    both = _by_seed(contrast.treated, metric), _by_seed(contrast.control, metric)
    if not all(both):
        return None
    first = both[0][0]
    treated, control = (_in_order(arm, first.ids) for arm in both)
    if treated is None or control is None:
        return None  # seeds with other test examples
    ours, theirs = (
        [_quality(first, answers, metric, higher_is_better) for answers in arm] for arm in (treated, control)
    )
    before, now = (np.mean([values for values, _ in arm], axis=0) for arm in (theirs, ours))
    gain = now - before
    fixed, broken = gain > 0, gain < 0
    graded = not all(has_best for _, has_best in (*ours, *theirs))
    if not graded:
        before, now = (np.mean([values >= 1 for values, _ in arm], axis=0) for arm in (theirs, ours))
        fixed, broken = (now > 0.5) & (before < 0.5), (now < 0.5) & (before > 0.5)

    def shown(chosen: Array, sign: int) -> list[Example]:
        order = np.flatnonzero(chosen)
        order = order[np.argsort(-sign * gain[order], kind="stable")][:MOST_EXAMPLES].tolist()
        return [
            Example(
                str(first.ids[i]),
                first.text(i),
                _words(first.labels[i], first, i),
                tuple(_words(seed.answers[i], first, i) for seed in treated),
                tuple(_words(seed.answers[i], first, i) for seed in control),
            )
            for i in order
        ]

    lists = shown(fixed, 1), shown(broken, -1)
    return Changed(int(fixed.sum()), int(broken.sum()), len(first.ids), *lists, graded=graded)


@dataclass(frozen=True)
class _Answers:
    """What one seed answered [n], on the test examples of all its folds; ``texts``, ``terms`` None if it kept none."""

    ids: Array
    labels: Array
    answers: Array
    texts: Array | None
    terms: Array | None

    def text(self, place: int) -> str:
        return "" if self.texts is None else str(self.texts[place])


def _by_seed(sides: Sequence[Side], metric: str) -> list[_Answers]:
    """Nothing where a run kept no predictions."""
    parts: dict[Any, list[_Answers]] = {}
    for side in sides:
        answers, own = side.answers(), side.run.predictions
        if answers is None or own is None:
            return []
        texts = own.column("text") if "text" in own.names else None
        found = _Answers(own.ids, own.labels, answers, texts, side.terms(metric))
        parts.setdefault(side.run.seeds, []).append(found)
    return [found[0] if len(found) == 1 else _joined(found) for found in parts.values()]


def _joined(folds: Sequence[_Answers]) -> _Answers:
    def all_of(name: str) -> Array | None:
        columns = [getattr(fold, name) for fold in folds]
        return None if any(column is None for column in columns) else np.concatenate(columns)

    ids, labels, answers = (np.concatenate([getattr(f, name) for f in folds]) for name in ("ids", "labels", "answers"))
    return _Answers(ids, labels, answers, all_of("texts"), all_of("terms"))


def _in_order(seeds: Sequence[_Answers], ids: Array) -> list[_Answers] | None:
    if any(not np.array_equal(np.sort(seed.ids), np.sort(ids)) for seed in seeds):
        return None
    return [
        replace(
            seed,
            answers=aligned(seed.answers, seed.ids, ids),
            terms=None if seed.terms is None else aligned(seed.terms, seed.ids, ids),
        )
        for seed in seeds
    ]


def _quality(first: _Answers, seed: _Answers, metric: str, higher_is_better: bool) -> tuple[Array, bool]:
    """How good each answer is [n], and whether 1 is right and less is wrong."""
    if seed.terms is not None:
        return terms.quality(metric, seed.terms, higher_is_better)
    labels, answers = first.labels, seed.answers
    if labels.dtype.kind == "f":
        return -np.abs(labels - answers), False
    if labels.dtype == object:
        return np.array([float(set(a) == set(b)) for a, b in zip(labels, answers, strict=True)]), True
    return (labels == answers).astype(float), True


def _words(value: object, example: _Answers, place: int) -> str:
    if isinstance(value, tuple):
        words = example.text(place).split(" ")  # fewer than tags where the text was kept cut
        if example.terms is not None and len(value) >= len(words):
            return _tagged(value, [*words, *["..."] * (len(value) - len(words))])
        return ", ".join(sorted(value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _tagged(tags: tuple[str, ...], words: list[str]) -> str:
    """``New York (LOC), Ann (PER)`` of IOB2 tags, ``the/DET end/NOUN`` of plain ones."""
    if any(tag != "O" and tag[:2] not in ("B-", "I-") for tag in tags):
        return " ".join(f"{word}/{tag or '?'}" for word, tag in zip(words, tags, strict=True))
    found: list[tuple[list[str], str]] = []
    for place, (word, tag) in enumerate(zip(words, tags, strict=True)):
        if found and tag == f"I-{found[-1][1]}" and tags[place - 1] != "O":
            found[-1][0].append(word)
        elif tag != "O":
            found.append(([word], tag[2:]))
    return ", ".join(f"{' '.join(phrase)} ({kind})" for phrase, kind in found) or "no entity"
