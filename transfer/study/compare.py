"""Pairs the arms of a study run by run and says which one is better, by how much and how surely."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.errors import Problem, UserError
from transfer.records import without_collector
from transfer.study import pairing, sentences
from transfer.study.commands import Commands, next_commands, use_command
from transfer.study.diagnosis import collapsed, reasons
from transfer.study.floor_rows import Known, floor_rows, over_floor
from transfer.study.labels_saved import efficiency
from transfer.study.pairing import Side, pair_runs, same_examples, twins
from transfer.study.parents import Parents
from transfer.study.power import against_seed_noise, seeds_needed
from transfer.study.resampling import holm
from transfer.study.results import SCRATCH, Baseline, Comparison, Contrast, Row
from transfer.study.statistics import spread
from transfer.study.strategies import Record, Run, Strategy, build
from transfer.study.weighted_metrics import LOWER_IS_BETTER, METRICS
from transfer.study.words import budget_words


def compare(
    records: Sequence[Record], baseline: Baseline = "converged", metric: str | None = None, size: float | None = None
) -> Comparison:
    """Compare the target runs among ``records``, paired by data, label subset, budget and seeds.

    ``baseline`` says which scratch numbers a gain is against. ``metric`` is a name without its split (``accuracy``), by
    default the monitored one. ``size``: the gain, in the metric's own unit, for which the seeds needed are asked; by
    default each one's own. Raises UserError when there is nothing to compare.
    """
    if baseline not in SCRATCH:
        raise UserError(Problem("baseline", baseline, " | ".join(SCRATCH), "choose one of these"))
    if size is not None and not size > 0:
        raise UserError(Problem("size", size, "a number above 0", "name the gain that would matter to you"))
    with without_collector():
        return _compare(records, baseline, metric, size)


def _compare(records: Sequence[Record], baseline: Baseline, metric: str | None, size: float | None) -> Comparison:
    strategies, refused = build(records)
    if not strategies:
        raise UserError(_nothing(records, refused))
    metric, higher = _metric(strategies, metric)
    _require_baseline(strategies, baseline, metric)
    refused += _drop_unmeasured(strategies, metric, baseline)
    strategies = [strategy for strategy in strategies if strategy.runs]
    study = _Study(strategies, metric, higher, baseline, refused)
    rows = [row for strategy in strategies for row in (study.row(strategy), *study.secondary(strategy))]
    if not any(row.over_scratch or row.over_direct or (row.arm != "scratch" and row.over_floor) for row in rows):
        raise UserError(_unpaired(strategies, refused, study.commands))
    result = Comparison(
        sorted({str(run.record["experiment"]) for s in strategies for run in s.runs if run.record.get("experiment")}),
        sentences.question(strategies),
        metric,
        higher,
        baseline,
        rows,
        floor_rows(strategies, metric),
        refused=list(dict.fromkeys(refused)),
        size=size,
        strategies=strategies,
        records=records,
    )
    _conclude(result, study.commands)
    return result


def _conclude(result: Comparison, commands: Commands) -> None:
    """What can only be said once every gain is there."""
    # What is asked together: all gains over scratch; and apart from them those over the published weights.
    _correct([contrast for _, contrast in result.gains])
    _correct([contrast for row in result.rows for contrast in row.over_direct])
    parents = Parents(result.records)
    deviations = {(row.budget, row.label): row.score.sd for row in result.rows}
    for row, contrast in result.gains:
        contrast.noise = against_seed_noise(contrast.gain, deviations[row.budget, contrast.against])
        contrast.needed = seeds_needed(contrast.gain, result.size)
        if contrast.gain.estimate < 0 and contrast.gain.verdict != "gain":
            contrast.reasons = reasons(contrast, result.metric, result.higher_is_better, parents)
    result.saved, result.crossovers = efficiency(result.rows, result.higher_is_better)
    result.headline = sentences.headline(result)
    result.sentences = sentences.verdicts(result)
    result.next_commands = next_commands(result, commands)
    result.use_command = use_command(result)


def _correct(family: list[Contrast]) -> None:
    for contrast, adjusted in zip(family, holm([c.gain.p_value for c in family]), strict=True):
        contrast.p_holm, contrast.family = adjusted, len(family)


class _Study:
    """Makes the rows of a comparison; ``refused`` grows by what could not be paired."""

    def __init__(
        self, strategies: list[Strategy], metric: str, higher: bool, baseline: Baseline, refused: list[str]
    ) -> None:
        self.strategies, self.metric, self.higher, self.baseline = strategies, metric, higher, baseline
        self.refused = refused
        self.commands = Commands(strategies)
        self.floors: Known = {}

    def row(self, strategy: Strategy) -> Row:
        """A strategy on its budget, against every twin that it has."""
        sides = [_side(run, strategy.arm, self.baseline) for run in strategy.runs]
        row = self._bare(strategy, sides, strategy.label)
        row.commands = [self.commands.command(run, strategy) for run in strategy.runs]
        row.collapsed = collapsed(sides, self.metric, self.higher)
        row.over_floor = over_floor(sides, self.metric, self.higher, self.floors)
        if strategy.arm == "scratch":
            return row
        against = twins(strategy, self.strategies, "scratch")
        row.over_scratch = self._contrasts(strategy, against)
        paired = {id(side.run) for contrast in row.over_scratch for side in contrast.treated}
        alone = [run for run in strategy.runs if id(run) not in paired]
        row.missing = [self.commands.command(run, strategy, arm="scratch") for run in alone]
        twinned = {run.repetition for twin in against for run in twin.runs}
        row.outdated = [self.commands.command(run, strategy) for run in alone if run.repetition in twinned]
        if strategy.arm == "transfer":
            row.over_direct = self._contrasts(strategy, twins(strategy, self.strategies, "direct"))
        return row

    def _contrasts(self, strategy: Strategy, others: list[Strategy]) -> list[Contrast]:
        found = []
        for twin in others:
            pairs, problems = pair_runs(strategy, twin)
            self.refused += problems
            if self._is_computed(pairs):  # else the predictions play no part, and are not read
                pairs, problems = same_examples(pairs, f"{strategy.label} against {twin.label}")
                self.refused += problems
            if pairs:
                found.append(self._contrast(strategy, twin, pairs))
        return found

    def _is_computed(self, pairs: list[tuple[Run, Run]]) -> bool:
        """Whether the metric can be had from the predictions."""
        return self.metric in METRICS or any(
            _side(run, "transfer", self.baseline).terms(self.metric) is not None for run, _ in pairs[:1]
        )

    def _contrast(self, strategy: Strategy, twin: Strategy, pairs: list[tuple[Run, Run]]) -> Contrast:
        treated = [_side(first, strategy.arm, self.baseline) for first, _ in pairs]
        control = [_side(second, twin.arm, self.baseline) for _, second in pairs]
        gain, notes = pairing.contrast(treated, control, self.metric, not self.higher)
        return Contrast(twin.label, gain, notes, treated, control)

    def _bare(self, strategy: Strategy, sides: list[Side], label: str) -> Row:
        values = [value for side in sides if (value := side.value(self.metric)) is not None]
        level, _ = pairing.contrast(sides, None, self.metric, not self.higher)
        return Row(
            strategy.budget,
            sides[0].run.num_labels,
            label,
            strategy.arm,
            strategy.source,
            [side.run.seed for side in sides],
            values,
            spread(values),
            level,
            sides,
        )

    def secondary(self, strategy: Strategy) -> list[Row]:
        """The scratch arm read the other way, where it was recorded."""
        if strategy.arm != "scratch":
            return []
        other: Baseline = "equal_steps" if self.baseline == "converged" else "converged"
        sides = [_side(run, "scratch", other) for run in strategy.runs]
        if any(side.value(self.metric) is None for side in sides):
            return []
        words = "equal steps" if other == "equal_steps" else "converged"
        row = self._bare(strategy, sides, f"{strategy.label}, {words}")
        row.secondary = True
        return [row]


def _metric(strategies: list[Strategy], metric: str | None) -> tuple[str, bool]:
    """The metric's bare name, and whether higher is better."""
    runs = [run for strategy in strategies for run in strategy.runs]
    monitors = {str(m["name"]).split("/")[-1]: m.get("mode") for m in (run.record.get("monitor") for run in runs) if m}
    names = {name for run in runs for name in run.record.get("metrics") or {}}
    recorded = sorted(name.removeprefix("test/") for name in names if name.startswith("test/"))
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
    name = f"{SCRATCH[baseline][0]}/{metric}"
    if scratch and all(run.metric(name) is None for run in scratch):
        action = f"no scratch run recorded {name}: compare with the converged one"
        raise UserError(Problem("baseline", baseline, "converged", action))


