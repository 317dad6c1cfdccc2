"""Which runs are twins, and what a set of twins shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.study.folds import Layout, overlap
from transfer.study.influence import encoded, value_and_influence
from transfer.study.settings import SEEDS, flatten
from transfer.study.statistics import (
    Evidence,
    Gain,
    Pair,
    Reading,
    aligned,
    evidence,
    gain_of,
    gain_of_values,
)
from transfer.study.strategies import Run, Strategy
from transfer.study.terms import UNKNOWN
from transfer.study.weighted_metrics import LOWER_IS_BETTER, METRICS, NUMERIC, Array

PREDICTION = "prediction"
_CONDITIONS = ("the budgets differ", "the tasks differ")


@dataclass(frozen=True)
class Side:
    """One reading of a run: the prefix of its metrics, and the column of its predictions."""

    run: Run
    prefix: str
    column: str

    def value(self, metric: str) -> float | None:
        """The recorded test metric."""
        return self.run.metric(f"{self.prefix}/{metric}")

    def answers(self) -> Array | None:
        """The predictions [n], None where the run kept none."""
        found = self.run.predictions
        return None if found is None or self.column not in found.names else found.column(self.column)

    def terms(self, metric: str) -> Array | None:
        """What the metric is made of [n, k], where it is made of terms and the run kept them."""
        found = None if metric in UNKNOWN else self.run.predictions
        return None if found is None else found.terms(metric, self.column.removeprefix(PREDICTION))

    def judged(self, metric: str) -> Array | None:
        """What the metric is computed from: its terms, else the predictions."""
        found = self.terms(metric)
        return self.answers() if found is None else found


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
    """Twin runs by their seeds, and a line for each that has no twin or differs from it in data, subset or budget."""
    by_seeds = {run.repetition: run for run in control.runs}
    pairs, refused = [], []
    for run in treated.runs:
        twin = by_seeds.get(run.repetition)
        where = f"{treated.label} against {control.label}, {run.num_labels} labels, {run.name}"
        if twin is None:
            refused.append(f"{where}: there is no {control.label} run with {', '.join(run.seed_words())}.")
            continue
        problem = _difference(run, twin)
        if problem is None:
            pairs.append((run, twin))
        else:
            refused.append(f"{where}: {problem}.")
    return pairs, refused


def _difference(first: Run, second: Run) -> str | None:
    """What keeps two runs from being twins, named with both values."""
    for key, words in (("fingerprint", "the data differ"), ("subset_hash", "the training subsets differ")):
        here, there = first.data.get(key), second.data.get(key)
        if here != there:
            return f"{words} ({key} {str(here)[:10]} and {str(there)[:10]})"
    for split in ("train", "val", "test"):
        here, there = first.data.get(f"num_{split}"), second.data.get(f"num_{split}")
        if here != there:
            return f"the numbers of {split} examples differ ({here} and {there})"
    for words, here, there in zip(_CONDITIONS, first.conditions, second.conditions, strict=True):
        if here != there:
            ours, theirs = flatten(here), flatten(there)
            key = min(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
            return f"{words} ({key} {ours.get(key)} and {theirs.get(key)})"
    return None


def _other_examples(first: Run, second: Run) -> str | None:
    """How the test examples of two runs differ, which only their predictions tell."""
    if first.predictions is None or second.predictions is None:
        return None
    here, there = first.predictions, second.predictions
    if here.ids is not there.ids and not np.array_equal(np.sort(here.ids), np.sort(there.ids)):
        return f"the test examples differ ({len(here.ids)} and {len(there.ids)}, by id)"
    if here.labels is not there.labels and not _equal(here.labels, aligned(there.labels, there.ids, here.ids)):
        return "the labels of the test examples differ"
    return None


def same_examples(pairs: list[tuple[Run, Run]], where: str) -> tuple[list[tuple[Run, Run]], list[str]]:
    """The pairs whose predictions are of the same test examples, and a line for each other one."""
    kept, refused = [], []
    for first, second in pairs:
        problem = _other_examples(first, second)
        if problem is None:
            kept.append((first, second))
        else:
            refused.append(f"{where}, {first.num_labels} labels, {first.name}: {problem}.")
    return kept, refused


def _equal(first: Array, second: Array) -> bool:
    return bool(np.array_equal(first, second))


def contrast(
    treated: Sequence[Side], control: Sequence[Side] | None, metric: str, lower_is_better: bool
) -> tuple[Gain, list[str]]:
    """The gain of paired sides: from predictions that reproduce the recorded metric, else from the metric alone.

    ``control`` None gives the level of one arm. The notes say why the test examples could not be accounted for.
    """
    everyone = [*treated, *(control or ())]
    notes = list(dict.fromkeys(reason for side in everyone if isinstance(reason := _read(side, metric), str)))
    if notes:
        return gain_of_values(
            _recorded(treated, metric),
            None if control is None else _recorded(control, metric),
            lower_is_better,
            _num_test(treated),
            layout_of(treated),
        ), notes
    return gain_of(evidence_of(treated, control, metric), with_p=control is not None), notes


def evidence_of(treated: Sequence[Side], control: Sequence[Side] | None, metric: str) -> Evidence:
    """The gains and influences of sides whose predictions are usable."""
    ours = [reading(side, metric) for side in treated]
    theirs = None if control is None else [reading(side, metric) for side in control]
    return evidence(ours, theirs, -1 if metric in LOWER_IS_BETTER else 1, layout_of(treated))


def layout_of(sides: Sequence[Side]) -> Layout | None:
    """How the runs of a cross-validation lie over folds and seeds; None for one fold, or without."""
    runs = [side.run for side in sides]
    # Another data seed draws other folds.
    data_seed = SEEDS.index("data_seed")
    folds = tuple((run.seeds[data_seed], run.fold) for run in runs)
    if any(run.fold is None for run in runs) or len(set(folds)) < 2:
        return None
    seeds = tuple((*run.seeds[:data_seed], *run.seeds[data_seed + 1 :]) for run in runs)
    return Layout(folds, seeds, statistics.mean(_overlap(run) for run in runs))


def _overlap(run: Run) -> float:
    train, test = int(run.data.get("num_train") or 0), int(run.data.get("num_test") or 0)
    others = test * (int(run.data["folds"]) - 1) - int(run.data.get("num_val") or 0)
    # With a budget, the rows it was drawn from: those of the other folds less validation.
    return overlap(train, train if run.record.get("train_size") is None else max(train, others), test)


def _num_test(sides: Sequence[Side]) -> int:
    """Test examples, those of all folds."""
    by_fold = {side.run.fold: int(side.run.data.get("num_test") or 0) for side in sides}
    return sum(by_fold.values())


def as_pair(treated: Side, control: Side, metric: str) -> Pair:
    """What the metric of two sides is computed from, in the order of the first."""
    ours, theirs = treated.run.predictions, control.run.predictions
    assert ours is not None
    assert theirs is not None
    first, second = treated.judged(metric), control.judged(metric)
    assert first is not None
    assert second is not None
    return Pair(ours.ids, ours.labels, first, aligned(second, theirs.ids, ours.ids))


def _recorded(sides: Sequence[Side], metric: str) -> list[float]:
    values = [side.value(metric) for side in sides]
    assert all(value is not None for value in values), f"sides without {metric} reached the comparison"
    return [float(value) for value in values if value is not None]


def reading(side: Side, metric: str) -> Reading:
    """What the predictions of a side say; they have to be usable."""
    found = _read(side, metric)
    assert isinstance(found, Reading), found
    return found


def _read(side: Side, metric: str) -> Reading | str:
    """Computed once for each run, column and metric: a run is compared with several others."""
    known: dict[tuple[str, str], Any] = side.run.readings
    key = side.column, metric
    if key not in known:
        known[key] = _read_anew(side, metric)
    found: Reading | str = known[key]
    return found


def _read_anew(side: Side, metric: str) -> Reading | str:
    """The reading, or why the predictions cannot stand for the recorded metric."""
    terms = side.terms(metric)
    if metric not in METRICS and terms is None:
        return f"{metric} cannot be computed from single predictions"
    found, answers = side.run.predictions, side.answers()
    if found is None or answers is None:
        return f"a run kept no column {side.column} in its predictions"
    if terms is None and metric in NUMERIC and not np.issubdtype(found.labels.dtype, np.floating):
        return f"{metric} needs numbers as labels"
    labels, judged = encoded([found.labels, answers if terms is None else terms], metric)
    again, influence = value_and_influence(labels, judged, metric)
    value = side.value(metric)
    # Another reduction order or half precision may move the last digits; another definition moves more.
    if value is None or not math.isclose(again, value, rel_tol=2e-3, abs_tol=1e-3):
        return f"the predictions give another {metric} than was recorded ({again:.4g} and {value:.4g})"
    return Reading(found.ids, again, influence)
