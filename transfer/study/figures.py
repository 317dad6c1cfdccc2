"""The picture of a comparison: the metric against the number of labels, arm by arm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from transfer.study.results import Comparison, FloorRow, Row
from transfer.study.words import floor_words, is_percent, metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with the common kinds of colour blindness; the markers differ as well.
_COLOURS = {
    "transfer": ["#0072B2", "#56B4E9", "#004A75"],
    "direct": ["#009E73", "#6BBF9F", "#00664A"],
    "scratch": ["#D55E00", "#E69F00", "#8C3D00"],
}
_MARKERS = {"transfer": "o", "direct": "s", "scratch": "^"}
_GREYS = ["#767676", "#4A4A4A", "#9A9A9A"]
_DASHES: list[Any] = ["--", ":", "-."]


@dataclass
class _Panel:
    """The rows and floors of one target and model, and how they are drawn."""

    axis: Axes
    rows: list[Row]
    floors: list[FloorRow]
    colours: dict[str, str]
    limits: tuple[float, float]
    scale: float
    words: str


def plot(comparison: Comparison, path: str | Path | IO[bytes]) -> None:
    """Write a PNG of 1200 x 700 pixels (wider with several targets or models) to a path or an open binary file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = list(dict.fromkeys((row.budget.target, row.budget.model) for row in comparison.rows))
    figure = Figure(figsize=(8 if len(shown) == 1 else 6 * len(shown), 14 / 3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    scale = 100.0 if is_percent(comparison.metric) else 1.0
    colours, limits = _assign(comparison), _limits(comparison, scale)
    for axis, (target, model) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        rows = [row for row in comparison.rows if (row.budget.target, row.budget.model) == (target, model)]
        floors = [floor for floor in comparison.floors if (floor.budget.target, floor.budget.model) == (target, model)]
        panel = _Panel(axis, rows, floors, colours, limits, scale, _axis_words(comparison))
        if len({row.budget for row in panel.rows}) > 1:
            _curves(panel)
        else:
            _dots(panel)
        axis.spines[["top", "right"]].set_visible(False)
        if len(shown) > 1:
            axis.set_title(_plain(f"{target} / {model}"), fontsize=10)
    figure.savefig(path, format="png")


def _assign(comparison: Comparison) -> dict[str, str]:
    """Label of a strategy -> its colour: the arm's hue, another shade for each strategy of the arm."""
    chosen: dict[str, str] = {}
    counts: dict[str, int] = {}
    for row in comparison.rows:
        if row.label in chosen:
            continue
        if row.secondary:
            chosen[row.label] = "#A89F94"
            continue
        position = counts.get(row.arm, 0)
        counts[row.arm] = position + 1
        chosen[row.label] = _COLOURS[row.arm][position % 3]
    return chosen


def _plain(text: str) -> str:
    """Matplotlib reads what stands between dollar signs as a formula."""
    return text.replace("$", r"\$")


def _axis_words(comparison: Comparison) -> str:
    words = f"test {metric_words(comparison.metric)}"
    words += " (%)" if is_percent(comparison.metric) else ""
    return words if comparison.higher_is_better else words + ", lower is better"


def _limits(comparison: Comparison, scale: float) -> tuple[float, float]:
    """The range of all values. Intervals may leave it: those of two seeds can be many times as long."""
    values = [value * scale for row in comparison.rows for value in row.values]
    values += [floor.score.mean * scale for floor in comparison.floors]
    low, high = min(values), max(values)
    margin = max(0.3 * (high - low), 0.02 * max(abs(high), abs(low)), 1e-6)
    return low - margin, high + margin


def _bars(row: Row, scale: float) -> list[list[float]]:
    """Lengths of the two halves of the interval; 0 where there is no interval."""
    halves = (row.level.estimate - row.level.low, row.level.high - row.level.estimate)
    return [[half * scale if math.isfinite(half) else 0.0] for half in halves]


def _floor_lines(panel: _Panel) -> list[tuple[str, list[int], list[float], str, Any]]:
    """Name, numbers of labels, values, colour and dashes of each floor."""
    lines = []
    for index, name in enumerate(dict.fromkeys(floor.name for floor in panel.floors)):
        found = sorted(
            (floor.num_labels, floor.score.mean * panel.scale) for floor in panel.floors if floor.name == name
        )
        lines.append(
            (floor_words(name), [x for x, _ in found], [y for _, y in found], _GREYS[index % 3], _DASHES[index % 3])
        )
    return lines


def _curves(panel: _Panel) -> None:
    axis, labels = panel.axis, list(dict.fromkeys(row.label for row in panel.rows))
    for position, label in enumerate(labels):
        members = sorted((row for row in panel.rows if row.label == label), key=lambda row: row.num_labels)
        # A few percent apart, so that the intervals of different arms do not hide one another.
        shift = 1.03 ** (position - (len(labels) - 1) / 2)
        xs, colour, faint = [row.num_labels * shift for row in members], panel.colours[label], members[0].secondary
        axis.plot(
            xs,
            [row.score.mean * panel.scale for row in members],
            label=_plain(label),
            color=colour,
            markersize=6,
            marker=_MARKERS[members[0].arm],
            linewidth=1 if faint else 2,
            linestyle=(0, (2, 2)) if faint else "-",
        )
        for x, row in zip(xs, members, strict=True):
            dots = [value * panel.scale for value in row.values]
            axis.errorbar(
                x,
                row.score.mean * panel.scale,
                yerr=_bars(row, panel.scale),
                color=colour,
                capsize=3,
                linewidth=1.2,
                fmt="none",
            )
            axis.scatter([x] * len(dots), dots, color=colour, s=14, alpha=0.45, linewidths=0)
    for words, counts, values, colour, dash in _floor_lines(panel):
        axis.plot(counts, values, color=colour, linestyle=dash, label=words)
    ticks = sorted({row.num_labels for row in panel.rows})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("labelled training examples (logarithmic)")
    axis.set_ylabel(panel.words)
    axis.set_ylim(*panel.limits)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False, fontsize=9)


def _dots(panel: _Panel) -> None:
    axis, heights = panel.axis, list(range(len(panel.rows) - 1, -1, -1))
    for height, row in zip(heights, panel.rows, strict=True):
        colour, dots = panel.colours[row.label], [value * panel.scale for value in row.values]
        axis.errorbar(
            row.score.mean * panel.scale,
            height,
            xerr=_bars(row, panel.scale),
            color=colour,
            capsize=4,
            linewidth=2,
            fmt=_MARKERS[row.arm],
            markersize=8,
        )
        axis.scatter(dots, [height - 0.22] * len(dots), color=colour, s=18, alpha=0.5, linewidths=0)
    lines = _floor_lines(panel)
    for words, _, values, colour, dash in lines:
        axis.axvline(values[0], color=colour, linestyle=dash, label=words)
    axis.set_yticks(heights, [_plain(row.label) for row in panel.rows])
    axis.set_ylim(-0.6, len(panel.rows) - 0.4)
    axis.set_xlim(*panel.limits)
    axis.set_xlabel(f"{panel.words}, {panel.rows[0].num_labels:,} labels")
    axis.grid(axis="x", alpha=0.25)
    if lines:
        axis.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(lines))
