"""What the page and the Markdown say, in sections that know nothing of either."""

from __future__ import annotations

import math

from transfer.study import detail_sections
from transfer.study.cells import (
    caption,
    floor_cell,
    floors_under,
    gain_cell,
    gain_header,
    gain_name,
    labels_cell,
    p_cell,
    runs_cell,
    spread_cell,
    with_p,
)
from transfer.study.details import Details
from transfer.study.outline import Section, Table
from transfer.study.power import POWER
from transfer.study.results import Comparison, Contrast
from transfer.study.words import floor_words, interval_words, is_percent, metric_words, number, p_words, score_words


def sections(comparison: Comparison, details: Details) -> list[Section]:
    """Everything below the headline."""
    found = [
        Section("The numbers", figure="curves", table=_numbers(comparison), notes=[caption(comparison) + "."]),
        Section(
            "The gains",
            figure="gains" if comparison.gains else "",
            table=_gains(comparison, details),
            notes=[_how_sure(comparison)] if comparison.gains else [],
        ),
        Section("In words", items=comparison.sentences),
        detail_sections.labels(comparison),
        detail_sections.learning(comparison, details),
        detail_sections.classes(comparison, details),
        detail_sections.confusions(details),
        detail_sections.examples(comparison, details),
        detail_sections.costs(details),
        Section("Not compared", items=comparison.refused),
        Section("What to run next", commands=comparison.next_commands),
        Section("To predict with the best model", commands=[comparison.use_command] if comparison.use_command else []),
        _commands(comparison),
    ]
    return [section for section in found if not section.empty]


def _numbers(comparison: Comparison) -> Table:
    metric, p = comparison.metric, with_p(comparison)
    head = [
        "labels",
        "arm",
        comparison.unit,
        metric_words(metric),
        gain_header(comparison),
        *["p"] * p,
        "verdict",
        "beats floor",
    ]
    rows: list[list[str]] = []
    dim: set[int] = set()
    last = None
    for row in comparison.rows:
        for index, contrast in enumerate([*row.over_scratch] or [None]):
            own = index == 0
            verdict = "" if contrast is None else contrast.verdict
            dim |= {len(rows)} if row.secondary else set()
            rows.append(
                [
                    labels_cell(row) if own and row.budget != last else "",
                    row.label if own else "",
                    runs_cell(comparison, row) if own else "",
                    spread_cell(row.score, metric) if own else "",
                    gain_cell(row, contrast, metric),
                    *[p_cell(contrast)] * p,
                    verdict,
                    floor_cell(row) if own else "",
                ]
            )
        last = row.budget
        for floor in floors_under(comparison, row):
            dim.add(len(rows))
            rows.append(["", floor_words(floor.name), "", spread_cell(floor.score, metric)] + [""] * (3 + p))
    return Table(head, rows, frozenset({0, 2, 3} | ({5} if p else set())), frozenset(dim))


def _gains(comparison: Comparison, details: Details) -> Table | None:
    metric, needed = comparison.metric, _with_needed(comparison)
    rows = []
    for (row, contrast), opinion in zip(comparison.gains, details.opinions, strict=True):
        drawn = f"{number(opinion.low, metric)} to {number(opinion.high, metric)}"
        rows.append(
            [
                f"{row.num_labels:,}",
                gain_name(row, contrast),
                interval_words(contrast.gain, metric),
                "" if math.isnan(opinion.low) else drawn,
                p_words(contrast.gain.p_value),
                p_words(contrast.p_holm),
                p_words(opinion.p),
                "" if math.isnan(contrast.noise) else f"{contrast.noise:+.1f}",
                *[needed_cell(contrast)] * needed,
            ]
        )
    head = [
        "labels",
        "arm",
        "interval",
        "bootstrap",
        "p",
        "p (Holm)",
        "p (permuted)",
        "in sd of scratch",
        *["seeds needed"] * needed,
    ]
    return Table(head, rows, frozenset({0, 4, 5, 6, 7, 8})) if rows else None


def _with_needed(comparison: Comparison) -> bool:
    return any(contrast.needed and contrast.needed.why != "folds" for _, contrast in comparison.gains)


def needed_cell(contrast: Contrast) -> str:
    """The seeds needed, or why they are not known."""
    needed = contrast.needed
    if needed is None:
        return ""
    if needed.num_seeds is not None:
        return str(needed.num_seeds)
    return {"unknown": "unknown", "folds": "", "test_examples": "more test data", "too_many": "over 200"}[needed.why]


def _how_sure(comparison: Comparison) -> str:
    size = "of the size found"
    if comparison.size is not None:
        size = f"of {number(comparison.size, comparison.metric)}"
        size += " points" if is_percent(comparison.metric) else ""
    unit = comparison.unit
    text = (
        f"The verdict rests on the interval, which covers {unit} and test examples. Second opinions: the percentile "
        f"interval of a bootstrap of {unit} and test examples, and a test that turns the signs of both, which cannot "
        f"decide anything with fewer than five {unit}. In sd of scratch: the gain in standard deviations of the "
        f"scratch arm over its {unit}."
    )
    if unit != "seeds":
        text += (
            " The folds of a cross-validation train on overlapping data, for which the interval is widened (Nadeau and "
            "Bengio 2003); the second opinions are not."
        )
    if _with_needed(comparison):
        text += f" Seeds needed: to show a gain {size} in {100 * POWER:.0f} % of studies like this one."
    return text


def _commands(comparison: Comparison) -> Section:
    folded = [
        (
            f"{row.label}, {row.num_labels:,} labels: {score_words(row.score.mean, comparison.metric)}",
            row.commands,
        )
        for row in comparison.rows
        if row.commands
    ]
    return Section("The command behind each number", folded=folded, folded_is_code=True)
