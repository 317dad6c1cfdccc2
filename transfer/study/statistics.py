"""The gain of one way of training over another; `intervals` says how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transfer.study.folds import FoldVariances, Layout, fold_variances
from transfer.study.influence import encoded, value_and_influence
from transfer.study.intervals import LEVEL, Variances, half_width, p_value, standard_error, variances
from transfer.study.weighted_metrics import LOWER_IS_BETTER, Array

Verdict = Literal["gain", "harm", "undecided"]


@dataclass(frozen=True)
class Pair:
    """Predictions of one seed on its test examples, row by row. ``control`` None: the level of one arm is asked for."""

    ids: Array
    labels: Array
    treated: Array
    control: Array | None = None


@dataclass(frozen=True)
class Reading:
    """A run's metric, and the influence [n] that each of its test examples has on it."""

    ids: Array
    value: float
    influence: Array


@dataclass(frozen=True)
class Evidence:
    """The gain of each seed [S], and the influence [S, n] of each test example on it; 0 where a seed has it not.

    In a cross-validation, which has a ``layout``, each is of one fold and one seed.
    """

    per_seed: Array
    influence: Array
    layout: Layout | None = None

    @property
    def covariance(self) -> Array:
        """How the gains [S, S] vary together when other test examples are drawn."""
        n = self.influence.shape[1]
        # A sample varies (n - 1) / n times as much as the population.
        return self.influence @ self.influence.T / (n * max(n - 1, 1))

    @property
    def variances(self) -> Variances | FoldVariances:
        """What the mean gain varies by."""
        n = self.influence.shape[1]
        if self.layout is not None:
            return fold_variances(self.per_seed, self.layout, float(self.covariance.mean()), n)
        return variances(self.per_seed, self.covariance, n)


