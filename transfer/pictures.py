"""How all pictures look, and how they get into files."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with the common kinds of colour blindness; the markers differ as well.
COLOURS = {
    "transfer": ["#0072b2", "#56b4e9", "#6a5acd"],
    "direct": ["#009e73", "#6bbf9f", "#7a8f00"],
    "scratch": ["#d55e00", "#e69f00", "#a6553b"],
}
# Of things that are not arms, one after another: neighbours differ as much as arms do.
PALETTE = [colour for of_arm in zip(*COLOURS.values(), strict=True) for colour in of_arm]
MARKERS = {"transfer": "o", "direct": "s", "scratch": "^"}
FAINT = "#a89f94"
INK, DIM, LINE = "#1b1f24", "#59636e", "#d0d7de"


def style() -> AbstractContextManager[None]:
    """Matplotlib's settings for all pictures."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "transfer",
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.edgecolor": DIM,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": INK,
            "xtick.color": DIM,
            "ytick.color": DIM,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "grid.color": LINE,
            "legend.frameon": False,
            "legend.fontsize": 9,
        }
    )


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """The picture on white, 150 dots an inch."""
    return _saved(figure, "png", None)


def as_svg(figure: Figure) -> str:
    """The picture on white, with its text as text."""
    return _saved(figure, "svg", {"Date": None}).decode("utf-8")


def _saved(figure: Figure, kind: str, metadata: dict[str, None] | None) -> bytes:
    buffer = io.BytesIO()
    for axis in figure.axes:  # what lies within the axes moves nothing, and measuring it takes as long as drawing it
        for artist in (*axis.lines, *axis.collections, *axis.patches):
            artist.set_in_layout(False)
    with style():
        figure.savefig(buffer, format=kind, facecolor="white", metadata=metadata)
    figure.set_layout_engine("none")  # arranged once, it stays as it is, and the next file takes half of the time
    return buffer.getvalue()
