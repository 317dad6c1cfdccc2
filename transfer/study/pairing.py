"""Which runs are twins, and what a set of twins shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.study.predictions import Predictions
from transfer.study.statistics import Gain, Pair, gain, gain_of_values
from transfer.study.strategies import Run, Strategy
from transfer.study.weighted_metrics import METRICS, NUMERIC, Array


@dataclass(frozen=True)
class Side:
    """One reading of a run: the prefix of its metrics, and the column of its predictions."""

    run: Run
    prefix: str
    column: str

    def value(self, metric: str) -> float | None:
        """The recorded test metric."""
        return self.run.metric(f"{self.prefix}/{metric}")


def twins(strategy: Strategy, strategies: Sequence[Strategy], arm: str) -> list[Strategy]:
    """The strategies of ``arm`` that ``strategy`` is compared with.

    Siblings that differ in a setting which ``strategy`` has as well (epochs, say) are narrowed to those that agree with
    it. The scratch arm's own settings narrow nothing: each of its variants is a baseline. Direct runs need the same
    freezing.
    """
    others = [s for s in strategies if s.arm == arm and s.budget == strategy.budget]
    if arm == "direct":
        others = [s for s in others if s.freezing == strategy.freezing]
    flat = strategy.runs[0].settings if strategy.runs else {}
    agreeing = [
        s
        for s in others
        if all(
            flat.get(key) == value
            for key, value in s.differences.items()
            if not key.startswith("scratch.") and key != "data"
        )
    ]
    return agreeing or (others if arm == "scratch" else [])


def pair_runs(treated: Strategy, control: Strategy) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Twin runs by their seeds, and a line for each that has no twin or differs from it in its data."""
    by_seeds = {run.repetition: run for run in control.runs}
    pairs, refused = [], []
    for run in treated.runs:
        twin = by_seeds.get(run.repetition)
        where = f"{treated.label} against {control.label}, {_size(run)}, seed {run.seed}"
        if twin is None:
            refused.append(f"{where}: there is no {control.label} run with {', '.join(run.seed_words())}.")
            continue
        problem = _difference(run, twin)
        if problem is None:
            pairs.append((run, twin))
        else:
            refused.append(f"{where}: {problem}.")
    return pairs, refused


def _size(run: Run) -> str:
    size = run.record.get("train_size")
    return f"{run.data.get('num_train')} labels" if size is None else f"{size} labels"


def _difference(first: Run, second: Run) -> str | None:
    for key, words in (("fingerprint", "the data differ"), ("subset_hash", "the training subsets differ")):
        here, there = first.data.get(key), second.data.get(key)
        if here != there:
            return f"{words} ({key} {str(here)[:10]} and {str(there)[:10]})"
    if first.predictions is None or second.predictions is None:
        return None
    here, there = first.predictions, second.predictions
    if not np.array_equal(np.sort(here.ids), np.sort(there.ids)):
        return f"the test examples differ ({len(here.ids)} and {len(there.ids)}, by id)"
    if not _equal(here.labels[np.argsort(here.ids, kind="stable")], there.labels[np.argsort(there.ids, kind="stable")]):
        return "the labels of the test examples differ"
    return None


def _equal(first: Array, second: Array) -> bool:
    if first.dtype == object:
        return all(set(a) == set(b) for a, b in zip(first, second, strict=True))
    return bool(np.array_equal(first, second))


def contrast(
    treated: Sequence[Side], control: Sequence[Side] | None, metric: str, lower_is_better: bool
) -> tuple[Gain, list[str]]:
    """The gain of paired sides: from predictions that reproduce the recorded metric, else from the metric alone.

    ``control`` None gives the level of one arm. The notes say why the test examples could not be accounted for.
    """
    everyone = [*treated, *(control or ())]
    notes = list(dict.fromkeys(reason for side in everyone if (reason := _unusable(side, metric)) is not None))
    if notes:
        return gain_of_values(
            _recorded(treated, metric),
            None if control is None else _recorded(control, metric),
            lower_is_better,
            int(treated[0].run.data.get("num_test") or 0),
        ), notes
    pairs = [_pair(side, None if control is None else control[index]) for index, side in enumerate(treated)]
    return gain(pairs, metric), notes


def _recorded(sides: Sequence[Side], metric: str) -> list[float]:
    values = [side.value(metric) for side in sides]
    assert all(value is not None for value in values), f"sides without {metric} reached the comparison"
    return [float(value) for value in values if value is not None]


def _unusable(side: Side, metric: str) -> str | None:
    """Why the predictions cannot stand for the recorded metric, or None."""
    found = side.run.predictions
    if metric not in METRICS:
        return f"{metric} cannot be computed from single predictions"
    if found is None or side.column not in found.columns:
        return f"a run kept no column {side.column} in its predictions"
    if metric in NUMERIC and not np.issubdtype(found.labels.dtype, np.floating):
        return f"{metric} needs numbers as labels"
    value = side.value(metric)
    again = gain([_pair(side, None)], metric, draws=2).estimate
    # Another reduction order or half precision may move the last digits; another definition moves more.
    if value is None or not math.isclose(again, value, rel_tol=2e-3, abs_tol=1e-3):
        return f"the predictions give another {metric} than was recorded ({again:.4g} and {value:.4g})"
    return None


def _pair(treated: Side, control: Side | None) -> Pair:
    ours = treated.run.predictions
    assert ours is not None
    theirs = None if control is None or control.run.predictions is None else _aligned(control, ours)
    return Pair(ours.ids, ours.labels, ours.columns[treated.column], theirs)


def _aligned(control: Side, ours: Predictions) -> Array:
    """The control's predictions in the order of ``ours``."""
    theirs = control.run.predictions
    assert theirs is not None
    if np.array_equal(ours.ids, theirs.ids):
        return theirs.columns[control.column]
    order = np.empty(len(ours.ids), dtype=int)
    order[np.argsort(ours.ids, kind="stable")] = np.argsort(theirs.ids, kind="stable")
    return theirs.columns[control.column][order]
