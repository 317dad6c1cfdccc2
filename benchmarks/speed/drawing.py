"""The result as a picture: seconds of training, in three ways, on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed.cases import LOOP, OURS, TRAINER
from benchmarks.speed.tables import seconds

COLORS = {OURS: "#1b6ca8", TRAINER: "#e0a030", LOOP: "#b8b8b8"}
TICKS = (0.1, 1, 10, 60, 600, 3600, 36000)
LABELS = {OURS: "this project", TRAINER: "Hugging Face Trainer, defaults", LOOP: "bare PyTorch loop"}


def draw(cases: dict[str, Any], text: str, path: Path) -> None:
    """Bars of every case that has all three, the first on top; its ratio stands beside the project's bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator

    drawn = [made for made in cases.values() if {OURS, TRAINER} <= made["arms"].keys()]
    if not drawn:
        return
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 1.15 * len(drawn)), layout="constrained")
    for place, made in enumerate(drawn):
        for offset, arm in ((-0.27, OURS), (0.0, TRAINER), (0.27, LOOP)):
            if arm not in made["arms"]:
                continue
            value = made["arms"][arm]["train_s"]
            label = LABELS[arm] if place == 0 else None
            axes.barh(place + offset, value, height=0.25, color=COLORS[arm], label=label)
            said = seconds(value)
            if arm == OURS:
                said += f"   {made[f'ratio_to_{TRAINER}']:.1f} × as fast as Trainer (target {made['target']:g} ×)"
            weight = "bold" if arm == OURS else "normal"
            axes.annotate(
                said,
                (value, place + offset),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                weight=weight,
            )
    axes.set_yticks(range(len(drawn)), [made["title"] for made in drawn])
    axes.invert_yaxis()
    axes.set_xscale("log")
    longest = max(arm["train_s"] for made in drawn for arm in made["arms"].values())
    shortest = min(arm["train_s"] for made in drawn for arm in made["arms"].values())
    axes.set_xlim(shortest / 3, longest * 12)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.set_xlabel("training, logarithmic")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"MiniLM on product reviews: {text}", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
