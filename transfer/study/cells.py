"""The cells of the table, the same in the terminal and on the page."""

from __future__ import annotations

import math

from transfer.study.results import MANY_GAINS, Comparison, Contrast, FloorRow, Row
from transfer.study.statistics import Spread
from transfer.study.words import budget_words, interval_words, number, p_words, runs_words, score_words


def floors_under(comparison: Comparison, row: Row) -> list[FloorRow]:
    """The floors that belong under ``row``: those of its budget if it is the last row of it."""
    last = [other for other in comparison.rows if other.budget == row.budget][-1]
    return [floor for floor in comparison.floors if floor.budget == row.budget] if row is last else []


def gain_header(comparison: Comparison) -> str:
    """The heading of the gains, with the scratch numbers that they are against."""
    return f"gain over scratch ({'converged' if comparison.baseline == 'converged' else 'equal steps'})"


def caption(comparison: Comparison) -> str:
    """How to read the numbers."""
    text = (
        f"mean ± standard deviation over {comparison.unit} on the test data; gains in brackets with their 95 % interval"
    )
    if not comparison.higher_is_better:
        text += "; lower is better, gains are turned so that positive is better"
    if with_p(comparison):
        text += "; p after Holm, for all gains over scratch together"
    if len(comparison.gains) >= MANY_GAINS:
        text += ", which a verdict needs as well"
    return text


def with_p(comparison: Comparison) -> bool:
    """Whether there is more than one gain, so that the corrected p values say something."""
    return len(comparison.gains) > 1


def labels_cell(row: Row) -> str:
    """``100`` or ``all 1,200``."""
    return budget_words(row.budget, row.num_labels).removesuffix(" labels")


def runs_cell(comparison: Comparison, row: Row) -> str:
    """How many runs, and where it is not the heading that says of what."""
    return runs_words(row.num_seeds, len(row.folds)) if comparison.unit == "runs" else str(len(row.seeds))


def spread_cell(score: Spread, metric: str) -> str:
    """``81.2 % ± 1.3``; without the deviation for one seed."""
    return score_words(score.mean, metric) + ("" if math.isnan(score.sd) else f" ± {number(score.sd, metric)}")


def gain_cell(row: Row, contrast: Contrast | None, metric: str) -> str:
    """``+27.1 [22.0 to 32.2]``, with the baseline where there is more than one."""
    if contrast is None:
        return "" if row.secondary or row.arm == "scratch" else "no twin"
    text = f"{number(contrast.gain.estimate, metric, signed=True)} [{interval_words(contrast.gain, metric)}]"
    return f"{text} over {contrast.against}" if contrast.against != "scratch" else text


def gain_name(row: Row, contrast: Contrast) -> str:
    """The strategy, and what it is against where that is not the only scratch arm."""
    return row.label if contrast.against == "scratch" else f"{row.label} over {contrast.against}"


def p_cell(contrast: Contrast | None) -> str:
    """The corrected p value."""
    return "" if contrast is None else p_words(contrast.p_holm)


def floor_cell(row: Row) -> str:
    """Whether the best floor is beaten."""
    return (
        ""
        if row.over_floor is None or row.secondary
        else {"gain": "yes", "harm": "no"}.get(row.over_floor.gain.verdict, "unclear")
    )
