"""The metric of each arm against its labels, and the gains with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transfer.pictures import MARKERS, new_figure, style
from transfer.study.details import Details
from transfer.study.drawing import (
    FLOOR,
    assign,
    axis_words,
    chosen_labels,
    plain,
    scale_of,
)
from transfer.study.results import Comparison, FloorRow, Row
from transfer.study.words import floor_words, is_percent, metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES: list[Any] = ["--", ":", "-.", (0, (1, 3))]
MOST_PANELS = 4
MOST_GAINS = 30


@dataclass
class _Panel:
    """The rows and floors of one target and model, and how they are drawn."""

    axis: Axes
    rows: list[Row]
    floors: list[FloorRow]
    looks: dict[str, tuple[str, Any]]
    limits: tuple[float, float]
    scale: float
    words: str
    narrow: bool


def curves(comparison: Comparison, details: Details, narrow: bool) -> Figure | None:
    """The metric against the number of labels, or arm by arm where there is one budget. Wide: 1200 x 700 pixels."""
    shown = list(dict.fromkeys((row.budget.target, row.budget.model) for row in comparison.rows))[:MOST_PANELS]
    scale = scale_of(comparison)
    with style():
        if narrow:
            figure = new_figure(4.2, 4.6 * len(shown))
            axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        else:
            figure = new_figure(8 if len(shown) == 1 else 6 * len(shown), 14 / 3)
            axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for axis, (target, model) in zip(axes, shown, strict=True):
            rows = [row for row in comparison.rows if (row.budget.target, row.budget.model) == (target, model)]
            labels = chosen_labels(rows, comparison.higher_is_better)
            rows = [row for row in rows if row.label in labels]
            budgets = {row.budget for row in rows}
            floors = [floor for floor in comparison.floors if floor.budget in budgets]
            limits = _limits(rows, floors, scale)
            panel = _Panel(axis, rows, floors, assign(rows), limits, scale, axis_words(comparison), narrow)
            (_lines if len(budgets) > 1 else _dots)(panel)
            if len(shown) > 1:
                axis.set_title(plain(f"{target} / {model}"))
    return figure


def _limits(rows: list[Row], floors: list[FloorRow], scale: float) -> tuple[float, float]:
    """The range of all values. Intervals may leave it: those of two seeds can be many times as long."""
    values = [value * scale for row in rows for value in row.values]
    values += [floor.score.mean * scale for floor in floors]
    low, high = min(values), max(values)
    margin = max(0.3 * (high - low), 0.02 * max(abs(high), abs(low)), 1e-6)
    top = high + margin
    return low - margin, min(top, 101.0) if scale == 100 and high <= 100 else top


def _bars(row: Row, scale: float) -> list[list[float]]:
    """Lengths of the two halves of the interval; 0 where there is no interval."""
    halves = (row.level.estimate - row.level.low, row.level.high - row.level.estimate)
    return [[half * scale if math.isfinite(half) else 0.0] for half in halves]


def _floor_lines(panel: _Panel) -> list[tuple[str, list[int], list[float], Any]]:
    """Name, numbers of labels, values and dashes of each floor."""
    lines = []
    for index, name in enumerate(dict.fromkeys(floor.name for floor in panel.floors)):
        found = sorted((f.num_labels, f.score.mean * panel.scale) for f in panel.floors if f.name == name)
        lines.append((floor_words(name), [x for x, _ in found], [y for _, y in found], _DASHES[index % len(_DASHES)]))
    return lines


def _lines(panel: _Panel) -> None:
    axis, labels = panel.axis, list(dict.fromkeys(row.label for row in panel.rows))
    for position, label in enumerate(labels):
        members = sorted((row for row in panel.rows if row.label == label), key=lambda row: row.num_labels)
        # A few percent apart, so that the intervals of different arms do not hide one another.
        shift = 1.03 ** (position - (len(labels) - 1) / 2)
        xs, faint = [row.num_labels * shift for row in members], members[0].secondary
        colour, dashes = panel.looks[label]
        axis.plot(
            xs,
            [row.score.mean * panel.scale for row in members],
            label=plain(label),
            color=colour,
            markersize=6,
            marker=MARKERS[members[0].arm],
            linewidth=1 if faint else 2,
            linestyle=dashes,
        )
        # All bars and all dots of a strategy at once: a picture takes as long as it has parts.
        halves = [_bars(row, panel.scale) for row in members]
        bars = [[half[side][0] for half in halves] for side in (0, 1)]
        means = [row.score.mean * panel.scale for row in members]
        axis.errorbar(xs, means, yerr=bars, color=colour, capsize=3, linewidth=1.2, fmt="none")
        dots = [(x, value * panel.scale) for x, row in zip(xs, members, strict=True) for value in row.values]
        axis.scatter([x for x, _ in dots], [y for _, y in dots], color=colour, s=14, alpha=0.45, linewidths=0)
    for words, counts, values, dash in _floor_lines(panel):
        axis.plot(counts, values, color=FLOOR, linestyle=dash, label=words)
    ticks = _apart(sorted({row.num_labels for row in panel.rows}), 6 if panel.narrow else 12)
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("labelled training examples (logarithmic)")
    axis.set_ylabel(panel.words)
    axis.set_ylim(*panel.limits)
    axis.grid(axis="y")
    if panel.narrow:
        axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), fontsize=8.5)
    elif len(labels) > 4:  # within the axes, names would hide what they name
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def _apart(ticks: list[int], parts: int) -> list[int]:
    """The ticks that do not run into one another on a logarithmic axis."""
    kept = ticks[:1]
    least = math.log(ticks[-1] / ticks[0]) / parts if ticks[0] > 0 else 0.0
    for tick in ticks[1:]:
        if math.log(tick / kept[-1]) >= least:
            kept.append(tick)
    return kept


def _dots(panel: _Panel) -> None:
    axis, heights = panel.axis, list(range(len(panel.rows) - 1, -1, -1))
    for height, row in zip(heights, panel.rows, strict=True):
        colour, dots = panel.looks[row.label][0], [value * panel.scale for value in row.values]
        mean = row.score.mean * panel.scale
        bars = _bars(row, panel.scale)
        axis.errorbar(mean, height, xerr=bars, color=colour, capsize=4, linewidth=2, fmt=MARKERS[row.arm], markersize=8)
        axis.scatter(dots, [height - 0.22] * len(dots), color=colour, s=18, alpha=0.5, linewidths=0)
        if panel.narrow:  # beside the axis the names would leave no room for it
            axis.text(0.01, height + 0.24, plain(row.label), transform=axis.get_yaxis_transform(), fontsize=8.5)
    lines = _floor_lines(panel)
    for words, _, values, dash in lines:
        axis.axvline(values[0], color=FLOOR, linestyle=dash, label=words)
    axis.set_yticks(heights, [""] * len(heights) if panel.narrow else [plain(row.label) for row in panel.rows])
    axis.set_ylim(-0.6, len(panel.rows) - 0.3)
    axis.set_xlim(*panel.limits)
    axis.set_xlabel(f"{panel.words}, {panel.rows[0].num_labels:,} labels")
    axis.grid(axis="x")
    if lines:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1 if panel.narrow else len(lines))


def gains(comparison: Comparison, details: Details, narrow: bool) -> Figure | None:
    """Every gain over scratch with its 95 % interval; hollow marks are undecided."""
    found = comparison.gains[:MOST_GAINS]
    if not found:
        return None
    scale, looks = scale_of(comparison), assign([row for row, _ in found])
    with style():
        figure = new_figure(4.2 if narrow else 8, 1.1 + (0.5 if narrow else 0.34) * len(found))
        axis = figure.subplots()
        heights = list(range(len(found) - 1, -1, -1))
        names = []
        for height, (row, contrast) in zip(heights, found, strict=True):
            gain, colour = contrast.gain, looks[row.label][0]
            half = [[scale * (gain.estimate - gain.low)], [scale * (gain.high - gain.estimate)]]
            finite = math.isfinite(gain.standard_error)
            axis.errorbar(
                scale * gain.estimate,
                height,
                xerr=half if finite else None,
                color=colour,
                capsize=3,
                linewidth=1.6,
                fmt=MARKERS[row.arm],
                markersize=7,
                markerfacecolor="none" if contrast.verdict == "undecided" else colour,
            )
            over = "" if contrast.against == "scratch" else f" over {contrast.against}"
            names.append(plain(f"{row.label}{over}, {row.num_labels:,} labels"))
            if narrow:
                axis.text(0.01, height + 0.22, names[-1], transform=axis.get_yaxis_transform(), fontsize=8.5)
        axis.axvline(0, color=FLOOR, linewidth=1)
        axis.set_yticks(heights, [""] * len(heights) if narrow else names)
        axis.set_ylim(-0.6, len(found) - (0.2 if narrow else 0.4))
        axis.set_xlim(*_gain_limits(comparison, scale))
        unit = f"points of {metric_words(comparison.metric)}" if is_percent(comparison.metric) else "better"
        axis.set_xlabel(f"gain over scratch ({unit})")
        axis.grid(axis="x")
    return figure


def _gain_limits(comparison: Comparison, scale: float) -> tuple[float, float]:
    """All estimates, and the intervals that are not many times as long as the longest of them."""
    estimates = [scale * contrast.gain.estimate for _, contrast in comparison.gains[:MOST_GAINS]]
    reach = 2.5 * max(max(map(abs, estimates)), 1e-6)
    bounds = [0.0, *estimates]
    for _, contrast in comparison.gains[:MOST_GAINS]:
        bounds += [max(-reach, scale * contrast.gain.low), min(reach, scale * contrast.gain.high)]
    margin = 0.06 * (max(bounds) - min(bounds))
    return min(bounds) - margin, max(bounds) + margin
