"""Metrics of a whole test set that are made of numbers a row: entity F1, perplexity, BLEU.

`predictions.parquet` has them as the columns "METRIC:num" and "METRIC:den", of which the metric is the ratio of the
sums (or a function of it, `LINKS`), or as "METRIC:0", "METRIC:1", ... of whose sums it is a function (`FORMULAS`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Sums [B, k] -> metric [B].
Formula = Callable[[Array], Array]

# Of which the predictions know nothing, so that they need not be read.
UNKNOWN = frozenset({"loss"})
SEPARATOR = ":"
RATIO = ("num", "den")
_LARGEST = 700.0  # exp of more is no number


def columns(metric: str, names: Collection[str], suffix: str = "") -> list[str]:
    """Those among the columns ``names`` that make up the metric, in their order; none where there are none.

    ``suffix``: whose they are, such as "_equal_steps"; nothing for the run's own.
    """
    ratio = [f"{metric}{SEPARATOR}{part}{suffix}" for part in RATIO]
    if all(name in names for name in ratio):
        return ratio
    numbered: list[str] = []
    while (name := f"{metric}{SEPARATOR}{len(numbered)}{suffix}") in names:
        numbered.append(name)
    return numbered if metric in FORMULAS else []


def is_terms(column: NDArray[np.generic]) -> bool:
    """Whether a column of predictions is terms [n, k] and not answers [n]; label sets are boolean."""
    return column.ndim == 2 and column.dtype.kind == "f"


def weighted(metric: str, terms: Array, weights: Array) -> Array:
    """The metric [B] of terms [n, k] under each of the weightings [B, n]."""
    return of_sums(metric, weights @ terms)


def of_sums(metric: str, sums: Array) -> Array:
    """The metric [B] of sums of terms [B, k]; a ratio with 0 below counts as 0."""
    if sums.shape[1] != len(RATIO):
        return FORMULAS[metric](sums)
    ratio = _ratio(sums[:, 0], sums[:, 1])
    return LINKS[metric](ratio) if metric in LINKS else ratio


def value_and_influence(metric: str, terms: Array) -> tuple[float, Array]:
    """The metric of n rows, and the influence [n] of each (`transfer.study.influence`), through its slopes."""
    sums = terms.sum(axis=0)
    value = float(of_sums(metric, sums[None])[0])
    # A sum of 0 has no row that could move it.
    steps = 1e-4 * np.abs(sums)
    moved = sums + np.concatenate([np.diag(steps), -np.diag(steps)])
    values = of_sums(metric, moved)
    slopes = _ratio(values[: len(sums)] - values[len(sums) :], 2 * steps)
    influence = len(terms) * (terms @ slopes)
    return value, influence - influence.mean()


def quality(metric: str, terms: Array, higher_is_better: bool) -> tuple[Array, bool]:
    """How good each row is by itself [n], more being better, and whether 1 is as good as it gets.

    A row that asks for nothing and gets nothing (a sentence without entities) is right.
    """
    alone = of_sums(metric, terms)
    if terms.shape[1] == len(RATIO) and metric not in LINKS:
        alone = np.where(terms[:, 1] > 0, alone, 1.0 if higher_is_better else 0.0)
        if higher_is_better and (alone <= 1).all():
            return alone, True
    return (alone if higher_is_better else -alone), False


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def _macro_f1(sums: Array) -> Array:
    """Mean F1 of the classes that occur or are answered; sums: hits of each class, then labels, then answers."""
    hits, labels, answers = np.split(sums, 3, axis=1)
    seen = labels + answers > 0
    return _ratio(_ratio(2 * hits, labels + answers).sum(axis=1), seen.sum(axis=1).astype(float))


def _bleu(sums: Array) -> Array:
    """BLEU of 0 to 100 (Papineni et al. 2002) from the lengths of answer and reference, 4 matches and 4 totals.

    As sacrebleu has it: the first order without a match counts half a match, the next a quarter and so on (Chen and
    Cherry 2014, method 3); without any match, or without any n-gram of an order, it is 0.
    """
    length, reference, matches, totals = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    there = np.cumprod(totals > 0, axis=1).astype(bool)
    missing = (matches <= 0) & there
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=1), matches)
    precisions = np.where(there, _ratio(smoothed, totals), 0.0)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(precisions).mean(axis=1))
    # Of nothing, the length makes up for nothing.
    penalty = np.exp(
        np.minimum(0.0, 1 - np.divide(reference, length, out=np.full(len(sums), np.inf), where=length > 0))
    )
    return np.where(matches.any(axis=1), 100 * penalty * mean, 0.0)


def _chrf(sums: Array, beta: float = 2.0) -> Array:
    """chrF of 0 to 100 (Popović 2015) from n-grams of the answers, of the references, and matches, order by order.

    As sacrebleu has it: mean precision and recall over the orders that both sides have.
    """
    answers, references, matches = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    there = (answers > 0) & (references > 0)
    number = there.sum(axis=1).astype(float)
    precision = _ratio((_ratio(matches, answers) * there).sum(axis=1), number)
    recall = _ratio((_ratio(matches, references) * there).sum(axis=1), number)
    return 100 * _ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def _exp(ratio: Array) -> Array:
    return np.asarray(np.exp(np.minimum(ratio, _LARGEST)))


# Metric -> what it is of the ratio; of all others it is the ratio itself.
LINKS: dict[str, Callable[[Array], Array]] = {"perplexity": _exp}
FORMULAS: dict[str, Formula] = {"f1": _macro_f1, "bleu": _bleu, "chrf": _chrf}
