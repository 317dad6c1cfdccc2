"""What came of the test episodes: means with intervals, the file of all episodes, a table and a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer.fewshot.baselines import Scores

EPISODES = "episodes.csv"
PICTURE = "adaptation"
COLUMNS = ("episode", "method", "start", "steps", "value")
# Okabe and Ito's.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#6a5acd")
MARKERS = "os^D"


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
    """The adaptation curves as adaptation.png and .svg; ways without steps are lines across."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in made:
        curves.setdefault((each["method"], each["start"]), []).append(each)
    stepped = {name: rows for name, rows in curves.items() if rows[0]["steps"] is not None}
    across = {name: rows[0] for name, rows in curves.items() if rows[0]["steps"] is None}
    factor = 100.0 if metric == "accuracy" else 1.0
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "transfer",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "font.size": 10,
        }
    ):
        figure = Figure(figsize=(7.5, 4.2), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for place, ((method, start), rows) in enumerate(stepped.items()):
            axes.errorbar(
                [each["steps"] for each in rows],
                [factor * each["mean"] for each in rows],
                [factor * each["half_width"] for each in rows],
                label=f"{method} from {start}".replace("_", " "),
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                capsize=2,
            )
        for place, ((method, start), each) in enumerate(across.items()):
            colour = "#59636e" if start == "meta" else "#a89f94"
            axes.axhline(
                factor * each["mean"],
                color=colour,
                linewidth=1,
                linestyle=["-", "--", ":"][place % 3],
                label=f"{method} from {start}".replace("_", " "),
            )
        words = "accuracy on the queries (%)" if metric == "accuracy" else f"{metric} on the queries, lower is better"
        axes.set(xlabel="gradient steps on the support rows", ylabel=words)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        for kind in ("png", "svg"):
            figure.savefig(
                folder / f"{PICTURE}.{kind}", facecolor="white", metadata={"Date": None} if kind == "svg" else None
            )
