"""What a page shows beside the table: learning, classes, examples, costs and second opinions.

A study may hold hundreds of gains. What has to be looked at one by one is made for the first `MOST_SHOWN` of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transfer.study.answers import Changed, ClassScore, Confusion, changed, class_metric, confusion, per_class
from transfer.study.learning import Curve, Speed, curve, speed
from transfer.study.pairing import Side, as_pair, evidence_of
from transfer.study.parents import Cost, Parents, cost
from transfer.study.resampling import hierarchical_bootstrap, permutation_p
from transfer.study.results import Comparison, Contrast, Row
from transfer.study.strategies import Record

MOST_SHOWN = 12
_DRAWS = 200_000  # of all gains together


@dataclass(frozen=True)
class Opinion:
    """The paired hierarchical bootstrap's 95 % interval and the permutation test's p; nan without predictions."""

    low: float = math.nan
    high: float = math.nan
    p: float = math.nan


@dataclass
class Details:
    """Lists of (row, ..., what was found). ``opinions`` are in the order of `Comparison.gains`.

    ``curves``: the validation curves of each shown row, seed by seed. ``num_left_out``: gains that are not shown.
    """

    speeds: list[tuple[Row, Contrast, Speed]] = field(default_factory=list)
    curves: list[tuple[Row, list[Curve]]] = field(default_factory=list)
    class_metric: str | None = None
    classes: list[ClassScore] = field(default_factory=list)
    confusions: list[tuple[Row, Confusion]] = field(default_factory=list)
    changes: list[tuple[Row, Contrast, Changed]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    sources: list[tuple[Cost, int]] = field(default_factory=list)
    opinions: list[Opinion] = field(default_factory=list)
    num_left_out: int = 0


def build(comparison: Comparison) -> Details:
    """Reads the learning curves and answers of the gains that are shown; without `opinions`, which take longer."""
    shown = comparison.gains[:MOST_SHOWN]
    found = Details(num_left_out=len(comparison.gains) - len(shown))
    found.class_metric = class_metric(comparison)
    if found.class_metric is not None:
        found.classes = per_class(comparison, found.class_metric)
    for row, contrast in shown:
        pace = speed(contrast, comparison.metric, comparison.higher_is_better)
        found.speeds += [(row, contrast, pace)] if pace is not None else []
        difference = changed(contrast, comparison.metric, comparison.higher_is_better)
        found.changes += [(row, contrast, difference)] if difference is not None else []
    for row in _rows_of(comparison, shown):
        # Answers that are no classes (texts, tags of words) have no table.
        table = confusion(row.sides) if found.class_metric is not None else None
        found.confusions += [(row, table)] if table is not None else []
        lines = [line for side in row.sides if (line := curve(side.run, comparison.metric)) is not None]
        found.curves += [(row, lines)] if lines else []
    found.costs = [
        cost(row.label, row.num_labels, [side.run.record for side in row.sides])
        for row in comparison.rows
        if not row.secondary
    ]
    found.sources = _sources(comparison)
    return found


def opinions(comparison: Comparison) -> list[Opinion]:
    """The second opinions on all gains; of many gains, from fewer draws each."""
    draws = min(2000, max(200, _DRAWS // max(len(comparison.gains), 1)))
    return [_opinion(contrast, comparison.metric, draws) for _, contrast in comparison.gains]


def _rows_of(comparison: Comparison, shown: list[tuple[Row, Contrast]]) -> list[Row]:
    """The rows of the shown gains, their twins from scratch and, of the same budgets, the direct ones."""
    budgets = {row.budget for row, _ in shown}
    chosen = {id(row) for row, _ in shown}
    against = {(row.budget, contrast.against) for row, contrast in shown}
    rows = [row for row in comparison.rows if row.budget in budgets and not row.secondary]
    return [row for row in rows if id(row) in chosen or (row.budget, row.label) in against]


def _sources(comparison: Comparison) -> list[tuple[Cost, int]]:
    """The cost of every source run, once, and how many target runs it served."""
    parents = Parents(comparison.records)
    runs: dict[str, Record] = {}
    uses: dict[str, int] = {}
    other: dict[str, str] = {}
    for row in comparison.rows:
        for side in row.sides if not row.secondary else ():
            for record in parents.line(side.run):
                name = record["fingerprint"]
                runs[name] = record
                uses[name] = uses.get(name, 0) + 1
                if record.get("task") != side.run.record.get("task"):
                    new = (side.run.record.get("weights") or {}).get("reinitialised")
                    other[name] = f" by {record.get('task')}" + (", its head left behind" if new else "")
    return [
        (
            cost(
                f"source {r.get('source')}{other.get(name, '')} ({r.get('run_id')})",
                (r.get("data") or {}).get("num_train"),
                [r],
            ),
            uses[name],
        )
        for name, r in runs.items()
    ]


def _opinion(contrast: Contrast, metric: str, draws: int) -> Opinion:
    if not contrast.gain.covers_examples:
        return Opinion()
    treated: list[Side] = list(contrast.treated)
    found = evidence_of(treated, contrast.control, metric)
    pairs = [as_pair(t, c, metric) for t, c in zip(treated, contrast.control, strict=True)]
    low, high = hierarchical_bootstrap(found, pairs, metric, draws=draws)
    return Opinion(low, high, permutation_p(found, draws=draws))
