"""Pairs the arms of a study run by run and says which one is better, by how much and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from transfer.errors import Problem, UserError
from transfer.study import sentences
from transfer.study.pairing import Side, contrast, pair_runs, twins
from transfer.study.statistics import Gain, Spread, spread
from transfer.study.strategies import Budget, Record, Run, Strategy, build
from transfer.study.weighted_metrics import LOWER_IS_BETTER

Baseline = Literal["converged", "equal_steps"]
_SCRATCH = {"converged": ("test", "prediction"), "equal_steps": ("test_equal_steps", "prediction_equal_steps")}


@dataclass
class Contrast:
    """A gain over another strategy or floor. ``notes`` say what its interval leaves out and why."""

    against: str
    gain: Gain
    notes: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One strategy on one budget. ``level`` is the interval of its own mean.

    `beats_floor` compares with the floor that is best on the test data, which favours the floor. A `secondary` row is
    the scratch arm read the other way (equal steps or converged): shown, not compared. ``commands`` repeat the runs,
    ``missing`` make the scratch twins that some lack, ``outdated`` repeat those whose twin saw other data.
    """

    budget: Budget
    num_labels: int
    label: str
    arm: str
    source: str | None
    seeds: list[int]
    values: list[float]
    score: Spread
    level: Gain
    over_scratch: list[Contrast] = field(default_factory=list)
    over_direct: list[Contrast] = field(default_factory=list)
    over_floor: Contrast | None = None
    secondary: bool = False
    commands: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)

    @property
    def beats_floor(self) -> bool | None:
        """Whether the whole interval over the best floor is above 0; None without floors."""
        return None if self.over_floor is None else self.over_floor.gain.verdict == "gain"


@dataclass
class FloorRow:
    """A floor on one budget, over the label subsets of the runs."""

    budget: Budget
    num_labels: int
    name: str
    score: Spread


@dataclass
class Comparison:
    """What `compare` found. ``next_commands`` would settle what is open, `Row.commands` repeat the runs."""

    experiments: list[str]
    question: str
    metric: str
    higher_is_better: bool
    baseline: Baseline
    rows: list[Row]
    floors: list[FloorRow]
    sentences: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)


def compare(records: Sequence[Record], baseline: Baseline = "converged", metric: str | None = None) -> Comparison:
    """Compare the target runs among ``records``, paired by data, label subset and seeds.

    ``baseline`` says which scratch numbers a gain is against. ``metric`` is a name without its split (``accuracy``), by
    default the monitored one. Raises UserError when there is nothing to compare.
    """
    if baseline not in _SCRATCH:
        raise UserError(Problem("baseline", baseline, " | ".join(_SCRATCH), "choose one of these"))
    strategies, refused = build(records)
    if not strategies:
        raise UserError(_nothing(records, refused))
    metric, higher = _metric(strategies, metric)
    _require_baseline(strategies, baseline, metric)
    refused += _drop_unmeasured(strategies, metric, baseline)
    strategies = [strategy for strategy in strategies if strategy.runs]
    rows = []
    for strategy in strategies:
        row = _row(strategy, strategies, metric, higher, baseline, refused)
        rows += [row, *_secondary(strategy, metric, higher, baseline)]
    if not any(row.over_scratch or row.over_direct or (row.arm != "scratch" and row.over_floor) for row in rows):
        raise UserError(_unpaired(strategies, refused))
    experiments = sorted(
        {str(run.record["experiment"]) for s in strategies for run in s.runs if run.record.get("experiment")}
    )
    result = Comparison(
        experiments,
        sentences.question(strategies),
        metric,
        higher,
        baseline,
        rows,
        _floor_rows(strategies, metric),
        refused=list(dict.fromkeys(refused)),
    )
    result.sentences = sentences.verdicts(result)
    result.next_commands = sentences.next_commands(result, strategies)
    return result


