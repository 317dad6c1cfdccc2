"""How far a mean over the folds of a cross-validation can be trusted.

The test examples of two folds are different ones, and every example is tested once a seed: examples are nested in folds
and crossed with seeds. The training sets of two folds share most of their rows, so that their gains are not independent
and the spread over k folds shows too little. The corrected resampled t test of Nadeau and Bengio (2003, Inference for
the Generalization Error, Machine Learning 52) takes the variance of the mean to be the sample variance of the folds by

    1 / k + num_test / num_train          in place of 1 / k

as Bouckaert and Frank (2004, Evaluating the Replicability of Significance Tests for Comparing Learning Algorithms,
PAKDD) do for repeated k-fold cross-validation. Here the folds are their means over the seeds, with k - 1 degrees of
freedom. A label budget that takes a share of the training rows takes that share of the overlap too, so the second term
is multiplied by it. What the means of the seeds differ by beyond the luck of single runs (the mean square of the
interaction in the analysis of variance) is added, with S - 1 degrees of freedom. The interval is never shorter than
that of the test examples alone: the variance over all of them, which is the right one where the training sets hardly
matter (Bayle et al. 2020, Cross-validation Confidence Intervals for Test Error, NeurIPS).

No unbiased estimate exists from one cross-validation (Bengio and Grandvalet 2004, JMLR 5). The correction is a rule of
thumb: most often too careful, and too bold where the training sets decide most of the gain and many seeds or folds have
averaged the rest away. With one seed, what that seed does alike in all folds is in no spread.

Coverage of the 95 % interval in percent and, after the stroke, that of the t interval of the folds' spread alone; 300
test examples with a standard deviation of 0.63, training sets, seeds or single runs of 0.05; 4,000 repetitions each
(standard deviation 0.3; tests/study/test_folds.py has the model). ``rho``: how much the effects of the training sets
are correlated between folds, 0.75 being that of means over their rows with five folds.

    five folds                          1 seed      2 seeds      3 seeds      5 seeds
        test examples alone          99.3/95.2    99.6/95.0    99.6/95.2    99.5/95.3
        training sets, rho = 0       99.2/95.1    99.3/94.8    99.4/95.3    99.0/95.2
        training sets, rho = 0.5     96.8/88.7    97.4/86.5    96.1/83.0    94.2/81.2
        training sets, rho = 0.75    95.7/84.9    95.3/80.1    93.7/77.5    89.2/72.4
        single runs                  99.3/95.2    99.6/94.8    99.6/95.1    99.4/95.0
        seeds                        94.2/82.5    97.8/83.5    98.3/84.0    98.6/85.0
    ten folds
        training sets, rho = 0.5     96.6/86.5    95.7/80.8    93.9/77.7    91.5/74.4
        training sets, rho = 0.75    94.9/83.0    94.1/76.2    90.2/70.2    85.0/64.9

For ridge regression towards source weights against ridge regression (five folds, 100 and 400 rows, 20 and 100 features,
all labels or 20 and 100 of them, one seed or three, 1,000 repetitions each) it covers 94.2 to 99.3 % of gains in
accuracy and 96.3 to 100 % of those in squared error, the t interval 90.6 to 96.0 % and 93.9 to 98.9 %. It is 1.3 to 2.8
times as wide as the true spread of the means asks for, where the gains are next to nothing six times. With 5 features,
where both arms give nearly all examples the same answer, it covers less: if no answer differs, its length is 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from transfer.study.weighted_metrics import Array


@dataclass(frozen=True)
class Layout:
    """The fold and the seed of each run. ``overlap``: what is added to 1 / k (see the module's text)."""

    folds: tuple[Hashable, ...]
    seeds: tuple[Hashable, ...]
    overlap: float

    @property
    def num_folds(self) -> int:
        """Different folds; those of another data seed are others."""
        return len(set(self.folds))

    @property
    def num_seeds(self) -> int:
        """Different seeds, that of the data aside."""
        return len(set(self.seeds))


@dataclass(frozen=True)
class FoldVariances:
    """What the mean gain varies by: by its folds, by its seeds, and by the test examples alone."""

    fold: float
    seed: float
    examples: float
    num_folds: int
    num_seeds: int
    num_test: int

    @property
    def standard_error(self) -> float:
        """Of the mean gain."""
        return float(np.sqrt(max(self.fold + self.seed, self.examples)))

    def half_width(self, confidence: float | Array) -> Array:
        """Half the length of the interval, at one or several confidences.

        The critical value is the mean of those of folds and seeds, weighted by their variances: Cochran and
        Cox's approximation to the Behrens-Fisher problem.
        """
        from scipy.special import stdtrit

        quantile = (1 + confidence) / 2
        total, critical = self.fold + self.seed, stdtrit(self.num_folds - 1, quantile)
        if self.seed > 0:
            seeds = stdtrit(self.num_seeds - 1, quantile)
            critical = (self.fold * critical + self.seed * seeds) / total
        by_examples = stdtrit(max(self.num_test - 1, 1), quantile) * np.sqrt(self.examples)
        return np.maximum(critical * np.sqrt(total), by_examples)


def overlap(num_train: int, num_rest: int, num_test: int) -> float:
    """The second term of the correction, for ``num_train`` labels drawn from the ``num_rest`` rows of training."""
    return num_test / num_rest * min(1.0, num_train / num_rest)


def fold_variances(per_run: Array, layout: Layout, examples: float, num_test: int) -> FoldVariances:
    """``per_run`` [R]: the gain of each run; ``examples``: the variance of their mean through the test examples."""
    fold, seed = (numbered(keys) for keys in (layout.folds, layout.seeds))
    by_fold = _means(per_run, fold)
    num_folds, num_seeds = len(by_fold), layout.num_seeds
    between = float(by_fold.var(ddof=1)) * (1 / num_folds + layout.overlap)
    return FoldVariances(
        between, _between_seeds(per_run - by_fold[fold], fold, seed), examples, num_folds, num_seeds, num_test
    )


def _between_seeds(rest: Array, fold: Array, seed: Array) -> float:
    """Variance of the mean through what a seed does in all folds; ``rest``: the gains less the means of their folds."""
    by_seed = _means(rest, seed)
    freedom = len(rest) - len(by_seed) - len(set(fold.tolist())) + 1
    if len(by_seed) < 2 or freedom < 1:
        return 0.0
    luck = float(((rest - by_seed[seed]) ** 2).sum()) / freedom
    runs_a_seed = len(rest) / len(by_seed)
    return max(0.0, float(by_seed.var(ddof=1)) - luck / runs_a_seed) / len(by_seed)


def numbered(keys: Sequence[Hashable]) -> Array:
    """The number of each key, from 0 in order of appearance."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def _means(values: Array, group: Array) -> Array:
    return np.bincount(group, weights=values) / np.bincount(group)
