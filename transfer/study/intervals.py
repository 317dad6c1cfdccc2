"""How far a mean over seeds and test examples can be trusted.

A gain is measured on S pairs of runs (seeds) and n test examples, and both are samples. With crossed random effects

    gain[s, i] = mu + a[s] + b[i] + e[s, i]        s: seed, i: test example

the variance of the mean gain is ``(sigma_a^2 + sigma_e^2 / n) / S + sigma_b^2 / n``. The first term is what the S gains
show by their spread, with S - 1 degrees of freedom. The second is the covariance that two seeds have because they share
the test examples; it is read off the influence of each example on each run, with n - 1. Resampling seeds and examples
together would count e more than once (Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2)), and
resampling the examples alone would leave out the seeds.

The critical value lies between the two t quantiles, at the first term's share of the variance on the way to that of the
seeds: the approximation of Cochran and Cox to the Behrens-Fisher problem. Less careful ones call a gain where there is
none too often, with three seeds: ``share**1.25`` in up to 5.3 % of studies, and more often ``share**2``, the first term
of Welch's series (1947, Biometrika 34), and Satterthwaite's degrees of freedom (coverage down to 93.4 and 92.2 %, by
integration). No seed variance is taken to be zero: of two seeds the sum of both terms is at least what it would be if
the seeds differed in nothing but their luck on the test examples; of three or more seeds the first term is at least the
2.5 % quantile that it would have then.

Coverage of the 95 % interval in percent and, after the stroke, verdicts in percent where there is no gain; 12,000
repetitions each (standard deviation 0.2), accuracies near 66 %, n = 300 (tests/study/test_statistics.py has the model):

    sigma_b = 0    sigma_a = 0      0.01       0.02       0.05       0.08
          2 seeds   99.0/0.7   99.1/0.8   98.8/0.9   97.4/2.3   96.3/4.0
          3 seeds   95.5/4.4   95.6/4.1   95.3/4.2   95.3/5.0   95.1/5.0
          5 seeds   95.6/4.3   95.5/4.6   95.5/4.1   95.5/5.1   94.7/5.1
         10 seeds   95.9/4.6   95.4/4.4   95.1/4.9   95.2/4.8   94.8/4.7
    sigma_b = 0.2
          2 seeds   98.9/0.9   99.0/1.2   98.5/1.5   97.0/2.7   95.7/3.9
          3 seeds   96.2/4.0   95.8/3.7   95.8/4.2   95.4/4.7   95.1/4.6
          5 seeds   96.1/4.2   96.2/4.1   96.0/4.3   96.0/4.7   95.3/4.4
         10 seeds   95.7/4.4   95.9/4.4   95.8/4.3   95.8/4.6   95.2/4.8
    sigma_b = 0.3
          2 seeds   98.9/1.4   98.6/1.3   98.5/1.4   97.1/3.0   95.8/4.7
          3 seeds   96.9/3.1   96.8/3.3   96.3/3.4   95.9/4.2   95.2/4.6
          5 seeds   96.7/3.5   96.5/3.4   96.3/4.0   96.0/4.0   96.0/4.4
         10 seeds   95.7/4.3   95.7/4.2   95.7/4.1   95.9/4.1   95.0/4.6

The seeds' variance is not pooled over the strategies of a comparison, though that would give it more degrees of
freedom: strategies differ in it (a frozen backbone hardly varies, training on 20 labels does). Pooling three strategies
of 0.08, 0.01 and 0.01 covers 84, 98 and 99 % with five seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from transfer.study.folds import FoldVariances
from transfer.study.weighted_metrics import Array

LEVEL = 0.05


@dataclass(frozen=True)
class Variances:
    """What `half_width` needs; numbers, or arrays of as many studies.

    ``seed``: variance of the mean over seeds that their spread shows; ``shared``: covariance of two seeds through the
    test examples; ``own``: variance of one seed through them.
    """

    seed: Array
    shared: Array
    own: Array
    num_seeds: int
    num_test: int

    @property
    def least_seed(self) -> Array:
        """`seed`, were the seeds to differ in nothing but their luck on the test examples."""
        return (self.own - self.shared) / self.num_seeds

    def bounded(self) -> Array:
        """`seed`, not believed to be smaller than it would be by chance once in forty times."""
        if self.num_seeds < 3:
            return self.seed
        return np.maximum(self.seed, self.least_seed * _least_share(self.num_seeds))


@cache
def _least_share(num_seeds: int) -> float:
    """The 2.5 % quantile of a sample variance of so many normal values, in parts of their true variance."""
    from scipy.special import gammaincinv

    half = (num_seeds - 1) / 2
    return float(gammaincinv(half, 0.025) / half)


def variances(per_seed: Array, covariance: Array, num_test: int) -> Variances:
    """``per_seed`` [..., S]; ``covariance`` [..., S, S]: how they vary together when other test examples are drawn."""
    num_seeds = per_seed.shape[-1]
    own = np.trace(covariance, axis1=-2, axis2=-1) / num_seeds
    if num_seeds == 1:
        return Variances(np.zeros_like(own), own, own, 1, num_test)
    shared = (covariance.sum(axis=(-2, -1)) - own * num_seeds) / (num_seeds * (num_seeds - 1))
    shared = np.minimum(np.maximum(shared, 0.0), own)
    return Variances(per_seed.var(axis=-1, ddof=1) / num_seeds, shared, own, num_seeds, num_test)


def standard_error(found: Variances | FoldVariances) -> Array | float:
    """Of the mean gain."""
    if isinstance(found, FoldVariances):
        return found.standard_error
    total = found.bounded() + found.shared
    return np.sqrt(np.maximum(total, found.shared + found.least_seed) if found.num_seeds == 2 else total)


def half_width(found: Variances | FoldVariances, confidence: float | Array = 1 - LEVEL) -> Array:
    """Half the length of the interval (see the module's text), of one study or at several confidences."""
    from scipy.special import stdtrit

    if isinstance(found, FoldVariances):
        return found.half_width(confidence)
    t_example = stdtrit(max(found.num_test - 1, 1), (1 + confidence) / 2)
    if found.num_seeds == 1:
        return t_example * np.sqrt(found.own)
    t_seed = stdtrit(found.num_seeds - 1, (1 + confidence) / 2)
    seed = found.bounded()
    total = seed + found.shared
    share = np.divide(seed, total, out=np.zeros_like(total), where=total > 0)
    half = (t_example + (t_seed - t_example) * share) * np.sqrt(total)
    return np.maximum(half, t_example * np.sqrt(found.shared + found.least_seed)) if found.num_seeds == 2 else half


def p_value(estimate: float, found: Variances | FoldVariances) -> float:
    """Two-sided, of no gain: the interval of confidence 1 - p ends at 0. Not below 1e-12."""
    if estimate == 0 or not float(half_width(found)) > 0:
        return 1.0 if estimate == 0 else 1e-12
    low, high = -12.0, 0.0  # of log10 p
    for _ in range(4):  # to a hundred thousandth of p
        logs = np.linspace(low, high, 41)
        place = int((half_width(found, 1 - 10**logs) >= abs(estimate)).sum())  # the smaller p, the wider
        low, high = float(logs[max(place - 1, 0)]), float(logs[min(place, 40)])
    return float(10**high)
