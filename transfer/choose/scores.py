"""How promising a source is for a target before anything is fine-tuned: one number, and more is better.

`features` [rows, width] are what a source's backbone makes of the target's training rows, `labels` [rows] the numbers
of their classes from 0 (or, for LogME, values), `probabilities` [rows, source classes] what the source's own head says
of them. Nothing here knows of models or files.

All raise `ValueError` where the score is not defined for such rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.float64]


def logme(features: Array, labels: NDArray) -> float:
    """Log maximum evidence a row (You et al. 2021, LogME, algorithm 1), the mean over classes as one-hot targets.

    The evidence of a Bayesian linear model ``y ~ N(F w, 1/beta)``, ``w ~ N(0, 1/alpha)``, with the alpha and beta that
    maximise it. Labels that are no integers are one target, standardised.
    """
    if _are_classes(labels):
        _require_classes(labels)
        targets = np.eye(int(labels.max()) + 1)[labels][:, np.unique(labels)]
    else:
        spread = labels.std()
        if not spread:
            raise ValueError("all values are the same")
        targets = ((labels - labels.mean()) / spread)[:, None]
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    found = [_maximum_evidence(left, singular**2, target) for target in targets.T]
    return float(np.mean(found)) / len(features)


def log_evidence(eigenvalues: Array, projected: Array, rest: float, rows: int, alpha: float, beta: float) -> float:
    """Equation 2 of You et al. 2021, in the basis of the features' left singular vectors.

    Args:
        eigenvalues: of ``F F^T`` that may be above 0.
        projected: the squares of the target in that basis.
        rest: the squared length of what of the target is outside of it.
    """
    shrunk = alpha + beta * eigenvalues
    fit = beta * (rest + float((projected * (alpha / shrunk) ** 2).sum()))
    size = alpha * float((projected * eigenvalues * (beta / shrunk) ** 2).sum())
    # Directions in which the features have no extent add log(alpha) - log(alpha).
    determinants = len(eigenvalues) * math.log(alpha) + rows * math.log(beta) - float(np.log(shrunk).sum())
    return 0.5 * (determinants - fit - size - rows * math.log(2 * math.pi))


def _maximum_evidence(left: Array, eigenvalues: Array, target: Array, rounds: int = 100) -> float:
    """The fixed point of equations 3 and 4 there."""
    rows = len(target)
    projected = (left.T @ target) ** 2
    rest = max(0.0, float(target @ target - projected.sum()))
    alpha = beta = 1.0
    for _ in range(rounds):
        shrunk = alpha + beta * eigenvalues
        effective = float((beta * eigenvalues / shrunk).sum())
        size = float((projected * eigenvalues * (beta / shrunk) ** 2).sum())
        error = rest + float((projected * (alpha / shrunk) ** 2).sum())
        before = alpha / beta
        alpha = effective / max(size, 1e-10)
        beta = (rows - effective) / max(error, 1e-10)
        if abs(alpha / beta - before) <= 1e-4 * before:
            break
    return log_evidence(eigenvalues, projected, rest, rows, alpha, beta)


def h_score(features: Array, labels: NDArray) -> float:
    """``tr(cov(f)^-1 cov(E[f | y]))`` with a shrunk covariance (Bao et al. 2019; Ibrahim et al. 2021, equation 5).

    The part of the features' variance that is between the classes, over all of its directions: at most classes - 1.
    """
    _require_classes(labels)
    centred = features - features.mean(0)
    fitted = LedoitWolf(assume_centered=True).fit(centred)
    means = np.stack(
        [centred[labels == number].mean(0) for number in range(int(labels.max()) + 1) if (labels == number).any()]
    )
    _, counts = np.unique(labels, return_counts=True)
    between = (means * (counts / counts.sum())[:, None]).T @ means
    return float((1 - fitted.shrinkage_) * np.trace(np.linalg.solve(fitted.covariance_, between)))


def leep(probabilities: Array, labels: NDArray) -> float:
    """Log expected empirical prediction: the mean of ``log sum_z P(y | z) theta(x)_z`` (Nguyen et al. 2020)."""
    _require_classes(labels)
    joint = np.stack([probabilities[labels == number].sum(0) for number in range(int(labels.max()) + 1)])
    given = joint / np.maximum(joint.sum(0), np.finfo(float).tiny)
    return float(np.log(np.maximum((given[labels] * probabilities).sum(1), np.finfo(float).tiny)).mean())


def nce(source_labels: NDArray, labels: NDArray) -> float:
    """Negative conditional entropy ``-H(Y | Z)`` of the labels given the source's answers (Tran et al. 2019)."""
    _require_classes(labels)
    joint = np.zeros((int(labels.max()) + 1, int(source_labels.max()) + 1))
    np.add.at(joint, (labels, source_labels), 1.0 / len(labels))
    given = joint / np.maximum(joint.sum(0), np.finfo(float).tiny)
    seen = joint > 0
    return float((joint[seen] * np.log(given[seen])).sum())