def _metric(strategies: list[Strategy], metric: str | None) -> tuple[str, bool]:
    """The metric's bare name, and whether higher is better."""
    runs = [run for strategy in strategies for run in strategy.runs]
    monitors = {str(m["name"]).split("/")[-1]: m.get("mode") for m in (run.record.get("monitor") for run in runs) if m}
    recorded = sorted(
        {
            name.removeprefix("test/")
            for run in runs
            for name in run.record.get("metrics") or {}
            if name.startswith("test/")
        }
    )
    if metric is None and len(monitors) == 1:
        metric = next(iter(monitors))
    if metric is None:
        raise UserError(
            Problem(
                "metric",
                f"runs that monitor {', '.join(sorted(monitors)) or 'nothing'}",
                ", ".join(recorded),
                "name the metric to compare",
            )
        )
    metric = metric.split("/")[-1]
    if metric not in recorded:
        raise UserError(Problem("metric", metric, ", ".join(recorded), "name a metric recorded on the test data"))
    mode = monitors.get(metric)
    return metric, metric not in LOWER_IS_BETTER if mode is None else mode == "max"


def _require_baseline(strategies: list[Strategy], baseline: Baseline, metric: str) -> None:
    scratch = [run for strategy in strategies if strategy.arm == "scratch" for run in strategy.runs]
    name = f"{_SCRATCH[baseline][0]}/{metric}"
    if scratch and all(run.metric(name) is None for run in scratch):
        action = f"no scratch run recorded {name}: compare with the converged one"
        raise UserError(Problem("baseline", baseline, "converged", action))


def _side(run: Run, arm: str, baseline: Baseline) -> Side:
    return Side(run, *(_SCRATCH[baseline] if arm == "scratch" else _SCRATCH["converged"]))


def _drop_unmeasured(strategies: list[Strategy], metric: str, baseline: Baseline) -> list[str]:
    """Take out the runs that did not record the metric, saying so."""
    notes = []
    for strategy in strategies:
        measured = [run for run in strategy.runs if _side(run, strategy.arm, baseline).value(metric) is not None]
        notes += [
            f"{strategy.label}, {sentences.budget_words(strategy.budget, num_labels(run))}, seed {run.seed}: "
            f"it recorded no {metric}."
            for run in strategy.runs
            if run not in measured
        ]
        strategy.runs = measured
    return notes


def num_labels(run: Run) -> int:
    """Labelled training examples of a run."""
    size = run.record.get("train_size")
    return int(run.data.get("num_train") or 0) if size is None else int(size)


def _row(
    strategy: Strategy, strategies: list[Strategy], metric: str, higher: bool, baseline: Baseline, refused: list[str]
) -> Row:
    sides = [_side(run, strategy.arm, baseline) for run in strategy.runs]
    row = _bare_row(strategy, sides, metric, higher, strategy.label)
    row.commands = [sentences.command(run, strategy, strategies) for run in strategy.runs]
    if strategy.arm == "scratch":
        row.over_floor = _over_floor(sides, metric, higher)
        return row
    against = twins(strategy, strategies, "scratch")
    paired = set()
    for twin in against:
        pairs, problems = pair_runs(strategy, twin)
        refused += problems
        paired |= {id(first) for first, _ in pairs}
        if pairs:
            row.over_scratch.append(_contrast(strategy, twin, pairs, metric, higher, baseline))
    alone = [run for run in strategy.runs if id(run) not in paired]
    row.missing = [sentences.command(run, strategy, strategies, arm="scratch") for run in alone]
    twinned = {run.repetition for twin in against for run in twin.runs}
    row.outdated = [sentences.command(run, strategy, strategies) for run in alone if run.repetition in twinned]
    for twin in twins(strategy, strategies, "direct") if strategy.arm == "transfer" else []:
        pairs, problems = pair_runs(strategy, twin)
        refused += problems
        if pairs:
            row.over_direct.append(_contrast(strategy, twin, pairs, metric, higher, baseline))
    row.over_floor = _over_floor(sides, metric, higher)
    return row


