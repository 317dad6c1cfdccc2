"""By how much each test example moves a metric.

The influence of an example is the slope of the metric in its weight (Hampel 1974, The influence curve and its role in
robust estimation, JASA 69). Its mean is 0, and ``sum(influence**2) / n**2`` is the variance that the metric has because
the test examples are a sample: what a bootstrap of the examples converges to, without a draw. For a mean over examples
(accuracy, mean squared error) this is exact, for the others it is the first-order (delta method) value.
"""

from __future__ import annotations

import numpy as np

from transfer.study import terms
from transfer.study.weighted_metrics import FORMULAS, METRICS, NUMERIC, Array, membership, one_hot


def encoded(columns: list[Array], metric: str) -> list[Array]:
    """Labels and predictions as the metric takes them: terms, numbers, label sets as boolean matrices, or classes."""
    if terms.is_terms(columns[1]):
        return columns
    if metric in NUMERIC:
        return [np.asarray(column, dtype=float) for column in columns]
    if len(columns[0]) and isinstance(columns[0][0], (tuple, list)):
        return membership([list(column) for column in columns])
    return columns


def value_and_influence(labels: Array, predictions: Array, metric: str) -> tuple[float, Array]:
    """The metric of n examples, and the influence [n] of each; columns as `encoded` gives them."""
    if terms.is_terms(predictions):
        return terms.value_and_influence(metric, predictions)
    value = float(METRICS[metric](labels, predictions, np.ones((1, len(labels))))[0])
    if metric in FORMULAS:
        return value, _of_counts(labels, predictions, metric)
    if metric == "accuracy":
        right = labels == predictions if labels.ndim == 1 else (labels == predictions).all(axis=1)
        return value, right - value
    if metric == "mse":
        return value, (labels - predictions) ** 2 - value
    if metric == "mae":
        return value, np.abs(labels - predictions) - value
    if metric == "spearman":
        return value, _of_ranks(labels, predictions, value)
    assert metric == "pearson", metric
    return value, _of_correlation(_standard(labels), _standard(predictions), value)


def _of_counts(labels: Array, predictions: Array, metric: str) -> Array:
    """Through the slopes of the formula in the share of hits, labels and predictions of each class."""
    labels, predictions = one_hot(labels, predictions)
    if metric == "mcc" and (predictions == predictions[0]).all():
        return np.zeros(len(labels))  # 0 by definition, in every sample
    n, classes = labels.shape
    parts = np.concatenate([labels & predictions, labels, predictions, np.ones((n, 1), dtype=bool)], axis=1)
    shares = parts.mean(axis=0)
    step = min(1e-5, 0.01 / n)  # far below the share of a single example
    moved = shares + step * np.concatenate([np.eye(len(shares)), -np.eye(len(shares))])
    values = FORMULAS[metric](
        moved[:, :classes], moved[:, classes : 2 * classes], moved[:, 2 * classes : 3 * classes], moved[:, -1]
    )
    slopes = (values[: len(shares)] - values[len(shares) :]) / (2 * step)
    influence = parts @ slopes
    return influence - influence.mean()


def _standard(values: Array) -> Array:
    """Mean 0 and variance 1; zeros where all are equal."""
    deviation = values - values.mean()
    scale = np.sqrt((deviation**2).mean())
    return deviation / scale if scale > 0 else np.zeros_like(deviation)


def _of_correlation(first: Array, second: Array, value: float) -> Array:
    """Of the correlation of two standardised columns (Devlin, Gnanadesikan and Kettenring 1975, Biometrika 62)."""
    if not first.any() or not second.any():
        return np.zeros(len(first))
    return first * second - value * (first**2 + second**2) / 2


def _of_ranks(labels: Array, predictions: Array, value: float) -> Array:
    """Of the rank correlation: that of the correlation of the ranks, and that an example moves the ranks above it."""
    ranks = [_shares_below(column) for column in (labels, predictions)]
    first, second = (_standard(rank) for rank in ranks)
    if not first.any() or not second.any():
        return np.zeros(len(first))
    direct = _of_correlation(first, second, value)
    through = [
        _weight_above(column, (other - value * own)) / rank.std()
        for column, rank, own, other in ((labels, ranks[0], first, second), (predictions, ranks[1], second, first))
    ]
    total = direct + through[0] + through[1]
    return total - total.mean()


def _shares_below(values: Array) -> Array:
    """Share of the examples with a smaller value, those with the same value counting half."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / len(values))[group]


def _weight_above(values: Array, weights: Array) -> Array:
    """For each example the mean over all examples of ``weights`` where the value is larger, half where it is equal."""
    _, group = np.unique(values, return_inverse=True)
    sums = np.bincount(group, weights=weights)
    return ((sums.sum() - np.cumsum(sums) + sums / 2) / len(values))[group]
