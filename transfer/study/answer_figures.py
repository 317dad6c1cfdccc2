"""The validation metric while the arms learn, and which classes they mix up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.pictures import MARKERS, new_figure, style
from transfer.study.answers import MOST_CLASSES, Confusion
from transfer.study.details import Details
from transfer.study.drawing import assign, axis_words, plain, plain_logs, scale_of
from transfer.study.learning import Curve
from transfer.study.results import Comparison, Row
from transfer.study.weighted_metrics import Array
from transfer.study.words import budget_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BUDGETS = 3
MOST_TABLES = 6


def learning(comparison: Comparison, details: Details, narrow: bool) -> Figure | None:
    """The validation metric against the steps: seeds thin, their mean at the steps that all of them logged thick."""
    budgets = list(dict.fromkeys(row.budget for row, _ in details.curves))[:MOST_BUDGETS]
    if not budgets:
        return None
    scale, looks = scale_of(comparison), assign([row for row, _ in details.curves])
    with style():
        if narrow:
            figure = new_figure(4.2, 3.9 * len(budgets))
            axes = figure.subplots(len(budgets), 1, squeeze=False)[:, 0]
        else:
            figure = new_figure(8 if len(budgets) == 1 else 4 * len(budgets), 3.8)
            axes = figure.subplots(1, len(budgets), squeeze=False)[0]
        for axis, budget in zip(axes, budgets, strict=True):
            members = [(row, found) for row, found in details.curves if row.budget == budget]
            for row, found in members:
                _learned(axis, row, found, looks[row.label], scale)
            plain_logs(axis)
            axis.set_xlabel("optimizer steps (logarithmic)")
            if narrow or axis is axes[0]:
                axis.set_ylabel(axis_words(comparison, "validation"))
            axis.grid(axis="y")
            axis.set_title(plain(f"{budget.target}, {budget_words(budget, members[0][0].num_labels)}"))
        named = {line.get_label(): line for axis in axes for line in axis.lines}
        # Within the axes, names would hide what they name.
        columns = 1 if narrow else len(budgets) + 1
        figure.legend(handles=list(named.values()), loc="outside lower center", fontsize=8.5, ncols=columns)
    return figure


def _learned(axis: Axes, row: Row, found: list[Curve], look: tuple[str, Any], scale: float) -> None:
    from matplotlib.collections import LineCollection

    colour, dashes = look
    lines = [np.column_stack([line.steps, scale * line.values]) for line in found]
    axis.add_collection(LineCollection(lines, colors=colour, alpha=0.3, linewidths=0.9))
    steps, means = _mean(found)
    axis.plot(
        steps,
        scale * means,
        color=colour,
        linewidth=2,
        linestyle=dashes,
        marker=MARKERS[row.arm],
        markersize=4,
        label=plain(f"{row.label}"),
    )


def _mean(found: list[Curve]) -> tuple[Array, Array]:
    """Mean over the seeds at the steps that all of them logged; the first seed's own where they share none."""
    shared = set(found[0].steps.tolist()).intersection(*(line.steps.tolist() for line in found[1:]))
    if not shared:
        return found[0].steps, found[0].values
    steps = np.array(sorted(shared))
    values = [dict(zip(line.steps.tolist(), line.values.tolist(), strict=True)) for line in found]
    return steps, np.array([[own[step] for step in steps.tolist()] for own in values]).mean(axis=0)


def confusion(comparison: Comparison, details: Details, narrow: bool) -> Figure | None:
    """Of each class (rows), the percent that got each answer (columns); up to 12 classes."""
    tables = [(row, table) for row, table in details.confusions if len(table.classes) <= MOST_CLASSES][:MOST_TABLES]
    if not tables:
        return None
    most = max(len(table.classes) for _, table in tables)
    columns = min(len(tables), 1 if narrow else 3)
    lines = -(-len(tables) // columns)
    side = (3.6 if narrow else 2.7) if most <= 5 else (4.2 if narrow else 4.4)
    with style():
        figure = new_figure(4.2 if narrow else max(8.0, side * columns), side * lines * 1.05)
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes[len(tables) :]:
            axis.set_visible(False)
        several = len({row.budget for row, _ in tables}) > 1
        for axis, (row, table) in zip(axes, tables, strict=False):
            _table(axis, table)
            axis.set_title(plain(row.label) + (f"\n{row.num_labels:,} labels" if several else ""))
    return figure


def _table(axis: Axes, table: Confusion) -> None:
    from matplotlib.patches import Rectangle

    counts, size = table.counts, len(table.classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    small = 8 if size <= 6 else 6
    for (i, j), share in np.ndenumerate(shares):
        # Rectangles rather than an image: they stay sharp, and the theme of the page shows through the light ones.
        axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#0072b2", alpha=0.08 + 0.6 * share, linewidth=0))
        axis.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=small + 1)
    names = [plain(name if len(name) <= 14 else name[:13] + "…") for name in table.classes]
    axis.set_xlim(-0.5, size - 0.5)
    axis.set_ylim(size - 0.5, -0.5)
    axis.set_aspect("equal")
    axis.set_xticks(
        range(size), names, fontsize=small, rotation=0 if size <= 3 else 60, ha="center" if size <= 3 else "right"
    )
    axis.set_yticks(range(size), names, fontsize=small)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("answer (% of the class)", fontsize=small + 1)
    axis.set_ylabel("class", fontsize=small + 1)