def _bare_row(strategy: Strategy, sides: list[Side], metric: str, higher: bool, label: str) -> Row:
    values = [value for side in sides if (value := side.value(metric)) is not None]
    level, _ = contrast(sides, None, metric, not higher)
    return Row(
        strategy.budget,
        num_labels(sides[0].run),
        label,
        strategy.arm,
        strategy.source,
        [side.run.seed for side in sides],
        values,
        spread(values),
        level,
    )


def _contrast(
    strategy: Strategy, twin: Strategy, pairs: list[tuple[Run, Run]], metric: str, higher: bool, baseline: Baseline
) -> Contrast:
    treated = [_side(first, strategy.arm, baseline) for first, _ in pairs]
    control = [_side(second, twin.arm, baseline) for _, second in pairs]
    return Contrast(twin.label, *contrast(treated, control, metric, not higher))


def _secondary(strategy: Strategy, metric: str, higher: bool, baseline: Baseline) -> list[Row]:
    """The scratch arm read the other way, where it was recorded."""
    if strategy.arm != "scratch":
        return []
    other: Baseline = "equal_steps" if baseline == "converged" else "converged"
    sides = [_side(run, "scratch", other) for run in strategy.runs]
    if any(side.value(metric) is None for side in sides):
        return []
    words = "equal steps" if other == "equal_steps" else "converged"
    row = _bare_row(strategy, sides, metric, higher, f"{strategy.label}, {words}")
    row.secondary = True
    return [row]


def _floors(run: Run, metric: str) -> dict[str, float]:
    found = {}
    for name in run.record.get("metrics") or {}:
        prefix, _, last = name.partition("/")
        value = run.metric(name) if prefix.startswith("floor_") and last == metric else None
        if value is not None:
            found[prefix.removeprefix("floor_")] = value
    return found


def _over_floor(sides: list[Side], metric: str, higher: bool) -> Contrast | None:
    each = [_floors(side.run, metric) for side in sides]
    names = set.intersection(*(set(floors) for floors in each))
    if not names:
        return None
    sign = 1 if higher else -1
    best = max(sorted(names), key=lambda name: sign * sum(floors[name] for floors in each))
    control = [Side(side.run, f"floor_{best}", f"prediction_{best}") for side in sides]
    return Contrast(best, *contrast(sides, control, metric, not higher))


def _floor_rows(strategies: list[Strategy], metric: str) -> list[FloorRow]:
    values: dict[tuple[Budget, str], dict[object, tuple[int, float]]] = {}
    for strategy in strategies:
        for run in strategy.runs:
            for name, value in _floors(run, metric).items():
                subset = (run.data.get("fingerprint"), run.data.get("subset_hash"))
                values.setdefault((strategy.budget, name), {})[subset] = (num_labels(run), value)
    return [
        FloorRow(budget, next(iter(found.values()))[0], name, spread([value for _, value in found.values()]))
        for (budget, name), found in sorted(values.items(), key=lambda item: (item[0][0].sort_key, item[0][1]))
    ]


def _nothing(records: Sequence[Record], refused: list[str]) -> Problem:
    received = f"{len(records)} records, none of them a complete target run"
    return Problem(
        "records",
        received + ("; " + " ".join(refused) if refused else ""),
        "complete runs of two arms",
        "run `transfer run experiment=NAME arm=transfer` and `transfer run experiment=NAME arm=scratch`",
    )


def _unpaired(strategies: list[Strategy], refused: list[str]) -> Problem:
    have = sorted({strategy.arm for strategy in strategies})
    first = strategies[0]
    wanted = "transfer" if have == ["scratch"] else "scratch"
    lines = [sentences.command(run, first, strategies, arm=wanted) for run in first.runs]
    received = f"runs of {have[0]} only" if len(have) == 1 else "no two runs on the same labels: " + " ".join(refused)
    return Problem(
        "records",
        received,
        "runs of two arms on the same data, labels and seeds",
        "run " + ", ".join(f"`{line}`" for line in lines),
    )
