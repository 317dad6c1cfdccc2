"""The picture of a ranking: the score that orders it beside what is measured, and LogME by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transfer.choose.rank import Ranking
from transfer.choose.scoring import SCORES, Scored
from transfer.pictures import DIM, PALETTE, as_png, as_svg, new_figure, style
from transfer.study.words import is_percent, metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = "os^Dvp<>*hX"


def write(ranking: Ranking) -> list[Path]:
    """rank.png and rank.svg."""
    shown = _shown(ranking)
    layered = [each for each in ranking.scored if len(each.layers) > 1]
    with style():
        height = 1.6 + 0.34 * max(len(shown), 5)
        figure = new_figure(11 if layered else 6.5, height)
        axes = figure.subplots(1, 2 if layered else 1, squeeze=False)[0]
        _by_score(axes[0], ranking)
        if layered:
            _by_layer(axes[1], ranking)
    paths = [ranking.folder / "rank.png", ranking.folder / "rank.svg"]
    paths[0].write_bytes(as_png(figure))
    paths[1].write_text(as_svg(figure), encoding="utf-8")
    return paths


def _shown(ranking: Ranking) -> list[Scored]:
    """Those that the pictures have something of."""
    return [each for each in ranking.scored if ranking.by in each.scores or len(each.layers) > 1]


def _looks(ranking: Ranking) -> dict[str, tuple[str, str]]:
    keys = [each.candidate.key for each in ranking.scored]
    return {key: (PALETTE[i % len(PALETTE)], MARKS[i % len(MARKS)]) for i, key in enumerate(keys)}


def _by_score(axis: Axes, ranking: Ranking) -> None:
    """One row a candidate, with its gain where one is measured; without this score it stands at the border."""
    shown = _shown(ranking)
    looks, names = _looks(ranking), []
    scale, unit = (100, " points") if is_percent(ranking.target.metric) else (1, "")
    for row, each in enumerate(reversed(shown)):
        colour, mark = looks[each.candidate.key]
        if ranking.by in each.scores:
            axis.plot(each.scores[ranking.by], row, mark, color=colour, markersize=8)
        else:
            across = axis.get_yaxis_transform()
            axis.plot(0.02, row, mark, color=colour, markersize=5, transform=across, fillstyle="none")
            axis.text(0.05, row, "not defined", transform=across, va="center", color=DIM)
        gain = ranking.gains.get(each.candidate.key)
        said = f"\nmeasured {gain.mean * scale:+.1f}{unit}" if gain else ""
        names.append(each.candidate.name + said)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(axis="x")
    about = next(each for each in SCORES if each.name == ranking.by)
    axis.set_xlabel(f"{about.words}, more is better\n({about.paper})")
    axis.set_title(f"for {ranking.target.name}, {metric_words(ranking.target.metric)}", loc="left")


def _by_layer(axis: Axes, ranking: Ranking) -> None:
    looks = _looks(ranking)
    for each in ranking.scored:
        if len(each.layers) > 1:
            colour, mark = looks[each.candidate.key]
            xs = range(len(each.layers))
            axis.plot(xs, each.layers, marker=mark, color=colour, markersize=5)
    deepest = max(len(each.layers) for each in ranking.scored)
    axis.set_xticks(range(deepest))
    axis.set_xlabel("layer, 0 is the embeddings")
    axis.set_ylabel("LogME")
    axis.set_title("how much each layer says of the labels", loc="left", color=DIM)
    axis.grid(axis="y")
