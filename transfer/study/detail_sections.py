"""The sections that look closer: labels saved, learning, classes, examples, costs."""

from __future__ import annotations

import math

from transfer.study.answers import MOST_CLASSES, MOST_EXAMPLES, Example
from transfer.study.cells import gain_name, spread_cell
from transfer.study.details import Details
from transfer.study.outline import Section, Table
from transfer.study.results import Comparison
from transfer.study.sentences import needed_range
from transfer.study.words import count_words, metric_words, number, times


def labels(comparison: Comparison) -> Section:
    """Labels saved, strategy by strategy."""
    rows = []
    for found in comparison.saved:
        if math.isinf(found.needed):
            needed = f"more than {found.most:,}" if found.needed > 0 else f"fewer than {found.least:,}"
        else:
            needed = count_words(found.needed)
        name = found.label if found.against == "scratch" else f"{found.label} against {found.against}"
        more = found.needed - found.num_labels
        saves = "" if math.isinf(more) else count_words(more) if more >= 0.5 else "none"
        rows.append([f"{found.num_labels:,}", name, needed, needed_range(found), saves])
    if not rows:
        return Section("Labels saved")
    return Section(
        "Labels saved",
        table=Table(["labels", "arm", "scratch needs", "95 % interval", "saves"], rows, frozenset({0, 2, 3, 4})),
        notes=[
            "How many labels scratch needs to equal the arm, read off its curve between the budgets that were run "
            "(made monotone, straight in the logarithm of the labels); the interval is over draws of the runs."
        ],
    )


def learning(comparison: Comparison, details: Details) -> Section:
    """How fast the arms learn."""
    metric = comparison.metric
    rows = []
    for row, contrast, found in details.speeds:
        reached = f"{found.steps:,.0f}" if math.isfinite(found.steps) else "never"
        rows.append(
            [
                f"{row.num_labels:,}",
                gain_name(row, contrast),
                number(found.jumpstart.mean, metric, signed=True),
                f"{reached} ({found.num_reached} of {times(found.num_seeds, comparison.unit[:-1], comparison.unit)})",
                f"{found.scratch_steps:,.0f}",
                number(found.final.mean, metric, signed=True),
            ]
        )
    if not rows:
        return Section("Speed of learning")
    head = ["labels", "arm", "jumpstart", "steps to scratch's best", "steps of scratch", "best value"]
    return Section(
        "Speed of learning",
        figure="learning",
        table=Table(head, rows, frozenset({0, 2, 3, 4, 5})),
        notes=[
            f"Of the validation {metric_words(metric)}, less that of scratch: jumpstart at the first validation, best "
            "value of the weights that were kept. Steps: median over the "
            f"{comparison.unit} until scratch's best value is reached." + _rest(details)
        ],
    )


def _rest(details: Details) -> str:
    return f" Not shown: {details.num_left_out} more gains." if details.num_left_out else ""


def classes(comparison: Comparison, details: Details) -> Section:
    """Every class of the shown rows."""
    name = details.class_metric
    if name is None:
        return Section("Class by class")
    shown = {(row.label, row.num_labels) for row, _ in details.confusions} or {
        (row.label, row.num_labels) for row in comparison.rows
    }
    rows = [
        [
            f"{score.budget_labels:,}",
            score.label,
            score.name,
            spread_cell(score.score, name),
            "" if math.isnan(score.gain) else number(score.gain, name, signed=True),
        ]
        for score in details.classes
        if (score.label, score.budget_labels) in shown
    ]
    head = ["labels", "arm", "class", metric_words(name), "gain over scratch"]
    return Section("Class by class", table=Table(head, rows, frozenset({0, 3, 4})) if rows else None)


def confusions(details: Details) -> Section:
    """What is taken for what."""
    small = any(len(table.classes) <= MOST_CLASSES for _, table in details.confusions)
    items = [
        f"{row.label}, {row.num_labels:,} labels: "
        + "; ".join(f"{label} taken for {answer} {count:,} times" for label, answer, count in table.worst[:5])
        for row, table in details.confusions
        if len(table.classes) > MOST_CLASSES and table.worst
    ]
    notes = ["Of the test examples of each class, how many percent got each answer, over all runs."] if small else []
    return Section("Which classes are mixed up", figure="confusion" if small else "", notes=notes, items=items)


def examples(comparison: Comparison, details: Details) -> Section:
    """The examples that changed sides."""
    folded: list[tuple[str, list[str]]] = []
    for row, contrast, found in details.changes:
        where = f"{gain_name(row, contrast)}, {row.num_labels:,} labels"
        for words, count, examples in (
            ("fixed", found.num_fixed, found.fixed),
            ("broke", found.num_broken, found.broken),
        ):
            if examples:
                title = f"{where}: {words} {count:,} of {found.num_test:,} test examples"
                folded.append((title, [_example(example) for example in examples]))
    if not folded:
        return Section("What transfer fixed and broke")
    rule = (
        "Fixed: better than scratch on the mean of the seeds; broke: worse."
        if any(found.graded for _, _, found in details.changes)
        else "Fixed: most seeds are right where most of scratch are wrong; broke: the other way round."
    )
    return Section(
        "What transfer fixed and broke",
        paragraphs=[f"{rule} Up to {MOST_EXAMPLES} of each, the clearest first." + _rest(details)],
        folded=folded,
    )


def _example(example: Example) -> str:
    what = f"“{example.text}” ({example.id})" if example.text else example.id
    label = f"{example.label}; " if example.label else ""
    return f"{what}: {label}answers {_counted(example.treated)}, scratch {_counted(example.control)}"


def _counted(answers: tuple[str, ...]) -> str:
    """``positive``, or ``positive (2), negative`` where the seeds differ."""
    counts = {answer: answers.count(answer) for answer in dict.fromkeys(answers)}
    if len(counts) == 1:
        return answers[0]
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{answer} ({count})" if count > 1 else answer for answer, count in ordered)


def costs(details: Details) -> Section:
    """Time, with the source's own once."""
    rows = [
        [
            "" if found.num_labels is None else f"{found.num_labels:,}",
            found.label,
            str(found.num_runs),
            _seconds(found.train_s),
            _seconds(found.wall_s),
            "" if math.isnan(found.examples_per_s) else f"{found.examples_per_s:,.1f}",
            "" if math.isnan(found.padding_fraction) else f"{100 * found.padding_fraction:.1f} %",
            "" if math.isnan(found.train_flops) else f"{found.train_flops / 1e12:,.3g}",
            "" if math.isnan(found.model_flops_utilisation) else f"{100 * found.model_flops_utilisation:.1f} %",
            "" if math.isnan(found.peak_bytes) else f"{found.peak_bytes / 1e9:,.2f} GB",
        ]
        for found in (*details.costs, *(source for source, _ in details.sources))
    ]
    if not rows:
        return Section("What it cost")
    notes = ["Means of a run."]
    notes += [f"{source.label} was trained once, for {times(uses, 'run', 'runs')}." for source, uses in details.sources]
    if any(not math.isnan(found.model_flops_utilisation) for found in details.costs):
        notes.append("TFLOP and use are of the training steps: use is what they reach of the machine's matrix product.")
    head = ["labels", "arm", "runs", "training", "in all", "examples/s", "padding", "TFLOP", "use", "memory"]
    numbers = frozenset({0, *range(2, len(head))})
    return Section("What it cost", table=Table(head, rows, numbers), notes=[" ".join(notes)])


def _seconds(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min"
