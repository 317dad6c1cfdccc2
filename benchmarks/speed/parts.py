"""What one call of `make bench` measures, part by part, and how it says so while it does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed import cases, children, commands, gpu, stream
from benchmarks.speed.cases import OURS, TRAINER, Scale

CASES = ("full", "half", "head", "sweep", "scratch")
OTHERS = ("overhead", "commands", "finished", "memory", "gpu")
# About how many seconds the others take on two cores; the GPU's are left out where there is none.
SECONDS = {"overhead": 150, "commands": 10, "finished": 40, "memory": 140, "gpu": 0}


@dataclass(frozen=True)
class Settings:
    """What was asked for on the command line."""

    scale: Scale
    names: tuple[str, ...]
    repeats: int
    threads: int


def expected_minutes(settings: Settings) -> float:
    """About how long all that was asked for takes on two cores."""
    groups = cases.measurements(settings.scale, settings.names)
    seconds = cases.expected_seconds(settings.scale, groups, settings.repeats)
    return (seconds + sum(SECONDS[name] for name in OTHERS if name in settings.names)) / 60


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is measured now, and behind it what came out."""
    print(f"{time.strftime('%H:%M:%S')}  {what:<46}", end="", file=sys.stderr, flush=True)
    said = ["failed"]
    try:
        yield said.append
    finally:
        print(said[-1], file=sys.stderr, flush=True)


def once(
    what: str, measure: str, request: dict[str, Any], settings: Settings, shown: str = "train_s"
) -> dict[str, Any]:
    """The result of one child; {"error": its last line} where it failed: the others go on."""
    with progress(what) as say:
        try:
            found = children.start(measure, request, settings.threads)
        except children.ChildError as error:
            last = str(error).splitlines()[-1][:200]
            say(f"failed: {last}")
            return {"error": last}
        if shown in found:
            say(f"{found[shown]:8.1f} {'MB' if shown.endswith('mb') else 's'}, {found['wall_s']:6.1f} s in all")
        else:
            say(f"{found['wall_s']:8.1f} s in all")
    return found


def trainings(settings: Settings) -> Iterator[dict[str, Any]]:
    """One measurement after the other, the ways of training interleaved: A B C A B C ..."""
    groups = cases.measurements(settings.scale, settings.names)
    total, number = settings.repeats * sum(map(len, groups)), 0
    for group in groups:
        for repeat in range(settings.repeats):
            for name, arm in group:
                number += 1
                case = cases.of(settings.scale, name)
                request = children.request(case, settings.scale, repeat)
                what = f"[{number:2}/{total}] {case.title}, {arm}, seed {repeat}"
                yield {"case": name, "arm": arm, "seed": repeat, **once(what, arm, request, settings)}


def overhead(settings: Settings) -> dict[str, Any]:
    request = children.request(cases.of(settings.scale, "full"), settings.scale, 0, rounds=settings.scale.rounds)
    # One epoch is enough, and what is tested does not count; the last of a key's values does.
    request["words"] += ["target.budget.max_epochs=1", "target.data.test_size=50"]
    return once("overhead over the loop on the same batches", "overhead", request, settings)


def command_times(settings: Settings) -> dict[str, Any]:
    with progress("transfer --help, transfer list") as say:
        found = commands.seconds(max(3, 3 * settings.repeats))
        say(", ".join(f"{min(seconds):.2f} to {max(seconds):.2f} s" for seconds in found.values()))
    return found


def finished(settings: Settings) -> dict[str, Any]:
    jobs = settings.scale.jobs
    request = {"num_jobs": jobs, "repeats": settings.repeats}
    return {"num_jobs": jobs, **once(f"a finished sweep of {jobs:,} jobs", "finished", request, settings)}


def memory(settings: Settings, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Peaks on the small and on the large file, each in a process of its own."""
    found: dict[str, Any] = {}
    with TemporaryDirectory(prefix="speed-") as folder:
        for rows in settings.scale.files:
            path = Path(folder) / f"rows-{rows}.jsonl"
            stream.write(path, rows)
            what = f"memory of training on {rows:,} rows"
            found[str(rows)] = once(what, "memory", {"path": str(path), "words": list(words)}, settings, "peak_mb")
    return found


def gpus(settings: Settings) -> dict[str, Any]:
    """The peak of the card, and each batch size by the project and by `Trainer`, interleaved."""
    if not gpu.available():
        print("no GPU here: left out", file=sys.stderr)
        return {"left_out": "no GPU here"}
    import torch

    request = {"device": "cuda", "shape": gpu.BASE, "steps": gpu.STEPS, "warm_up": gpu.WARM_UP}
    peak = once("the card's matrix peak", "gpu", {**request, "arm": "peak"}, settings)
    runs = []
    for repeat in range(settings.repeats):
        for size in gpu.BATCH_SIZES:
            for arm in (OURS, TRAINER):
                found = once(
                    f"BERT-base, batches of {size}, {arm}", "gpu", {**request, "arm": arm, "batch_size": size}, settings
                )
                runs.append({"arm": arm, "batch_size": size, "repeat": repeat, **found})
    return {"device": torch.cuda.get_device_name(0), "peak": peak, "runs": runs}
