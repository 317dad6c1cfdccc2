"""What a comparison says in words, and the commands that would say more."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transfer.study.statistics import Gain
from transfer.study.strategies import Budget, Run, Strategy, unread

if TYPE_CHECKING:
    from transfer.study.compare import Comparison, Contrast, Row

METRIC_WORDS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "precision": "precision",
    "precision_macro": "macro precision",
    "recall": "recall",
    "recall_macro": "macro recall",
    "mcc": "MCC",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
_PERCENT = frozenset(
    {"accuracy", "f1", "f1_macro", "f1_micro", "precision", "precision_macro", "recall", "recall_macro"}
)
FLOOR_WORDS = {"majority": "majority class", "mean": "mean", "tfidf": "TF-IDF", "linear": "linear"}
_MANY_GAINS = 5


def metric_words(metric: str) -> str:
    """The metric as it is written in a sentence or on an axis."""
    return METRIC_WORDS.get(metric, metric)


def is_percent(metric: str) -> bool:
    """Whether the metric is a share, shown in percent, its differences in points."""
    return metric in _PERCENT


def number(value: float, metric: str, signed: bool = False) -> str:
    """A value or difference of the metric in the unit it is shown in, without the unit."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.1f}" if is_percent(metric) else f"{value:{sign}.3g}"
    return text.replace("-0.0", "0.0") if float(text) == 0 else text


def score_words(value: float, metric: str) -> str:
    """A level: ``81.2 %`` or ``0.312``."""
    return number(value, metric) + (" %" if is_percent(metric) else "")


def interval_words(gain: Gain, metric: str) -> str:
    """``22.0 to 32.2``, or that there is none."""
    if not math.isfinite(gain.standard_error):
        return "no interval"
    return f"{number(gain.low, metric)} to {number(gain.high, metric)}"


def budget_words(budget: Budget, num_labels: int) -> str:
    """``100 labels`` or ``all 1,200 labels``."""
    return f"all {num_labels:,} labels" if budget.train_size is None else f"{num_labels:,} labels"


def floor_words(name: str) -> str:
    """``TF-IDF floor``."""
    return f"{FLOOR_WORDS.get(name, name)} floor"


def question(strategies: Sequence[Strategy]) -> str:
    """The question that these strategies answer."""
    targets = _listed(sorted({s.budget.target for s in strategies}))
    sources = sorted({s.source for s in strategies if s.source is not None})
    if sources:
        return f"Does transfer from {_listed(sources, 'or')} help on {targets}?"
    return f"Does starting from published weights help on {targets}?"