def _side(run: Run, arm: str, baseline: Baseline) -> Side:
    return Side(run, *(SCRATCH[baseline] if arm == "scratch" else SCRATCH["converged"]))


def _drop_unmeasured(strategies: list[Strategy], metric: str, baseline: Baseline) -> list[str]:
    """Take out the runs that did not record the metric, saying so."""
    notes = []
    for strategy in strategies:
        measured = [run for run in strategy.runs if _side(run, strategy.arm, baseline).value(metric) is not None]
        kept = set(map(id, measured))
        notes += [
            f"{strategy.label}, {budget_words(strategy.budget, run.num_labels)}, {run.name}: it recorded no {metric}."
            for run in strategy.runs
            if id(run) not in kept
        ]
        strategy.runs = measured
    return notes


def _nothing(records: Sequence[Record], refused: list[str]) -> Problem:
    received = f"{len(records)} records, none of them a complete target run"
    return Problem(
        "records",
        received + ("; " + " ".join(refused) if refused else ""),
        "complete runs of two arms",
        "run `transfer run experiment=NAME arm=transfer` and `transfer run experiment=NAME arm=scratch`",
    )


def _unpaired(strategies: list[Strategy], refused: list[str], commands: Commands) -> Problem:
    have = sorted({strategy.arm for strategy in strategies})
    first = strategies[0]
    wanted = "transfer" if have == ["scratch"] else "scratch"
    lines = [commands.command(run, first, arm=wanted) for run in first.runs]
    received = f"runs of {have[0]} only" if len(have) == 1 else "no two runs on the same labels: " + " ".join(refused)
    return Problem(
        "records",
        received,
        "runs of two arms on the same data, labels, budget and seeds",
        "run " + ", ".join(f"`{line}`" for line in lines),
    )
