"""How long the commands take that train nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import finished_sweep

COMMANDS = {"help": ["--help"], "list": ["list"]}


def seconds(repeats: int) -> dict[str, list[float]]:
    """Of `transfer --help` and `transfer list`, one after the other, `repeats` times each, after one that warms up."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        for number in range(repeats + 1):
            for name, words in COMMANDS.items():
                clock = time.perf_counter()
                command = [sys.executable, "-m", "transfer", *words]
                subprocess.run(command, check=True, capture_output=True, cwd=folder, env={**os.environ})
                if number:
                    found[name].append(time.perf_counter() - clock)
    return found


def finished(request: dict[str, Any]) -> dict[str, list[float]]:
    """Of a sweep of `num_jobs` that are all complete, once it has been started and so has its index."""
    num_jobs, folder = request["num_jobs"], Path(request["folder"])
    finished_sweep.fill(folder, num_jobs)
    sweep = ["run", "-m", *finished_sweep.SMALL["linear"], f"output_dir={folder}", f"seed=range(0,{num_jobs})"]
    found = []
    for _ in range(request["repeats"] + 1):
        took, said = finished_sweep.start(*sweep)
        if f"all {num_jobs} jobs are complete" not in said:
            raise RuntimeError(said[-2000:])
        found.append(took)
    return {"seconds": found[1:]}
