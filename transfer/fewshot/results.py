"""What came of the test episodes: means with intervals, the file of all episodes, a table and a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer.fewshot.baselines import Scores
from transfer.pictures import DIM, FAINT, PALETTE, as_png, as_svg, new_figure, style

EPISODES = "episodes.csv"
PICTURE = "episodes"
COLUMNS = ("episode", "method", "start", "steps", "value")
MARKS = "os^D"


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval: Student's, over episodes."""
    from scipy.stats import t

    size = len(values)
    return float(values.mean()), float(t.ppf(0.975, size - 1) * values.std(ddof=1) / size**0.5)


def summaries(found: Sequence[Scores]) -> list[dict[str, Any]]:
    """One a way, for the record; `gain` is its mean less the run's own, on the same episodes, with its interval."""
    own = next(each for each in found if each.own)
    made = []
    for each in found:
        mean, half = interval(each.values)
        gain, gain_half = interval(each.values - own.values)
        made.append(
            {
                "method": each.method,
                "start": each.start,
                "steps": each.steps,
                "lr": each.lr,
                "mean": mean,
                "half_width": half,
                "gain": 0.0 if each.own else gain,
                "gain_half_width": 0.0 if each.own else gain_half,
                "own": each.own,
            }
        )
    return made


def write_episodes(path: Path, found: Sequence[Scores]) -> None:
    """One row an episode and way."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for each in found:
            about = each.method, each.start, "" if each.steps is None else each.steps
            writer.writerows((number, *about, f"{value:.6g}") for number, value in enumerate(each.values))


def number_of(metric: str, mean: float, half: float, *, sign: bool = False) -> str:
    """As in a table: accuracy in percent."""
    if metric == "accuracy":
        return f"{100 * mean:{'+' if sign else ''}.1f} ± {100 * half:.1f}"
    return f"{mean:{'+' if sign else ''}.3f} ± {half:.3f}"


def table(made: Sequence[dict[str, Any]], metric: str) -> Any:
    """Of `summaries`, for the terminal."""
    from rich.table import Table

    words = "accuracy (%)" if metric == "accuracy" else metric
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "start", "steps", "rate", words, "minus own"):
        shown.add_column(column, justify="left" if column in ("method", "start") else "right")
    for each in made:
        steps = "" if each["steps"] is None else str(each["steps"])
        rate = "" if each["steps"] is None else "learned" if each["lr"] is None else f"{each['lr']:g}"
        gain = "own" if each["own"] else number_of(metric, each["gain"], each["gain_half_width"], sign=True)
        score = number_of(metric, each["mean"], each["half_width"])
        shown.add_row(each["method"], each["start"], steps, rate, score, gain, style="bold" if each["own"] else None)
    return shown


def draw(made: Sequence[dict[str, Any]], metric: str, folder: Path) -> None:
    """A picture as episodes.png and .svg: the adaptation curves, and ways without steps as lines across them.

    Where no way takes steps, their means with intervals, one below the other.
    """
    factor = 100.0 if metric == "accuracy" else 1.0
    words = "accuracy on the queries (%)" if metric == "accuracy" else f"{metric} on the queries, lower is better"
    with style():
        figure = new_figure(7.5, 4.2)
        axes = figure.add_subplot()
        if any(each["steps"] is not None for each in made):
            _curves(axes, made, factor)
            axes.set(xlabel="gradient steps on the support rows", ylabel=words)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        else:
            _means(axes, made, factor)
            axes.set(xlabel=words)
    (folder / f"{PICTURE}.png").write_bytes(as_png(figure))
    (folder / f"{PICTURE}.svg").write_text(as_svg(figure), encoding="utf-8")


def _name(each: dict[str, Any]) -> str:
    return f"{each['method']} from {each['start']}".replace("_", " ")


def _curves(axes: Any, made: Sequence[dict[str, Any]], factor: float) -> None:
    from matplotlib.ticker import MaxNLocator

    curves: dict[str, list[dict[str, Any]]] = {}
    for each in made:
        curves.setdefault(_name(each), []).append(each)
    stepped = {name: rows for name, rows in curves.items() if rows[0]["steps"] is not None}
    for place, (name, rows) in enumerate(stepped.items()):
        axes.errorbar(
            [each["steps"] for each in rows],
            [factor * each["mean"] for each in rows],
            [factor * each["half_width"] for each in rows],
            label=name,
            color=PALETTE[place % len(PALETTE)],
            marker=MARKS[place % len(MARKS)],
            markersize=4,
            capsize=2,
        )
    for place, (name, (each, *_)) in enumerate((n, rows) for n, rows in curves.items() if n not in stepped):
        colour = DIM if each["start"] == "meta" else FAINT
        axes.axhline(
            factor * each["mean"], color=colour, linewidth=1, linestyle=["-", "--", ":"][place % 3], label=name
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _means(axes: Any, made: Sequence[dict[str, Any]], factor: float) -> None:
    for place, each in enumerate(made):
        colour = PALETTE[0] if each["start"] == "meta" else PALETTE[2]
        mean, half = factor * each["mean"], factor * each["half_width"]
        axes.errorbar(mean, place, xerr=half, color=colour, marker="o" if each["own"] else "s", capsize=3)
    axes.set_yticks(range(len(made)), [_name(each) for each in made])
    axes.invert_yaxis()
