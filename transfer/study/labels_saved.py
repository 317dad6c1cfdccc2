"""Label efficiency: how many labels scratch needs to equal transfer, and where the two curves cross.

A curve is the mean test metric of an arm over the seeds against the logarithm of its number of labels, straight between
the budgets that were run. For the labels that scratch needs, its curve is first made monotone (more labels do not hurt:
isotonic regression, Barlow et al. 1972), since a dip would have no single answer. The intervals are percentiles of the
curves over draws of the seeds, the same seeds for both arms and at all budgets; they leave out the test examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transfer.study.results import Crossover, LabelsSaved, Row
from transfer.study.weighted_metrics import Array

DRAWS = 1000


def monotone(means: Array) -> Array:
    """Non-decreasing least-squares fit along the last axis [..., m], by the max-min formula, of many curves at once."""
    size = means.shape[-1]
    sums = np.concatenate([np.zeros((*means.shape[:-1], 1)), np.cumsum(means, axis=-1)], axis=-1)
    fitted = np.full_like(means, -np.inf)
    for first in range(size):
        # Mean from `first` to each later place, and the least of those that end at or after a place.
        averages = (sums[..., first + 1 :] - sums[..., first : first + 1]) / np.arange(1, size - first + 1)
        least = np.minimum.accumulate(averages[..., ::-1], axis=-1)[..., ::-1]
        fitted[..., first:] = np.maximum(fitted[..., first:], least)
    return fitted


def labels_needed(sizes: Array, curves: Array, wanted: Array) -> Array:
    """Labels at which monotone ``curves`` [B, m] over ``sizes`` [m] reach ``wanted`` [B].

    Infinite where they never do, -inf where the fewest labels are already more than enough.
    """
    reached = curves >= wanted[:, None] - 1e-12
    place = reached.argmax(axis=1)
    rows, before = np.arange(len(curves)), np.maximum(place - 1, 0)
    low, high = curves[rows, before], curves[rows, place]
    share = np.divide(wanted - low, high - low, out=np.ones(len(curves)), where=high > low)
    logs = np.log(sizes)
    needed = np.exp(logs[before] + share * (logs[place] - logs[before]))
    needed[place == 0] = np.where(high > wanted + 1e-12, -np.inf, sizes[0])[place == 0]
    needed[~reached.any(axis=1)] = np.inf
    return needed


def crossing(sizes: Array, gains: Array) -> Array:
    """Labels at which ``gains`` [B, m] over ``sizes`` [m] last change their sign; nan where they keep it."""
    before, after = gains[:, :-1], gains[:, 1:]
    change = (before > 0) != (after > 0)
    place = change.shape[1] - 1 - change[:, ::-1].argmax(axis=1)
    rows = np.arange(len(gains))
    first, second = before[rows, place], after[rows, place]
    share = np.divide(first, first - second, out=np.zeros(len(gains)), where=change.any(axis=1))
    logs = np.log(sizes)
    labels = np.exp(logs[place] + share * (logs[place + 1] - logs[place]))
    return np.where(change.any(axis=1), labels, np.nan)


def efficiency(rows: Sequence[Row], higher_is_better: bool) -> tuple[list[LabelsSaved], list[Crossover]]:
    """For every strategy whose scratch twin was run with two or more numbers of labels."""
    sign = 1 if higher_is_better else -1
    shown = [row for row in rows if not row.secondary]
    saved: list[LabelsSaved] = []
    crossovers: list[Crossover] = []
    names = dict.fromkeys(
        (row.budget.target, row.budget.model, row.label, contrast.against)
        for row in shown
        for contrast in row.over_scratch
    )
    for target, model, label, against in names:
        there = [row for row in shown if (row.budget.target, row.budget.model) == (target, model)]
        ours = sorted((row for row in there if row.label == label), key=lambda row: row.num_labels)
        theirs = sorted((row for row in there if row.label == against), key=lambda row: row.num_labels)
        if len(theirs) < 2:
            continue
        arms = _Arms(ours, theirs, sign)
        place = (target, model, label, against)
        saved += [arms.saved(place, row) for row in ours]
        crossovers += arms.crossover(place)
    return saved, crossovers


class _Arms:
    """The rows of two arms, and the means of their seeds under `DRAWS` draws (the first one: all seeds as they are)."""

    def __init__(self, ours: list[Row], theirs: list[Row], sign: int) -> None:
        self.ours, self.theirs = ours, theirs
        seeds = sorted({side.run.repetition for row in (*ours, *theirs) for side in row.sides}, key=str)
        self.num_seeds = len(seeds)
        self.position = {seed: index for index, seed in enumerate(seeds)}
        rng = np.random.default_rng(0)
        drawn = rng.integers(len(seeds), size=(DRAWS, len(seeds))) + len(seeds) * np.arange(DRAWS)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=DRAWS * len(seeds)).reshape(DRAWS, -1)
        self.counts = np.concatenate([np.ones((1, len(seeds))), counts])
        self.scratch = monotone(np.stack([sign * self._means(row) for row in theirs], axis=1))
        self.sign = sign

    def _means(self, row: Row) -> Array:
        counts = self.counts[:, [self.position[side.run.repetition] for side in row.sides]]
        total = counts.sum(axis=1)
        means = counts @ np.array(row.values) / np.maximum(total, 1)
        return np.where(total > 0, means, row.score.mean)  # none of the row's own seeds was drawn

    def _interval(self, values: Array) -> tuple[float, float]:
        if self.num_seeds < 2 or not len(values):
            return float("nan"), float("nan")
        # Infinite values have an order, not a mean: no interpolation between two draws.
        low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
        return float(low), float(high)

    def saved(self, place: tuple[str, str, str, str], row: Row) -> LabelsSaved:
        """What scratch needs to equal ``row``."""
        sizes = np.array([float(other.num_labels) for other in self.theirs])
        needed = labels_needed(sizes, self.scratch, self.sign * self._means(row))
        low, high = self._interval(needed[1:])
        return LabelsSaved(
            *place, row.num_labels, float(needed[0]), low, high, int(sizes[0]), int(sizes[-1]), self.num_seeds
        )

    def crossover(self, place: tuple[str, str, str, str]) -> list[Crossover]:
        """Where the arms cross, if they share two budgets."""
        by_size = {row.num_labels: row for row in self.theirs}
        shared = [row for row in self.ours if row.num_labels in by_size]
        if len(shared) < 2:
            return []
        gains = np.stack(
            [self.sign * (self._means(row) - self._means(by_size[row.num_labels])) for row in shared], axis=1
        )
        labels = crossing(np.array([float(row.num_labels) for row in shared]), gains)
        drawn = labels[1:][~np.isnan(labels[1:])]
        share = len(drawn) / DRAWS if self.num_seeds > 1 else float("nan")
        return [Crossover(*place, float(labels[0]), *self._interval(drawn), share, bool(gains[0, 0] > 0))]
