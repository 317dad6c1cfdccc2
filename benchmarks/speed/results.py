"""From raw measurements to medians, ratios and whether the issue's targets are met."""

from __future__ import annotations

import math
from statistics import mean, median, stdev
from typing import Any

from benchmarks.speed.cases import LOOP, OURS, TRAINER, Case, Scale

# The other limits.
OVERHEAD, COMMAND_S, FINISHED_S, MEMORY_MB, UTILISATION, GPU_RATIO = 0.03, 0.4, 2.0, 300.0, 0.45, 1.5


def target(name: str, wanted: str, measured: float | None, met: bool | None, shown: str) -> dict[str, Any]:
    """One line of the list of targets; `met` is None where nothing was measured."""
    return {"name": name, "wanted": wanted, "measured": measured, "met": met, "shown": shown}


def summaries(scale: Scale, runs: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Of each case that was measured: medians, ratios and test metrics."""
    return {case.name: summary(case, runs) for case in scale.cases if case.name in names}


def summary(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats; of a sweep, `Trainer` and the loop are one job of it times the number of jobs."""
    arms: dict[str, Any] = {}
    for arm, name in ((OURS, case.name), (TRAINER, case.like or case.name), (LOOP, case.like or case.name)):
        found = [run for run in runs if (run["case"], run["arm"]) == (name, arm) and "error" not in run]
        if not found:
            continue
        times = 1 if arm == OURS else case.num_jobs
        arms[arm] = {
            "repeats": len(found),
            "train_s": times * median(run["train_s"] for run in found),
            "wall_s": times * median(run["wall_s"] for run in found),
            "times": times,
            "accuracy": mean(run["accuracy"] for run in found),
            "accuracy_sd": stdev(run["accuracy"] for run in found) if len(found) > 1 else None,
            "precision": found[0]["precision"],
            "trainable": found[0]["trainable"],
        }
    made: dict[str, Any] = {"title": case.title, "target": case.target, "arms": arms}
    for arm in (TRAINER, LOOP):
        if OURS in arms and arm in arms:
            made[f"ratio_to_{arm}"] = arms[arm]["train_s"] / arms[OURS]["train_s"]
            made[f"wall_ratio_to_{arm}"] = arms[arm]["wall_s"] / arms[OURS]["wall_s"]
    if OURS in arms and TRAINER in arms:
        made["range"] = _range(case, runs)
        made["metric"] = compared(_runs(runs, case.name, OURS), _runs(runs, case.like or case.name, TRAINER))
    return made


def _runs(runs: list[dict[str, Any]], name: str, arm: str) -> list[dict[str, Any]]:
    return [run for run in runs if (run["case"], run["arm"]) == (name, arm) and "error" not in run]


def _range(case: Case, runs: list[dict[str, Any]]) -> list[float]:
    """The least and the largest ratio of measurements that followed each other."""
    ours = {run["seed"]: run["train_s"] for run in _runs(runs, case.name, OURS)}
    theirs = {run["seed"]: run["train_s"] for run in _runs(runs, case.like or case.name, TRAINER)}
    ratios = [case.num_jobs * theirs[seed] / ours[seed] for seed in ours.keys() & theirs.keys()]
    return [min(ratios), max(ratios)] if ratios else []


def compared(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy over the seeds, ours - theirs, and two standard errors of it, over seeds and test rows.

    "equal" is a difference that is smaller than these.
    """
    difference = mean(run["accuracy"] for run in ours) - mean(run["accuracy"] for run in theirs)
    of_seeds = sum(stdev(run["accuracy"] for run in runs) ** 2 / len(runs) for runs in (ours, theirs) if len(runs) > 1)
    rows = list(zip(*(_share_right(runs) for runs in (ours, theirs)), strict=True))
    of_rows = stdev(a - b for a, b in rows) ** 2 / len(rows)
    error = 2 * math.sqrt(of_seeds + of_rows)
    verdict = "equal" if abs(difference) <= error else "better" if difference > 0 else "worse"
    return {"difference": difference, "two_errors": error, "verdict": verdict}


def _share_right(runs: list[dict[str, Any]]) -> list[float]:
    """For each test row, the share of the seeds that answer it right."""
    return [mean(map(int, digits)) for digits in zip(*(run["right"] for run in runs), strict=True)]


def case_target(made: dict[str, Any]) -> dict[str, Any]:
    """Fast enough, and no worse."""
    ratio = made.get(f"ratio_to_{TRAINER}")
    wanted = f">= {made['target']:g} x Trainer, test metric no worse"
    if ratio is None:
        return target(made["title"], wanted, None, None, "not measured")
    worse = made.get("metric", {}).get("verdict") == "worse"
    shown = f"{ratio:.1f} x" + (", test metric worse" if worse else "")
    return target(made["title"], wanted, ratio, ratio >= made["target"] and not worse, shown)


def overhead(found: dict[str, Any]) -> dict[str, Any]:
    """Both took the same steps in every round: the sums of each step's least time over the rounds, compared.

    What a step itself does, it does in every round; what else the machine does, only adds to its time.
    `by_medians` is the same with the medians, and `ratios` are those of whole rounds that followed each other.
    """
    least, middle = (
        [sum(map(of_rounds, zip(*found[arm], strict=True))) for arm in ("transfer", "loop")]
        for of_rounds in (min, median)
    )
    return {
        **found,
        "seconds": least,
        "overhead": least[0] / least[1] - 1,
        "by_medians": middle[0] / middle[1] - 1,
        "ratios": [sum(a) / sum(b) for a, b in zip(found["transfer"], found["loop"], strict=True)],
        "same_weights": found["weights_differ_by"] < 1e-5,
    }


def other_targets(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The limits that are no ratio to `Trainer` on the processor, of the parts that were measured."""
    found = []
    if "transfer" in (made := measured.get("overhead", {})):
        shown = f"{made['overhead']:+.1%} (of medians {made['by_medians']:+.1%})"
        shown += "" if made["same_weights"] else ", but the weights differ"
        met = made["overhead"] <= OVERHEAD and made["same_weights"]
        found.append(target("overhead over a loop on the same batches", "<= 3 %", made["overhead"], met, shown))
    for name, seconds in measured.get("commands", {}).items():
        word = f"transfer {'--help' if name == 'help' else name}"
        middle = median(seconds)
        found.append(target(word, f"<= {COMMAND_S} s", middle, middle <= COMMAND_S, f"{middle:.2f} s"))
    if "seconds" in (made := measured.get("finished", {})):
        middle = median(made["seconds"])
        name = f"a finished sweep of {made['num_jobs']:,} jobs, again"
        found.append(target(name, f"<= {FINISHED_S:g} s", middle, middle <= FINISHED_S, f"{middle:.2f} s"))
    made = measured.get("memory", {})
    if made and not any("error" in each for each in made.values()):
        (small, least), (large, most) = made.items()
        more = most["peak_mb"] - least["peak_mb"]
        name = f"peak memory, {int(large):,} rows over {int(small):,}"
        own = most["peak_anonymous_mb"] - least["peak_anonymous_mb"]
        shown = f"{more:+.0f} MB ({own:+.0f} MB without pages of files, which the system can take back)"
        found.append(target(name, f"<= {MEMORY_MB:g} MB more", more, more <= MEMORY_MB, shown))
    return found + gpu_targets(measured.get("gpu", {}))


def gpu_summary(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each batch size: examples a second of both, and the share of the card's matrix peak."""
    runs = [run for run in measured.get("runs", []) if "error" not in run]
    peak = measured.get("peak", {}).get("flops_per_s")
    found = []
    for size in sorted({run["batch_size"] for run in runs}):
        row: dict[str, Any] = {"batch_size": size}
        for arm in (OURS, TRAINER):
            of_arm = [run for run in runs if (run["arm"], run["batch_size"]) == (arm, size)]
            if of_arm and peak:
                row[arm] = median(run["examples_per_s"] for run in of_arm)
                row[f"{arm}_utilisation"] = median(run["flops_per_s"] for run in of_arm) / peak
        found.append(row)
    return found


def gpu_targets(measured: dict[str, Any]) -> list[dict[str, Any]]:
    names = "BERT-base in bf16 on a GPU: matrix peak used", "BERT-base in bf16 on a GPU, over Trainer with bf16"
    wanted = f">= {UTILISATION:.0%}", f">= {GPU_RATIO:g} x"
    rows = [row for row in gpu_summary(measured) if OURS in row and TRAINER in row]
    if not rows:
        reason = measured.get("left_out", "not measured")
        return [target(*each, None, None, reason) for each in zip(names, wanted, strict=True)] if measured else []
    best = max(rows, key=lambda row: row[OURS])
    used, ratio = best[f"{OURS}_utilisation"], best[OURS] / rows[0][TRAINER]
    same = best[OURS] / best[TRAINER]
    size = best["batch_size"]
    shown = f"{ratio:.1f} x (batches of {size}; Trainer {rows[0]['batch_size']}), {same:.1f} x at the same size"
    return [
        target(names[0], wanted[0], used, used >= UTILISATION, f"{used:.0%} (batches of {size})"),
        target(names[1], wanted[1], ratio, ratio >= GPU_RATIO, shown),
    ]