@dataclass(frozen=True)
class Gain:
    """An estimate with its 95 % interval. Positive is better for the first arm, whatever the direction of the metric.

    ``covers_seeds`` and ``covers_examples`` say which of the two samplings the interval accounts for; with neither it
    is infinite. ``p_value``: one minus the confidence of the widest interval that still leaves out 0. ``seed_variance``
    is that of the gain of a single seed given the test examples, ``example_variance`` what no number of seeds removes.
    ``num_folds``: folds of a cross-validation, whose interval covers the folds; ``per_seed`` is then of each run.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    per_seed: tuple[float, ...]
    num_seeds: int
    num_test: int
    covers_seeds: bool
    covers_examples: bool
    p_value: float = math.nan
    seed_variance: float = math.nan
    example_variance: float = math.nan
    num_folds: int = 0

    @property
    def verdict(self) -> Verdict:
        """Which side of zero the whole interval lies on."""
        if self.low > 0:
            return "gain"
        return "harm" if self.high < 0 else "undecided"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter is nan for a single seed."""

    mean: float
    sd: float
    num: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of the values of several seeds."""
    assert len(values) > 0, "no values to summarise"
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), sd, len(values))


def evidence(
    treated: Sequence[Reading],
    control: Sequence[Reading] | None = None,
    sign: int = 1,
    layout: Layout | None = None,
) -> Evidence:
    """The gains of paired readings. Test examples that seeds share (same id) are drawn together, the others apart.

    ``sign`` -1 turns a metric of which less is better.
    """
    rows, ids = [], []
    for index, ours in enumerate(treated):
        row = ours.influence
        if control is not None:
            row = sign * (row - aligned(control[index].influence, control[index].ids, ours.ids))
        rows.append(row)
        ids.append(ours.ids)
    values = np.array([reading.value for reading in treated])
    if control is not None:
        values = sign * (values - np.array([reading.value for reading in control]))
    if all(_same(other, ids[0]) for other in ids[1:]):
        return Evidence(values, np.stack(rows), layout)
    examples, column = np.unique(np.concatenate(ids), return_inverse=True)
    matrix, start = np.zeros((len(rows), len(examples))), 0
    for place, row in enumerate(rows):
        # Each of a seed's own examples stands for so many of all.
        matrix[place, column[start : start + len(row)]] = row * len(examples) / len(row)
        start += len(row)
    return Evidence(values, matrix, layout)


def _same(first: Array, second: Array) -> bool:
    return first is second or np.array_equal(first, second)


def aligned(values: Array, ids: Array, wanted: Array) -> Array:
    """``values`` of the examples ``ids`` in the order of ``wanted``, which are the same examples."""
    if _same(ids, wanted):
        return values
    order = np.empty(len(wanted), dtype=int)
    order[np.argsort(wanted, kind="stable")] = np.argsort(ids, kind="stable")
    return values[order]


def gain_of(found: Evidence, with_p: bool = True) -> Gain:
    """Mean gain of the seeds with its interval; a level needs no p value."""
    parts = found.variances
    estimate = float(found.per_seed.mean())
    seed, examples = math.nan, math.nan
    if isinstance(parts, FoldVariances):
        examples = parts.examples
    else:
        examples = float(parts.shared)
        seed = float(parts.seed) * parts.num_seeds if parts.num_seeds > 1 else math.nan
    return _result(
        found.per_seed,
        float(standard_error(parts)),
        float(half_width(parts)),
        parts.num_test,
        covers_examples=True,
        layout=found.layout,
        p_value=p_value(estimate, parts) if with_p else math.nan,
        seed_variance=seed,
        example_variance=examples,
    )


def gain(pairs: Sequence[Pair], metric: str) -> Gain:
    """Mean gain of ``treated`` over ``control``, one pair a seed; ``metric`` is a name of `METRICS`."""
    assert pairs, "no pairs to compare"
    treated, control = [], []
    for pair in pairs:
        columns = encoded([pair.labels, pair.treated] + ([] if pair.control is None else [pair.control]), metric)
        readings = [Reading(pair.ids, *value_and_influence(columns[0], arm, metric)) for arm in columns[1:]]
        treated.append(readings[0])
        control += readings[1:]
    return gain_of(evidence(treated, control or None, -1 if metric in LOWER_IS_BETTER else 1))


def gain_of_values(
    treated: Sequence[float],
    control: Sequence[float] | None,
    lower_is_better: bool = False,
    num_test: int = 0,
    layout: Layout | None = None,
) -> Gain:
    """The gain from one number a seed, where no predictions are at hand: the interval covers the seeds only."""
    from scipy.special import stdtr, stdtrit

    per_seed = np.asarray(treated, dtype=float)
    if control is not None:
        per_seed = (per_seed - np.asarray(control, dtype=float)) * (-1 if lower_is_better else 1)
    if len(per_seed) == 1:
        return _result(per_seed, math.inf, math.inf, num_test, covers_examples=False)
    if layout is not None:
        parts = fold_variances(per_seed, layout, 0.0, num_test)
        p = p_value(float(per_seed.mean()), parts)
        half = float(half_width(parts))
        return _result(per_seed, parts.standard_error, half, num_test, covers_examples=False, layout=layout, p_value=p)
    error = float(np.std(per_seed, ddof=1)) / math.sqrt(len(per_seed))
    half = error * float(stdtrit(len(per_seed) - 1, 1 - LEVEL / 2))
    size = abs(float(per_seed.mean()))
    p = 2 * float(stdtr(len(per_seed) - 1, -size / error)) if error > 0 else float(size == 0)
    return _result(
        per_seed, error, half, num_test, covers_examples=False, p_value=p, seed_variance=error**2 * len(per_seed)
    )


def _result(
    per_seed: Array,
    error: float,
    half: float,
    num_test: int,
    covers_examples: bool,
    layout: Layout | None = None,
    **more: float,
) -> Gain:
    estimate = float(per_seed.mean())
    return Gain(
        estimate,
        estimate - half,
        estimate + half,
        error,
        tuple(float(value) for value in per_seed),
        num_seeds=layout.num_seeds if layout else len(per_seed),
        num_test=num_test,
        covers_seeds=len(per_seed) > 1,
        covers_examples=covers_examples,
        num_folds=layout.num_folds if layout else 0,
        **more,
    )
