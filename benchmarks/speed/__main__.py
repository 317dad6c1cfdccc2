"""Measures this project beside Hugging Face's `Trainer` and a bare PyTorch loop: `make bench`.

    python -m benchmarks.speed [--only NAME ...] [--repeats 3] [--quick] [--to FOLDER]

Writes speed.json, speed.md and speed.png after every part, so that what is done is kept when it is broken off.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.speed import cases, drawing, parts, results, tables
from benchmarks.speed.parts import CASES, OTHERS, Settings
from transfer import hardware

RESULTS = Path(__file__).parents[1] / "results"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*CASES, *OTHERS], metavar="NAME", help=", ".join(CASES + OTHERS))
    parser.add_argument("--repeats", type=int, default=3, help="how often, each time with another seed (default: 3)")
    parser.add_argument("--quick", action="store_true", help="few rows and a tiny model: does everything run?")
    parser.add_argument("--threads", type=int, default=hardware.num_cpus(), help="of each process (default: all cores)")
    parser.add_argument("--to", type=Path, help="the folder of the results (default: benchmarks/results for all of it)")
    return parser.parse_args(arguments)


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, memory, instructions for bfloat16."""
    name, cores = hardware.cpu_name(), hardware.num_cpus()
    meminfo = Path("/proc/meminfo")
    total = int(meminfo.read_text().split()[1]) * 1024 / 1e9 if meminfo.is_file() else None
    fast = sorted({"avx512_bf16", "amx_bf16"} & hardware.cpu_flags())
    text = f"{name}, {cores} cores" + (f", {total:.0f} GB" if total else "") + (f", {', '.join(fast)}" if fast else "")
    return {"text": text, "cpu": name, "cores": cores, "memory_gb": total, "bf16": fast}


def frame(settings: Settings) -> dict[str, Any]:
    """A result in which nothing has been measured yet."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": hardware.git(),
        "hardware": machine(),
        "threads": settings.threads,
        "versions": {**hardware.versions(), "accelerate": metadata.version("accelerate")},
        "data": list(settings.scale.words),
        "repeats": settings.repeats,
        "quick": settings.scale.quick,
        "names": list(settings.names),
        "runs": [],
        "cases": {},
        "targets": [],
    }


def write(found: dict[str, Any], settings: Settings, folder: Path) -> None:
    """The files of what has been measured so far."""
    names = tuple(name for name in settings.names if any(run["case"] == name for run in found["runs"]))
    found["cases"] = results.summaries(settings.scale, found["runs"], names)
    found["targets"] = [results.case_target(made) for made in found["cases"].values()] + results.other_targets(found)
    folder.mkdir(parents=True, exist_ok=True)
    # A digit for each test row and seed is enough to have been compared.
    runs = [{name: value for name, value in run.items() if name != "right"} for run in found["runs"]]
    (folder / "speed.json").write_text(json.dumps({**found, "runs": runs}, indent=1) + "\n")
    (folder / "speed.md").write_text(tables.page(found))
    drawing.draw(found["cases"], found["hardware"]["text"], folder / "speed.png")


def measure(settings: Settings, folder: Path) -> dict[str, Any]:
    """All parts that were asked for, one after the other."""
    found = frame(settings)
    for run in parts.trainings(settings):
        found["runs"].append(run)
        write(found, settings, folder)
    measured = {
        "overhead": parts.overhead,
        "commands": parts.command_times,
        "finished": parts.finished,
        "memory": parts.memory,
        "gpu": parts.gpus,
    }
    for name in OTHERS:
        if name in settings.names:
            made = measured[name](settings)
            found[name] = results.overhead(made) if "transfer" in made else made
            write(found, settings, folder)
    return found


def tiny_model(folder: Path) -> str:
    """A model of two layers that has been trained for an instant, for `--quick`."""
    from transfer import records
    from transfer.compose import compose
    from transfer.run import run

    words = ["experiment=movies_to_products", "model=tiny_bert", "trainer=cpu", "logger=none", "floors=false"]
    sizes = [f"target.data.{split}_size=16" for split in ("train", "validation", "test")]
    short = ["arm=scratch", "scratch.max_epochs=1", "scratch.min_steps=0", "model.vocabulary.texts=target"]
    run(compose([*words, *sizes, *short, f"output_dir={folder}/tiny", f"cache_dir={folder}/cache"]))
    (record,) = records.find(folder / "tiny")
    return str(Path(record["_folder"]) / "model")


def main(arguments: Sequence[str] | None = None) -> None:
    wanted = options(arguments)
    names = tuple(wanted.only or (*CASES, *OTHERS))
    with tempfile.TemporaryDirectory(prefix="speed-") as temporary:
        scale = cases.quick_scale(tiny_model(Path(temporary))) if wanted.quick else cases.full_scale()
        settings = Settings(scale, names, wanted.repeats, wanted.threads)
        whole = not (wanted.only or wanted.quick)
        folder = wanted.to or (RESULTS if whole else Path(tempfile.mkdtemp(prefix="speed-results-")))
        if not wanted.quick:
            print(f"about {parts.expected_minutes(settings):.0f} min on two cores", file=sys.stderr)
        clock = time.perf_counter()
        found = measure(settings, folder)
    print(f"{(time.perf_counter() - clock) / 60:.1f} min", file=sys.stderr)
    for each in found["targets"]:
        mark = {True: "met    ", False: "NOT MET", None: "       "}[each["met"]]
        print(f"{mark}  {each['name']}: {each['shown']} (wanted {each['wanted']})")
    print(folder / "speed.md")


if __name__ == "__main__":
    main()
