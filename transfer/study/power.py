"""How large a gain is beside the noise of the seeds, and how many seeds would decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from transfer.study.intervals import LEVEL
from transfer.study.statistics import Gain

POWER = 0.8
MOST_SEEDS = 200


@dataclass(frozen=True)
class SeedsNeeded:
    """Seeds that decide a gain of ``size`` in 80 % of studies; None: see ``why``.

    ``test_examples``: seeds alone cannot, the test data are too few. ``unknown``: one seed does not show how much seeds
    vary, or the predictions are missing. ``folds``: of a cross-validation, which more seeds make no larger.
    """

    size: float
    num_seeds: int | None
    why: Literal["", "unknown", "folds", "test_examples", "too_many"] = ""


def power_of(size: float, num_seeds: int, gain: Gain) -> float:
    """Chance that the interval of ``num_seeds`` seeds leaves out 0 if the gain is ``size``.

    By the noncentral t distribution, with the variances that ``gain`` found and Satterthwaite's degrees of freedom.
    """
    from scipy.special import nctdtr, stdtrit

    seed, shared = gain.seed_variance / num_seeds, max(gain.example_variance, 0.0)
    total = seed + shared
    if total <= 0:
        return float(size != 0)
    freedom = total**2 / (seed**2 / (num_seeds - 1) + shared**2 / max(gain.num_test - 1, 1))
    critical = float(stdtrit(freedom, 1 - LEVEL / 2))
    return 1.0 - float(nctdtr(freedom, abs(size) / math.sqrt(total), critical))


def seeds_needed(gain: Gain, size: float | None = None) -> SeedsNeeded:
    """Seeds, test data staying as they are, that decide a gain of ``size``; by default of the size that was found.

    With the variances that were measured, themselves uncertain with few seeds: an order of magnitude, not a promise.
    """
    from scipy.special import ndtri

    size = abs(gain.estimate if size is None else size)
    if gain.num_folds:
        return SeedsNeeded(size, None, "folds")
    if not gain.covers_seeds or not gain.covers_examples:
        return SeedsNeeded(size, None, "unknown")
    # What would be left with all the seeds in the world.
    if size <= (float(ndtri(1 - LEVEL / 2)) + float(ndtri(POWER))) * math.sqrt(max(gain.example_variance, 0.0)):
        return SeedsNeeded(size, None, "test_examples")
    low, high = 1, 2
    while high <= MOST_SEEDS and power_of(size, high, gain) < POWER:
        low, high = high, 2 * high
    if high > MOST_SEEDS and power_of(size, MOST_SEEDS, gain) < POWER:
        return SeedsNeeded(size, None, "too_many")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(size, middle, gain) >= POWER else (middle, high)
    return SeedsNeeded(size, high)


def against_seed_noise(gain: Gain, scratch_sd: float) -> float:
    """The gain in standard deviations of the scratch arm over its seeds; nan where that is not known."""
    return gain.estimate / scratch_sd if scratch_sd > 0 else math.nan
