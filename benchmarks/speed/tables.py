"""The result as a page of Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.cases import ARMS, LOOP, OURS, TRAINER
from benchmarks.speed.results import gpu_summary

NOTES = """\
## What is compared

Seconds are medians of training alone. This project's have the validation after each epoch in them, by which it
chooses its best weights; the others do not validate. Start-up (imports, data, weights), the test and what is saved
are apart, in `speed.json` as `wall_s`. Every measurement is a process of its own with empty caches, one after the
other in the order of the columns, again and again; a range is of the ratios of measurements that followed each
other.

`Trainer` is Hugging Face's at its defaults: batches of 8 drawn at random and padded by `DataCollatorWithPadding`,
float32, AdamW with 5e-5 and a linear schedule, no evaluation. It saves nothing, which is not its default and makes
it faster. For the head and from scratch it has a rate of 1e-2 and 1e-4, since at its default a head learns next to
nothing. The bare loop is the same without `Trainer`. Neither can share work between jobs: their sweep is one job,
measured, times the number of jobs. Of this project's sweep, the run of the same seed that did best in validation is
taken, which is what a sweep is for.

The overhead is that of the same steps, taken again and again by both in one process: of each step the least of its
times counts, since what else the machine does only adds to them.

A test metric is called equal when the difference is within two of its standard errors, over seeds and test rows.
"""


def page(found: dict[str, Any]) -> str:
    """All of the result, as it stands in `speed.json`."""
    hardware = found["hardware"]
    lines = ["# Speed", ""]
    if found["quick"]:
        lines += ["A few rows and a tiny model, to see that everything runs: **no number here means anything**.", ""]
    lines += [f"{hardware['text']}; {found['threads']} threads. {found['date'][:10]}, {_commit(found)}."]
    if loads := [run["load"] for run in found["runs"] if "load" in run]:
        lines += ["", f"Load of the machine when a measurement began: {min(loads):.1f} to {max(loads):.1f}."]
    lines += ["", ", ".join(f"{name} {version}" for name, version in found["versions"].items()) + ".", ""]
    if found["cases"]:
        lines += ["![Seconds of training, in three ways](speed.png)", "", *_trainings(found["cases"]), ""]
        lines += [*_metrics(found["cases"]), "", *_precisions(found["cases"]), ""]
    lines += ["## Targets", "", *_table(["", "wanted", "measured", "met"], _targets(found["targets"])), ""]
    if rows := gpu_summary(found.get("gpu", {})):
        lines += [*_gpu(found["gpu"], rows), ""]
    if failed := [run for run in found["runs"] if "error" in run]:
        lines += [f"Failed: {', '.join(sorted({run['case'] + ' by ' + run['arm'] for run in failed}))}.", ""]
    return "\n".join(lines) + "\n" + NOTES


def _commit(found: dict[str, Any]) -> str:
    commit = found["git"]["commit"]
    return f"commit {commit[:10]}{' with changes' if found['git']['dirty'] else ''}" if commit else "no commit"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def seconds(value: float) -> str:
    """As a person reads it: 4.2 s, 41 s, 2.4 min, 1.3 h."""
    unit, size = ("s", 1) if value < 60 else ("min", 60) if value < 3600 else ("h", 3600)
    number = value / size
    return f"{number:.1f} {unit}" if number < 10 and round(number, 1) != round(number) else f"{number:.0f} {unit}"


def _trainings(cases: dict[str, Any]) -> list[str]:
    rows = []
    for made in cases.values():
        arms = made["arms"]
        cells = [_cell(arms.get(arm)) for arm in (OURS, TRAINER, LOOP)]
        ratio = made.get(f"ratio_to_{TRAINER}")
        span = " to ".join(f"{value:.1f}" for value in made.get("range", []))
        faster = "" if ratio is None else f"**{ratio:.1f} x** ({span})"
        loop = f"{made[f'ratio_to_{LOOP}']:.1f} x" if f"ratio_to_{LOOP}" in made else ""
        whole = f"{made[f'wall_ratio_to_{TRAINER}']:.1f} x" if f"wall_ratio_to_{TRAINER}" in made else ""
        rows.append([made["title"], *cells, faster, f"{made['target']:g} x", loop, whole])
    head = ["", "this project", "`Trainer`", "bare loop", "times as fast as `Trainer`", "target", "as the loop"]
    return _table([*head, "with start-up, test and saving, as `Trainer`"], rows)


def _cell(arm: dict[str, Any] | None) -> str:
    if arm is None:
        return "failed"
    return seconds(arm["train_s"]) + (f" ({arm['times']} x one)" if arm["times"] > 1 else "")


def _metrics(cases: dict[str, Any]) -> list[str]:
    rows = []
    for made in cases.values():
        if "metric" not in made:
            continue
        found = made["metric"]
        cells = [_accuracy(made["arms"].get(arm)) for arm in (OURS, TRAINER, LOOP)]
        points = f"{100 * found['difference']:+.1f} ± {100 * found['two_errors']:.1f}"
        rows.append([made["title"], *cells, points, found["verdict"]])
    head = ["test accuracy", "this project", "`Trainer`", "bare loop", "points over `Trainer`", ""]
    return _table(head, rows)


def _accuracy(arm: dict[str, Any] | None) -> str:
    if arm is None:
        return "failed"
    spread = "" if arm["accuracy_sd"] is None else f" ± {100 * arm['accuracy_sd']:.1f}"
    return f"{100 * arm['accuracy']:.1f} %{spread}"


def _precisions(cases: dict[str, Any]) -> list[str]:
    used = {arm: {made["arms"][arm]["precision"] for made in cases.values() if arm in made["arms"]} for arm in ARMS}
    return [
        "Precision: " + ", ".join(f"{arm} {' and '.join(sorted(names))}" for arm, names in used.items() if names) + "."
    ]


def _targets(targets: list[dict[str, Any]]) -> list[list[str]]:
    words = {True: "yes", False: "**no**", None: ""}
    return [[each["name"], each["wanted"], each["shown"], words[each["met"]]] for each in targets]


def _gpu(measured: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    peak = measured["peak"]["flops_per_s"] / 1e12
    lines = [f"## {measured['device']}: BERT-base in bfloat16, 128 tokens", ""]
    lines += [f"The product of two large matrices in bfloat16: {peak:.0f} TFLOP/s.", ""]
    cells = [
        [
            str(row["batch_size"]),
            *(
                f"{row[arm]:,.0f} ({row[f'{arm}_utilisation']:.0%})" if arm in row else "failed"
                for arm in (OURS, TRAINER)
            ),
            f"{row[OURS] / row[TRAINER]:.2f} x" if OURS in row and TRAINER in row else "",
        ]
        for row in rows
    ]
    head = ["batch size", "this project, examples/s (of the peak)", "`Trainer` with bf16", "times as fast"]
    return [*lines, *_table(head, cells)]
