"""How the pictures of a comparison look, and how they get into its page.

Each is drawn wide for a screen and narrow for a phone. In the page the colours are replaced by those of the reader's
light or dark theme; the files have a white ground.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from transfer.pictures import COLOURS, DIM, FAINT, INK, LINE
from transfer.study.results import Comparison, Row
from transfer.study.words import is_percent, metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK = {  # the same hues where the ground is dark
    "#0072b2": "#4da6dc",
    "#56b4e9": "#8fd0f5",
    "#6a5acd": "#a79bf0",
    "#009e73": "#2fc79b",
    "#6bbf9f": "#93dcc0",
    "#7a8f00": "#b8cc3d",
    "#d55e00": "#f08a3c",
    "#e69f00": "#f5c04a",
    "#a6553b": "#d98c74",
    "#a89f94": "#8f877d",
    "#767676": "#a0a0a0",
}
FLOOR = "#767676"
MOST_STRATEGIES = 8
_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1))]
_THEME = {INK: "var(--text)", DIM: "var(--dim)", LINE: "var(--line)", "#ffffff": "none"}


def inline(svg: str, title: str) -> str:
    """An SVG of `as_svg` as an element of a page, in the page's colours; ``title`` is for those who cannot see it."""
    text = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view, "matplotlib wrote an SVG without a size"
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg {view.group(0)} role="img" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink"><title>{escape(title)}</title>',
        text,
        count=1,
    )
    for colour, variable in _THEME.items():
        text = text.replace(colour, variable)
    for colour in DARK:
        text = text.replace(colour, f"var(--s{colour[1:]})")
    return text


def plain_logs(axis: Axes) -> None:
    """A logarithmic axis along the bottom with its numbers written out."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def scale_of(comparison: Comparison) -> float:
    """100 for metrics that are shown in percent."""
    return 100.0 if is_percent(comparison.metric) else 1.0


def axis_words(comparison: Comparison, split: str = "test") -> str:
    """The metric as it stands at an axis."""
    words = f"{split} {metric_words(comparison.metric)}"
    words += " (%)" if is_percent(comparison.metric) else ""
    return words if comparison.higher_is_better else words + ", lower is better"


def plain(text: str) -> str:
    """Matplotlib reads what stands between dollar signs as a formula."""
    return text.replace("$", r"\$")


def assign(rows: Sequence[Row]) -> dict[str, tuple[str, Any]]:
    """Label of a strategy -> its colour and dashes: the hue of its arm, another shade or dashes for each strategy."""
    chosen: dict[str, tuple[str, Any]] = {}
    counts: dict[str, int] = {}
    for row in rows:
        if row.label in chosen:
            continue
        if row.secondary:
            chosen[row.label] = FAINT, (0, (2, 2))
            continue
        position = counts.get(row.arm, 0)
        counts[row.arm] = position + 1
        shades = COLOURS[row.arm]
        chosen[row.label] = shades[position % len(shades)], _DASHES[position // len(shades) % len(_DASHES)]
    return chosen


def chosen_labels(rows: Sequence[Row], higher_is_better: bool) -> list[str]:
    """The strategies that fit in one picture, in the order of the table: those from scratch and the best others."""
    sign = 1 if higher_is_better else -1
    scores: dict[str, Any] = {}
    for row in rows:
        best = sign * row.score.mean
        rank = (row.arm == "scratch", max(best, scores.get(row.label, (False, best))[1]))
        scores[row.label] = rank
    kept = sorted(scores, key=lambda label: scores[label], reverse=True)[:MOST_STRATEGIES]
    return [label for label in scores if label in kept]
