"""Numbers and names as they are written in sentences, tables and on axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transfer.study.statistics import Gain
from transfer.study.strategies import Budget

METRIC_WORDS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "precision": "precision",
    "precision_macro": "macro precision",
    "recall": "recall",
    "recall_macro": "macro recall",
    "mcc": "MCC",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "exact_match": "exact match",
    "bleu": "BLEU",
    "chrf": "chrF",
}
_PERCENT = frozenset(
    {"accuracy", "f1", "f1_macro", "f1_micro", "precision", "precision_macro", "recall", "recall_macro", "exact_match"}
)
FLOOR_WORDS = {"majority": "majority class", "mean": "mean", "tfidf": "TF-IDF", "linear": "linear"}


def metric_words(metric: str) -> str:
    """The metric as it is written in a sentence or on an axis."""
    return METRIC_WORDS.get(metric, metric)


def is_percent(metric: str) -> bool:
    """Whether the metric is a share, shown in percent, its differences in points."""
    return metric in _PERCENT


def number(value: float, metric: str, signed: bool = False) -> str:
    """A value or difference of the metric in the unit it is shown in, without the unit."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.1f}" if is_percent(metric) else f"{value:{sign}.3g}"
    return text.replace("-0.0", "0.0") if float(text) == 0 else text


def score_words(value: float, metric: str) -> str:
    """A level: ``81.2 %`` or ``0.312``."""
    return number(value, metric) + (" %" if is_percent(metric) else "")


def interval_words(gain: Gain, metric: str) -> str:
    """``22.0 to 32.2``, or that there is none."""
    if not math.isfinite(gain.standard_error):
        return "no interval"
    return f"{number(gain.low, metric)} to {number(gain.high, metric)}"


def budget_words(budget: Budget, num_labels: int) -> str:
    """``100 labels`` or ``all 1,200 labels``."""
    return f"all {num_labels:,} labels" if budget.train_size is None else f"{num_labels:,} labels"


def floor_words(name: str) -> str:
    """``TF-IDF floor``."""
    return f"{FLOOR_WORDS.get(name, name)} floor"


def listed(words: Sequence[str], conjunction: str = "and") -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def size_words(value: float, metric: str, signed: bool = False) -> str:
    """An absolute difference with its unit, or a signed one (positive: better)."""
    text = number(value if signed else abs(value), metric, signed)
    unit = f"points of {metric_words(metric)}" if is_percent(metric) else f"in {metric_words(metric)}"
    return f"{text} {unit}"


def times(count: int, one: str, many: str) -> str:
    """``1 seed`` or ``3 seeds``."""
    return f"{count:,} {one if count == 1 else many}"


def runs_words(num_seeds: int, num_folds: int) -> str:
    """``3 seeds``, ``5 folds`` or ``2 seeds x 5 folds``."""
    seeds, folds = times(num_seeds, "seed", "seeds"), times(num_folds, "fold", "folds")
    return seeds if not num_folds else folds if num_seeds == 1 else f"{seeds} x {folds}"


def p_words(p: float) -> str:
    """``0.031``, ``<0.001``, or nothing where there is no p value."""
    if math.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def count_words(labels: float) -> str:
    """A number of labels that was read off a curve, rounded to two digits: ``1,200``."""
    digits = max(0, math.floor(math.log10(max(labels, 1))) - 1)
    return f"{round(labels, -digits):,.0f}"
