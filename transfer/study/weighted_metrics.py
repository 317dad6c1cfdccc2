"""Metrics of weighted test examples, for many weightings at once.

A bootstrap draw is a weighting: an example drawn twice weighs 2. Every function takes ``labels`` and ``predictions`` of
n examples and ``weights`` [B, n], and returns the metric of each of the B weightings. Classes are any sortable values;
several labels an example are a boolean matrix [n, K] (`membership`). The numbers are those that scikit-learn gives for
the repeated sample; an undefined ratio or correlation counts as 0, and a class that is found neither among the labels
nor among the predictions is left out of a macro average. What is no function of single answers is in
`transfer.study.terms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WeightedMetric = Callable[[Array, Array, Array], Array]
Formula = Callable[[Array, Array, Array, Array], Array]


def membership(columns: Sequence[Sequence[Sequence[str]]]) -> list[Array]:
    """Label sets -> one boolean matrix [n, K] a column, K being the labels found in any of the columns."""
    names = sorted({name for column in columns for labels in column for name in labels})
    position = {name: index for index, name in enumerate(names)}
    matrices = []
    for column in columns:
        matrix = np.zeros((len(column), len(names)), dtype=bool)
        for row, labels in enumerate(column):
            matrix[row, [position[name] for name in labels]] = True
        matrices.append(matrix)
    return matrices


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def one_hot(labels: Array, predictions: Array) -> tuple[Array, Array]:
    """Both as boolean matrices [n, K] over the classes found in either."""
    if labels.ndim == 2:
        return labels, predictions
    classes, codes = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    matrices = codes.reshape(2, -1)[:, :, None] == np.arange(len(classes))
    return matrices[0], matrices[1]


def _counts(labels: Array, predictions: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Weights of the hits, of the labels and of the predictions of every class, each [B, K]."""
    labels, predictions = one_hot(labels, predictions)
    return weights @ (labels & predictions), weights @ labels, weights @ predictions


def _macro(values: Array, support: Array, predicted: Array) -> Array:
    seen = (support + predicted) > 0
    return _ratio((values * seen).sum(axis=1), seen.sum(axis=1).astype(float))


def accuracy(labels: Array, predictions: Array, weights: Array) -> Array:
    """Share of the examples predicted exactly; of several labels an example, all have to be right."""
    right = labels == predictions if labels.ndim == 1 else (labels == predictions).all(axis=1)
    return _ratio(weights @ right.astype(float), weights.sum(axis=1))


def _precision_macro(hits: Array, support: Array, predicted: Array, total: Array) -> Array:
    return _macro(_ratio(hits, predicted), support, predicted)


def _recall_macro(hits: Array, support: Array, predicted: Array, total: Array) -> Array:
    return _macro(_ratio(hits, support), support, predicted)


def _f1_macro(hits: Array, support: Array, predicted: Array, total: Array) -> Array:
    return _macro(_ratio(2 * hits, support + predicted), support, predicted)


def _f1_micro(hits: Array, support: Array, predicted: Array, total: Array) -> Array:
    """F1 of the pooled counts; for one label an example this is the accuracy."""
    return _ratio(2 * hits.sum(axis=1), support.sum(axis=1) + predicted.sum(axis=1))


def _mcc(hits: Array, support: Array, predicted: Array, total: Array) -> Array:
    """Matthews correlation for any number of classes: R_K of Gorodkin 2004, written with the class totals."""
    covariance = hits.sum(axis=1) * total - (support * predicted).sum(axis=1)
    variances = (total**2 - (support**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(variances, 0.0)))


# Metrics that see the examples only through the counts [B, K] of `_counts` and the total [B].
FORMULAS: dict[str, Formula] = {
    "precision": _precision_macro,
    "precision_macro": _precision_macro,
    "recall": _recall_macro,
    "recall_macro": _recall_macro,
    "f1": _f1_macro,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
    "mcc": _mcc,
}


def _counted(formula: Formula) -> WeightedMetric:
    def metric(labels: Array, predictions: Array, weights: Array) -> Array:
        return formula(*_counts(labels, predictions, weights), weights.sum(axis=1))

    return metric


def mse(labels: Array, predictions: Array, weights: Array) -> Array:
    """Mean squared error."""
    return _ratio(weights @ (labels - predictions) ** 2, weights.sum(axis=1))


def mae(labels: Array, predictions: Array, weights: Array) -> Array:
    """Mean absolute error."""
    return _ratio(weights @ np.abs(labels - predictions), weights.sum(axis=1))


def _correlation(first: Array, second: Array, weights: Array) -> Array:
    """Weighted Pearson correlation; ``first`` and ``second`` are [n] or, differing by weighting, [B, n]."""
    total = weights.sum(axis=1, keepdims=True)
    first = first - (weights * first).sum(axis=1, keepdims=True) / total
    second = second - (weights * second).sum(axis=1, keepdims=True) / total
    covariance = (weights * first * second).sum(axis=1)
    variances = (weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1)
    return _ratio(covariance, np.sqrt(variances))


def _ranks(values: Array, weights: Array) -> Array:
    """Middle ranks [B, n] that each example has in the sample in which it is repeated as often as it weighs."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]


def pearson(labels: Array, predictions: Array, weights: Array) -> Array:
    """Pearson correlation."""
    return _correlation(labels, predictions, weights)


def spearman(labels: Array, predictions: Array, weights: Array) -> Array:
    """Spearman correlation, ranked anew under every weighting."""
    return _correlation(_ranks(labels, weights), _ranks(predictions, weights), weights)


METRICS: dict[str, WeightedMetric] = {
    "accuracy": accuracy,
    **{name: _counted(formula) for name, formula in FORMULAS.items()},
    "mse": mse,
    "mae": mae,
    "pearson": pearson,
    "spearman": spearman,
}
NUMERIC = frozenset({"mse", "mae", "pearson", "spearman"})
LOWER_IS_BETTER = frozenset({"mse", "mae", "rmse", "loss", "perplexity"})