def coding_rate(features: Array, eps: float) -> float:
    """``log det(I + F^T F / (n eps)) / 2`` of centred features (Huang et al. 2022, section 3)."""
    rows, width = features.shape
    gram = features.T @ features if width <= rows else features @ features.T
    _, logarithm = np.linalg.slogdet(np.eye(len(gram)) + gram / (rows * eps))
    return 0.5 * float(logarithm)


def transrate(features: Array, labels: NDArray, eps: float = 1e-4) -> float:
    """What the labels say of the features, as coding rates: of all less the mean over classes (Huang et al. 2022)."""
    _require_classes(labels)
    centred = features - features.mean(0)
    # So that eps means the same for features of any size.
    centred = centred / max(float(np.sqrt((centred**2).sum(1).mean())), 1e-12)
    classes = np.unique(labels)
    inside = [coding_rate(centred[labels == number], eps) for number in classes]
    return coding_rate(centred, eps) - float(np.mean(inside))


def knn(features: Array, labels: NDArray, neighbours: int = 5, folds: int = 5) -> float:
    """Accuracy of the nearest neighbours by cosine, in stratified cross-validation; of values, R^2."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    split = _folds(labels, folds)
    least = len(labels) - math.ceil(len(labels) / split.n_splits)
    kind = KNeighborsClassifier if _are_classes(labels) else KNeighborsRegressor
    return float(cross_val_score(kind(min(neighbours, least)), unit, labels, cv=split).mean())


def linear_probe(features: Array, labels: NDArray, folds: int = 5) -> float:
    """Accuracy of a logistic regression on standardised features, cross-validated (Alain & Bengio 2017).

    Of values, R^2 of a ridge regression.
    """
    split = _folds(labels, folds)
    model = LogisticRegression(C=0.1, max_iter=500) if _are_classes(labels) else Ridge(alpha=10.0)
    return float(cross_val_score(make_pipeline(StandardScaler(), model), features, labels, cv=split).mean())


def cka(one: Array, other: Array) -> float:
    """Linear centred kernel alignment of two sets of features of the same rows, 0 to 1 (Kornblith et al. 2019)."""
    one, other = one - one.mean(0), other - other.mean(0)
    if len(one) < min(one.shape[1], other.shape[1]):  # kernels of rows are the smaller matrices
        first, second = one @ one.T, other @ other.T
        cross, own = float((first * second).sum()), (np.linalg.norm(first), np.linalg.norm(second))
    else:
        cross = float(np.linalg.norm(other.T @ one) ** 2)
        own = (np.linalg.norm(one.T @ one), np.linalg.norm(other.T @ other))
    if not all(own):
        raise ValueError("features that are the same for every row")
    return cross / float(own[0] * own[1])


def proxy_a_distance(source: Array, target: Array, folds: int = 5) -> float:
    """``2 (1 - 2 error)`` of a linear classifier that tells source from target rows: 0 alike, 2 far apart.

    Ben-David et al. 2007; less is better here, so callers negate it.
    """
    size = min(len(source), len(target))
    if size < 2:
        raise ValueError("fewer than two rows")
    features = np.concatenate([source[:size], target[:size]])
    accuracy = linear_probe(features, np.repeat([0, 1], size), folds)
    return 2 * (1 - 2 * min(1 - accuracy, 0.5))


def coverage(source: Collection[str], target: Collection[str]) -> float:
    """The part of the target's words, each as often as it stands there, that the source has as well."""
    known = set(source)
    if not target:
        raise ValueError("no words")
    return sum(word in known for word in target) / len(target)


def overlap(source: Collection[str], target: Collection[str]) -> float:
    """Of all labels of either the part that both have (Jaccard)."""
    either = {*source} | {*target}
    if not either:
        raise ValueError("no labels")
    return len({*source} & {*target}) / len(either)


def _require_classes(labels: NDArray) -> None:
    if not _are_classes(labels):
        raise ValueError("of classes, not of values")
    if len(np.unique(labels)) < 2:
        raise ValueError("only one class")


def _are_classes(labels: NDArray) -> bool:
    return np.issubdtype(labels.dtype, np.integer)


def _folds(labels: NDArray, folds: int) -> StratifiedKFold | KFold:
    if not _are_classes(labels):
        if len(labels) < 4 or np.ptp(labels) == 0:
            raise ValueError("fewer than four rows" if len(labels) < 4 else "all values are the same")
        return KFold(min(folds, len(labels) // 2), shuffle=True, random_state=0)
    _require_classes(labels)
    least = int(np.unique(labels, return_counts=True)[1].min())
    if least < 2:
        raise ValueError("a class with a single row: it cannot be both in training and in test")
    return StratifiedKFold(min(folds, least), shuffle=True, random_state=0)
