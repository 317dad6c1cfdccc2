"""How well each score has predicted the gains that were measured: its track record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# With fewer sources an order says little: any of three is the right one in one case of three.
LEAST_SOURCES = 3


@dataclass(frozen=True)
class Track:
    """Of one score on one target, over the sources that have both a score and a measured gain.

    Attributes:
        tau: Kendall's, tau-b: ties count half.
        weighted_tau: Vigna 2015, hyperbolic weights by rank of the gain: the best sources count most.
        regret: k -> what the best of the k highest scored sources gains less than the best of all.
    """

    num_sources: int
    tau: float
    weighted_tau: float
    regret: dict[int, float]


def track(scores: Sequence[float], gains: Sequence[float], ks: Sequence[int] = (1, 3)) -> Track:
    """Compare an order by score with one by gain (regret as Renggli et al. 2022, Which model to transfer?, section 4).

    Equal scores at the border of the best k count with the worst of their gains: nothing chose between them.

    Raises:
        ValueError: fewer than three sources, or all scores or all gains are the same.
    """
    from scipy.stats import kendalltau, weightedtau  # takes a second to import

    given, gained = np.asarray(scores, dtype=float), np.asarray(gains, dtype=float)
    if len(given) < LEAST_SOURCES:
        raise ValueError(f"{len(given)} sources; an order needs {LEAST_SOURCES}")
    if np.ptp(given) == 0 or np.ptp(gained) == 0:
        raise ValueError("all the same: nothing to order")
    order = np.lexsort((gained, -given))
    regret = {k: float(gained.max() - gained[order[:k]].max()) for k in ks if k <= len(given)}
    tau, weighted = kendalltau(given, gained).statistic, weightedtau(gained, given, rank=None).statistic
    return Track(len(given), float(tau), float(weighted), regret)
