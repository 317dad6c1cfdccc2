"""Second opinions on a gain that need no formula for its variance, and the correction for asking many questions.

The bootstrap draws seeds and test examples, both with replacement and the same examples for both arms and all seeds. It
counts the noise of a single example more than once and knows nothing of the few degrees of freedom of a few seeds: it
is here to be compared with, the verdict rests on `statistics`.

The permutation test turns signs. What is exchangeable if the origin of the weights makes no difference: the twin runs
of a seed, so that the gain of a seed is as likely as its negative; and what all seeds gain on a test example, which is
as likely as its negative. Turning both at random is exact or conservative for the sharp hypothesis that no run is
changed by the origin of its weights, and approximate for that of no gain on the average. S seeds have 2**S patterns of
signs, so that p can hardly fall below 2**-S: fewer than five seeds are never decided by it.

Measured beside the interval of `statistics` (1,000 repetitions, n = 300, sigma_a = 0.05, sigma_b = 0.2, no gain): the
bootstrap covers 92, 95, 96 and 97 % with 2, 3, 5 and 10 seeds, the test finds something in 0, 0, 1.7 and 3.6 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from transfer.study import terms
from transfer.study.folds import Layout, numbered
from transfer.study.influence import encoded
from transfer.study.intervals import LEVEL, variances
from transfer.study.statistics import Evidence, Pair
from transfer.study.weighted_metrics import LOWER_IS_BETTER, METRICS, Array

_MEANS = frozenset({"accuracy", "mse", "mae"})
_CELLS = 8_000_000  # weights held at once


@lru_cache(maxsize=2)
def _weights(num_test: int, draws: int, random_seed: int) -> Array:
    """How often each example is drawn [draws, n], the same for every gain of a study."""
    rng = np.random.default_rng(random_seed)
    drawn = rng.integers(num_test, size=(draws, num_test)) + num_test * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * num_test)
    return counts.reshape(draws, num_test).astype(np.float32)


@lru_cache(maxsize=2)
def _signs(num: int, draws: int, random_seed: int) -> Array:
    rng = np.random.default_rng(random_seed)
    return (2 * rng.integers(2, size=(draws, num), dtype=np.int8) - 1).astype(np.float32)


def _chunks(num_test: int, draws: int) -> list[int]:
    """Sizes of the parts in which the draws are made, so that not too many weights are held at once."""
    size = max(1, min(draws, _CELLS // num_test))
    return [size] * (draws // size) + ([draws % size] if draws % size else [])


def hierarchical_bootstrap(
    found: Evidence, pairs: Sequence[Pair], metric: str, *, draws: int = 2000, confidence: float = 1 - LEVEL
) -> tuple[float, float]:
    """Percentile interval of the mean gain over draws of seeds (of folds, and of seeds) and test examples.

    ``found`` and ``pairs`` hold the same runs: a mean over examples is drawn from the first, any other metric computed
    anew from the second.
    """
    num_seeds, n = found.influence.shape
    rng = np.random.default_rng(num_seeds)
    means = []
    for part, size in enumerate(_chunks(n, draws)):
        weights = _weights(n, size, part)
        linear = not pairs or is_linear(metric, pairs[0].treated)
        values = _linear(found, weights) if linear else _redrawn(pairs, metric, weights)
        if found.layout is not None:
            means.append(_mean_of_drawn(values, found.layout, rng))
            continue
        chosen = rng.integers(num_seeds, size=(size, num_seeds))
        means.append(np.take_along_axis(values, chosen, axis=1).mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def is_linear(metric: str, predictions: Array) -> bool:
    """Whether the metric is a mean over the examples, of which their influence says everything."""
    return metric in _MEANS and not terms.is_terms(predictions)


def _mean_of_drawn(values: Array, layout: Layout, rng: np.random.Generator) -> Array:
    """The means [draws] of ``values`` [draws, R] over drawn folds and, for all of them alike, drawn seeds."""
    counts = np.ones(values.shape)
    for keys in (layout.folds, layout.seeds):
        numbers = numbered(keys)
        num = int(numbers.max()) + 1
        counts *= rng.multinomial(num, np.full(num, 1 / num), size=len(values))[:, numbers]
    counts[counts.sum(axis=1) == 0] = 1  # only of runs that are not there
    return (counts * values).sum(axis=1) / counts.sum(axis=1)


def _linear(found: Evidence, weights: Array) -> Array:
    return found.per_seed + weights @ found.influence.T.astype(np.float32) / found.influence.shape[1]


def _redrawn(pairs: Sequence[Pair], metric: str, weights: Array) -> Array:
    """The gain of each seed [draws, S] on the drawn examples."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    examples = np.unique(np.concatenate([pair.ids for pair in pairs]))
    values = []
    for pair in pairs:
        assert pair.control is not None, "a level has no gain"
        own = weights[:, np.searchsorted(examples, pair.ids)].astype(float)
        labels, *arms = encoded([pair.labels, pair.treated, pair.control], metric)
        treated, control = (
            terms.weighted(metric, arm, own) if terms.is_terms(arm) else METRICS[metric](labels, arm, own)
            for arm in arms
        )
        values.append(sign * (treated - control))
    return np.stack(values, axis=1)


def permutation_p(found: Evidence, *, draws: int = 2000) -> float:
    """Two-sided p value of no gain, by turning the signs of seeds and test examples (see the module's text)."""
    num_seeds, n = found.influence.shape
    observed = abs(float(found.per_seed.mean()))
    by_example = found.influence.mean(axis=0)
    # The mean over seeds still holds the luck of single seeds on the example, which the seeds' own signs turn already.
    shared = float(variances(found.per_seed, found.covariance, n).shared)
    spread = float((by_example**2).sum()) / (n * max(n - 1, 1))
    by_example = (by_example * (min(1.0, shared / spread) ** 0.5 if spread > 0 else 0.0)).astype(np.float32)
    patterns = 1 << min(num_seeds, 20)
    larger, start = 0, 0
    for part, size in enumerate(_chunks(n, draws)):
        if patterns <= draws:  # every pattern equally often
            number = np.arange(start, start + size) % patterns
            seeds = 2 * ((number[:, None] >> np.arange(num_seeds)) & 1) - 1
        else:
            seeds = np.random.default_rng(part).choice([-1, 1], (size, num_seeds))
        drawn = seeds @ found.per_seed / num_seeds + _signs(n, size, part) @ by_example / n
        larger += int((np.abs(drawn) >= observed - 1e-12).sum())
        start += size
    return (1 + larger) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979, Scandinavian Journal of Statistics 6(2)); one that is nan is not in the family.

    Rejecting those of at most 0.05 makes a false claim among all of them in at most 5 % of studies, whatever their
    dependence.
    """
    family = sorted((p, index) for index, p in enumerate(p_values) if p == p)
    adjusted = list(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(family):
        largest = max(largest, min(1.0, (len(family) - place) * p))
        adjusted[index] = largest
    return adjusted
