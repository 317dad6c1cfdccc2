"""What a comparison says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transfer.study.results import MANY_GAINS, Comparison, Contrast, Crossover, LabelsSaved, Row
from transfer.study.strategies import Strategy
from transfer.study.words import (
    budget_words,
    count_words,
    floor_words,
    listed,
    number,
    p_words,
    runs_words,
    size_words,
    times,
)

_MOST_WAYS = 4  # told one by one; of more, the tables tell


def question(strategies: Sequence[Strategy]) -> str:
    """The question that these strategies answer."""
    targets = listed(sorted({s.budget.target for s in strategies}))
    sources = sorted({s.source for s in strategies if s.source is not None})
    if len(sources) > _MOST_WAYS:
        return f"Does transfer from one of {len(sources)} sources help on {targets}?"
    if sources:
        return f"Does transfer from {listed(sources, 'or')} help on {targets}?"
    return f"Does starting from published weights help on {targets}?"


def headline(comparison: Comparison) -> str:
    """The answer in one sentence, from the gains of the transfer arm over scratch (of the direct one without it)."""
    arms = {row.arm for row, _ in comparison.gains}
    arm = "transfer" if "transfer" in arms else "direct"
    gains = [(row, contrast) for row, contrast in comparison.gains if row.arm == arm]
    if not gains:
        return "Nothing can be said about a gain over training from scratch: no run has its twin from scratch."
    ways = dict.fromkeys((row.budget.target, row.budget.model, row.label, c.against) for row, c in gains)
    if len(ways) > _MOST_WAYS:
        return _many(gains, comparison)
    told = []
    for target, model, label, against in ways:
        own = [
            (row, c)
            for row, c in gains
            if (row.budget.target, row.budget.model, row.label, c.against) == (target, model, label, against)
        ]
        told.append(f"{_subject(label)} {_outcomes(own, comparison)}" + (_over(against) if len(ways) > 1 else ""))
    text = "; ".join(told)
    return text[0].upper() + text[1:] + "."


def _over(against: str) -> str:
    return "" if against == "scratch" else f" (over {against})"


def _outcomes(gains: list[tuple[Row, Contrast]], comparison: Comparison) -> str:
    """``helps with 20 and 100 labels (by 8.1 to 20.3 points of accuracy), is undecided with 500``."""
    verbs = {"gain": "helps", "harm": "harms", "undecided": "is undecided"}
    parts = []
    for verdict, verb in verbs.items():
        chosen = [(row, c) for row, c in gains if c.verdict == verdict]
        if not chosen:
            continue
        sizes = [f"{row.num_labels:,}" for row, _ in chosen]
        text = f"{verb} with {listed(sizes)} labels"
        values = sorted(abs(c.gain.estimate) for _, c in chosen)
        if len(chosen) == 1:
            contrast = chosen[0][1]
            interval = ""
            if math.isfinite(contrast.gain.standard_error):
                bounds = _bounds(contrast, comparison.metric)
                interval = f", 95 % interval {bounds}"
            signed = verdict == "undecided"
            size = size_words(contrast.gain.estimate, comparison.metric, signed=signed)
            text += f" ({'' if signed else 'by '}{size}{interval})"
        elif verdict != "undecided":
            low = number(values[0], comparison.metric)
            text += f" (by {low} to {size_words(values[-1], comparison.metric)})"
        parts.append(text)
    return ", ".join(parts)


def _many(gains: list[tuple[Row, Contrast]], comparison: Comparison) -> str:
    counts = {v: sum(c.verdict == v for _, c in gains) for v in ("gain", "harm", "undecided")}
    row, best = max(gains, key=lambda item: (item[1].verdict == "gain", item[1].gain.estimate))
    subject = "Transfer" if row.arm == "transfer" else "Starting from published weights"
    size = size_words(best.gain.estimate, comparison.metric, signed=True)
    return (
        f"{subject} helps in {counts['gain']}, harms in {counts['harm']} and is undecided in {counts['undecided']} of "
        f"{len(gains)} comparisons with training from scratch; the largest gain is that of {row.label} with "
        f"{row.num_labels:,} labels ({size})."
    )


def verdicts(comparison: Comparison) -> list[str]:
    """Over all budgets first; then a paragraph each: against scratch, against the floor, against published weights."""
    lines = [words for found in comparison.crossovers if (words := crossover_words(found))]
    lines = lines if len(lines) <= _MOST_WAYS else []
    lines += saved_words(comparison.saved)
    lines += [f"{_where(row)}, {line} ({row.label})." for row in comparison.rows for line in row.collapsed]
    for row in comparison.rows:
        if row.secondary or row.arm == "scratch":
            continue
        parts = [_against_scratch(row, contrast, comparison) for contrast in row.over_scratch]
        if not row.over_scratch:
            parts.append(_missing(row))
        elif row.missing:
            parts.append(f"Without a scratch twin, counted in the mean only: {times(len(row.missing), 'run', 'runs')}.")
        parts += [_unfinished(row)] if row.missing_folds else []
        parts += [_against_direct(contrast, comparison) for contrast in row.over_direct]
        floor = _against_floor(row, comparison)
        lines.append(" ".join(parts + ([floor] if floor else [])))
    count = len(comparison.gains)
    if count >= MANY_GAINS:
        lines.append(
            f"These are {count} gains over scratch, each with its own 95 % interval. A verdict among so many holds "
            "only if it also stands at Holm's corrected level, which makes any false one in at most 5 % of studies."
        )
    return lines


def _where(row: Row) -> str:
    return f"With {budget_words(row.budget, row.num_labels)}"


def _against_scratch(row: Row, contrast: Contrast, comparison: Comparison) -> str:
    converged = comparison.baseline == "converged"
    reading = "scratch trained to convergence" if converged else "scratch stopped at equal steps"
    where, subject, metric = _where(row), _subject(row.label), comparison.metric
    against = contrast.against.replace("scratch", "training from scratch", 1)
    size = size_words(contrast.gain.estimate, metric)
    evidence = _evidence(contrast, metric, reading)
    if contrast.verdict == "gain":
        return f"{where}, {subject} beats {against} by {size} ({evidence})."
    if contrast.verdict == "harm":
        kind = "negative transfer, it" if row.arm == "transfer" else "it"
        text = f"{where}, {subject} harms: {kind} is worse than {against} by {size} ({evidence})."
        if contrast.reasons:
            return f"{text} Likely reason: {'; '.join(contrast.reasons)}."
        return f"{text} The records show no likely reason."
    text = (
        f"{where}, it is undecided whether {subject} beats {against}: the difference is "
        f"{size_words(contrast.gain.estimate, metric, signed=True)} ({evidence})."
    )
    if contrast.taken_back:
        text += f" Its own interval leaves out 0, but among {contrast.family} gains that may be chance (Holm's p "
        text += f"{p_words(contrast.p_holm)})."
    text += f" {needed_words(contrast, metric)}" if _says_needed(contrast) else ""
    if contrast.reasons and contrast.gain.estimate < 0:
        text += f" If it harms, the likely reason is: {'; '.join(contrast.reasons)}."
    return text


def _says_needed(contrast: Contrast) -> bool:
    return contrast.needed is not None and contrast.needed.why != "folds" and not contrast.taken_back


def needed_words(contrast: Contrast, metric: str) -> str:
    """How many seeds would decide it, with a chance of 80 %."""
    needed = contrast.needed
    if needed is None or needed.why == "unknown":
        return "How many seeds would decide it cannot be said yet."
    size = f"a gain of {size_words(needed.size, metric)}"
    if needed.why == "test_examples":
        return f"No number of seeds would show {size} on {contrast.gain.num_test:,} test examples."
    if needed.num_seeds is None:
        return f"More than 200 seeds would be needed to show {size}."
    return f"To show {size} in four of five studies takes about {times(needed.num_seeds, 'seed', 'seeds')}."


def saved_words(found: Sequence[LabelsSaved]) -> list[str]:
    """One sentence a strategy: the labels that it saves, with the interval of those that scratch needs."""
    ways: dict[tuple[str, ...], list[LabelsSaved]] = {}
    for one in found:
        ways.setdefault((one.target, one.model, one.label, one.against), []).append(one)
    if len(ways) > _MOST_WAYS:
        return []  # a table says it better
    lines = []
    for (_, _, label, against), members in ways.items():
        reached = [one for one in members if one.needed <= one.most]
        told = [_saved(one) for one in reached]
        beyond = [one for one in members if one.needed > one.most]
        if beyond:
            sizes = listed([f"{one.num_labels:,}" for one in beyond])
            told.append(f"with {sizes} more than can be said, {against} with {beyond[0].most:,}, the most, is behind")
        lines.append(f"Labels saved by {_subject(label)}, over {against}: {'; '.join(told)}.")
        if members[0].num_seeds < 2:
            lines[-1] = f"{lines[-1][:-1]} (one seed: no intervals)."
    return lines


def _saved(found: LabelsSaved) -> str:
    """``with 20 labels 280 (scratch needs 300, 95 % interval 210 to 430)``."""
    more = found.needed - found.num_labels
    saved = count_words(more) if more >= 0.5 else "none"
    return f"with {found.num_labels:,} labels {saved} ({_scratch_needs(found)})"


def _scratch_needs(found: LabelsSaved) -> str:
    needed = needed_range(found)
    interval = f", 95 % interval {needed}" if needed and needed != _bound(found.needed, found) else ""
    return f"it needs {_bound(found.needed, found)}{interval}"


def needed_range(found: LabelsSaved) -> str:
    """The interval of `LabelsSaved.needed` in words."""
    if math.isnan(found.low):
        return ""
    low, high = (_bound(value, found) for value in (found.low, found.high))
    return low if low == high else f"{low} to {high}"


def _bound(value: float, found: LabelsSaved) -> str:
    if math.isinf(value):
        return f"more than {found.most:,}" if value > 0 else f"fewer than {found.least:,}"
    return count_words(value)


def crossover_words(found: Crossover) -> str:
    """Where the curves cross, nothing where they do not."""
    if math.isnan(found.num_labels):
        return ""
    first, second = (found.label, found.against) if found.better_before else (found.against, found.label)
    text = f"The curves cross at about {count_words(found.num_labels)} labels: {first} is ahead with fewer, "
    text += f"{second} with more"
    if math.isnan(found.share):
        return f"{text} (one seed: no interval)."
    bounds = f", at {count_words(found.low)} to {count_words(found.high)} labels" if not math.isnan(found.low) else ""
    return f"{text} ({100 * found.share:.0f} % of draws of the runs cross{bounds})."


def _against_direct(contrast: Contrast, comparison: Comparison) -> str:
    against = contrast.against.replace("direct", "starting from the published weights", 1)
    size = size_words(contrast.gain.estimate, comparison.metric)
    evidence = _evidence(contrast, comparison.metric)
    if contrast.verdict == "gain":
        return f"It beats {against} by {size} ({evidence})."
    if contrast.verdict == "harm":
        return f"It is worse than {against} by {size} ({evidence})."
    signed = size_words(contrast.gain.estimate, comparison.metric, signed=True)
    chance = f"; Holm's p {p_words(contrast.p_holm)}" if contrast.taken_back else ""
    return f"Whether it beats {against} is undecided: {signed} ({evidence}{chance})."


def _against_floor(row: Row, comparison: Comparison) -> str | None:
    """Said only when the floor is not beaten."""
    if row.over_floor is None or row.beats_floor:
        return None
    floor = f"the {floor_words(row.over_floor.against)}"
    evidence = _evidence(row.over_floor, comparison.metric)
    if row.over_floor.gain.verdict == "harm":
        size = size_words(row.over_floor.gain.estimate, comparison.metric)
        return f"It does not beat {floor}: it is worse by {size} ({evidence})."
    signed = size_words(row.over_floor.gain.estimate, comparison.metric, signed=True)
    return f"It is not shown to beat {floor}: {signed} ({evidence})."


def _missing(row: Row) -> str:
    more = f", and {times(len(row.missing) - 1, 'more like it', 'more like it')}" if len(row.missing) > 1 else ""
    return (
        f"{_where(row)}, nothing can be said about the gain of {_subject(row.label)}: "
        f"there is no scratch run on the same labels: run `{row.missing[0]}`{more}."
    )


def _unfinished(row: Row) -> str:
    """A cross-validation that lacks folds has left a part of the data untested."""
    names = listed([str(fold) for fold in row.missing_folds])
    return f"Its cross-validation lacks fold {names} of {len(row.folds) + len(row.missing_folds)}."


def _subject(label: str) -> str:
    return label.replace("direct", "direct fine-tuning", 1) if label.startswith("direct") else label


def _bounds(contrast: Contrast, metric: str) -> str:
    gain = contrast.gain
    if contrast.verdict == "harm":  # said as "worse by", so turned like the estimate
        return f"{number(-gain.high, metric)} to {number(-gain.low, metric)}"
    return f"{number(gain.low, metric)} to {number(gain.high, metric)}"


def _evidence(contrast: Contrast, metric: str, reading: str | None = None) -> str:
    gain = contrast.gain
    counts = runs_words(gain.num_seeds, gain.num_folds)
    if gain.num_test:
        counts += f", {times(gain.num_test, 'test example', 'test examples')}"
    why = "; ".join(contrast.notes)
    if not math.isfinite(gain.standard_error):
        parts = [f"no interval, {counts}", why]
    else:
        parts = [f"95 % interval {_bounds(contrast, metric)}, {counts}"]
        if not gain.covers_seeds:
            parts.append("the interval covers the test examples, not the seeds")
        elif not gain.covers_examples:
            unit = "folds" if gain.num_folds else "seeds"
            parts.append(f"the interval covers the {unit}, not the test examples: {why}")
        if gain.num_folds and gain.num_seeds == 1:
            parts.append("what the one seed does alike in all folds is not covered")
    return "; ".join(part for part in [*parts, reading] if part)
