"""The pictures of a comparison: the metric against the labels, the gains, the learning, the mixed-up classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from transfer.study import answer_figures, metric_figures
from transfer.study.details import Details
from transfer.study.results import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (comparison, details, narrow) -> the picture, or None where there is nothing to draw.
Draw = Callable[[Comparison, Details, bool], "Figure | None"]

FIGURES: dict[str, Draw] = {
    "curves": metric_figures.curves,
    "gains": metric_figures.gains,
    "learning": answer_figures.learning,
    "confusion": answer_figures.confusion,
}