def _listed(words: Sequence[str], conjunction: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def verdicts(comparison: Comparison) -> list[str]:
    """One paragraph a budget and strategy: against scratch, against the floor, against the published weights."""
    lines = []
    count = 0
    for row in comparison.rows:
        if row.secondary or row.arm == "scratch":
            continue
        parts = [_against_scratch(row, contrast, comparison) for contrast in row.over_scratch]
        if not row.over_scratch:
            parts.append(_missing(row))
        elif row.missing:
            parts.append(
                f"Without a scratch twin, counted in the mean only: {_times(len(row.missing), 'run', 'runs')}."
            )
        parts += [_against_direct(contrast, comparison) for contrast in row.over_direct]
        floor = _against_floor(row, comparison)
        lines.append(" ".join(parts + ([floor] if floor else [])))
        count += len(row.over_scratch) + len(row.over_direct)
    if count >= _MANY_GAINS:
        lines.append(
            f"These are {count} gains, each with its own 95 % interval: where nothing differed, "
            "about one in twenty would still look decided."
        )
    return lines


def _against_scratch(row: Row, contrast: Contrast, comparison: Comparison) -> str:
    converged = comparison.baseline == "converged"
    reading = "scratch trained to convergence" if converged else "scratch stopped at equal steps"
    where = f"With {budget_words(row.budget, row.num_labels)}"
    subject = _subject(row.label)
    against = contrast.against.replace("scratch", "training from scratch", 1)
    size = _size(contrast.gain.estimate, comparison.metric)
    evidence = _evidence(contrast, comparison.metric, reading)
    if contrast.gain.verdict == "gain":
        return f"{where}, {subject} beats {against} by {size} ({evidence})."
    if contrast.gain.verdict == "harm":
        kind = "negative transfer, it" if row.arm == "transfer" else "it"
        return f"{where}, {subject} harms: {kind} is worse than {against} by {size} ({evidence})."
    return (
        f"{where}, it is undecided whether {subject} beats {against}: the difference is "
        f"{_size(contrast.gain.estimate, comparison.metric, signed=True)} ({evidence})."
    )


def _against_direct(contrast: Contrast, comparison: Comparison) -> str:
    against = contrast.against.replace("direct", "starting from the published weights", 1)
    size = _size(contrast.gain.estimate, comparison.metric)
    evidence = _evidence(contrast, comparison.metric)
    if contrast.gain.verdict == "gain":
        return f"It beats {against} by {size} ({evidence})."
    if contrast.gain.verdict == "harm":
        return f"It is worse than {against} by {size} ({evidence})."
    signed = _size(contrast.gain.estimate, comparison.metric, signed=True)
    return f"Whether it beats {against} is undecided: {signed} ({evidence})."


def _against_floor(row: Row, comparison: Comparison) -> str | None:
    """Said only when the floor is not beaten."""
    if row.over_floor is None or row.beats_floor:
        return None
    floor = f"the {floor_words(row.over_floor.against)}"
    if row.over_floor.gain.verdict == "harm":
        size = _size(row.over_floor.gain.estimate, comparison.metric)
        return f"It does not beat {floor}: it is worse by {size} ({_evidence(row.over_floor, comparison.metric)})."
    signed = _size(row.over_floor.gain.estimate, comparison.metric, signed=True)
    return f"It is not shown to beat {floor}: {signed} ({_evidence(row.over_floor, comparison.metric)})."


def _missing(row: Row) -> str:
    more = f", and {_times(len(row.missing) - 1, 'more like it', 'more like it')}" if len(row.missing) > 1 else ""
    where = f"With {budget_words(row.budget, row.num_labels)}"
    return (
        f"{where}, nothing can be said about the gain of {_subject(row.label)}: "
        f"there is no scratch run on the same labels: run `{row.missing[0]}`{more}."
    )


def _subject(label: str) -> str:
    return label.replace("direct", "direct fine-tuning", 1) if label.startswith("direct") else label


def _size(value: float, metric: str, signed: bool = False) -> str:
    """An absolute difference with its unit, or a signed one (positive: better)."""
    text = number(value if signed else abs(value), metric, signed)
    unit = f"points of {metric_words(metric)}" if is_percent(metric) else f"in {metric_words(metric)}"
    return f"{text} {unit}"


def _evidence(contrast: Contrast, metric: str, reading: str | None = None) -> str:
    gain = contrast.gain
    if gain.verdict == "harm":  # said as "worse by", so turned like the estimate
        low, high = number(-gain.high, metric), number(-gain.low, metric)
    else:
        low, high = number(gain.low, metric), number(gain.high, metric)
    counts = _times(gain.num_seeds, "seed", "seeds")
    if gain.num_test:
        counts += f", {_times(gain.num_test, 'test example', 'test examples')}"
    why = "; ".join(contrast.notes)
    if not math.isfinite(gain.standard_error):
        parts = [f"no interval, {counts}", why]
    else:
        parts = [f"95 % interval {low} to {high}, {counts}"]
        if not gain.covers_seeds:
            parts.append("the interval covers the test examples, not the seeds")
        elif not gain.covers_examples:
            parts.append(f"the interval covers the seeds, not the test examples: {why}")
    return "; ".join(part for part in [*parts, reading] if part)


def _times(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def command(
    run: Run, strategy: Strategy, strategies: Sequence[Strategy], arm: str | None = None, seed: int | None = None
) -> str:
    """The command line that repeats ``run``, or its twin of another ``arm`` or ``seed``.

    It names what tells the run from the others of its experiment; the rest is in the experiment.
    """
    arm = arm or strategy.arm
    experiment = run.record.get("experiment")
    words = ["transfer", "run"]
    words += [f"experiment={experiment}"] if experiment and experiment != "default" else []
    words.append(f"arm={arm}")
    freezings = {s.freezing for s in strategies if s.freezing is not None}
    if arm != "scratch" and strategy.freezing is not None and len(freezings) > 1:
        words.append(f"freezing={strategy.freezing}")
    relatives = [s for s in strategies if any(r.record.get("experiment") == experiment for r in s.runs)]
    if arm == "transfer" and len({s.source for s in relatives if s.source is not None}) > 1:
        words.append(f"data@source.data={strategy.source}")
    if len({s.budget.target for s in relatives}) > 1:
        words.append(f"data@target.data={strategy.budget.target}")
    name = run.settings.get("model.name")
    if name is not None and len({s.budget.model for s in relatives}) > 1:
        words.append(f"model.name={name}")
    if strategy.budget.train_size is not None or len({s.budget.train_size for s in strategies}) > 1:
        words.append(f"target.data.train_size={_value(strategy.budget.train_size)}")
    words += [
        f"{key}={_value(value)}"
        for key, value in strategy.differences.items()
        if key != "data" and not (arm != strategy.arm and unread(arm, key))
    ]
    return " ".join(shlex.quote(word) for word in words + run.seed_words(seed))


def _value(value: Any) -> str:
    """As Hydra's override grammar writes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def next_commands(comparison: Comparison, strategies: Sequence[Strategy]) -> list[str]:
    """Missing twins first, then one more seed for each pair of arms that one seed or the interval leaves open."""
    commands = [line for row in comparison.rows for line in (*row.missing, *row.outdated)]
    by_row = {(s.budget, s.label): s for s in strategies}
    for row in comparison.rows:
        if row.secondary or not row.over_scratch:
            continue
        if all(c.gain.verdict != "undecided" and c.gain.covers_seeds for c in row.over_scratch):
            continue
        strategy = by_row[row.budget, row.label]
        for arm in (strategy.arm, "scratch"):
            commands.append(command(strategy.runs[-1], strategy, strategies, arm=arm, seed=max(row.seeds) + 1))
    return list(dict.fromkeys(commands))
