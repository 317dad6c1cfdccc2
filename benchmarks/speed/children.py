"""One measurement in a process of its own: nothing that one leaves in memory or in a cache helps the next.

    python -m benchmarks.speed.children REQUEST.json RESULT.json

This is what the parent starts; the measured functions themselves run in the child.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import LOOP, OURS, TRAINER, Case, Scale

ROOT = Path(__file__).parents[2]
# What a child can be asked for: a module beside this one, and its function.
MEASURES = {
    OURS: ("ours", "measure"),
    TRAINER: ("peers", "trainer"),
    LOOP: ("peers", "loop"),
    "overhead": ("overhead", "measure"),
    "finished": ("commands", "finished"),
    "memory": ("stream", "measure"),
    "gpu": ("gpu", "measure"),
}


class ChildError(Exception):
    """A measurement did not come to its end; the message is what it said."""


def request(case: Case, scale: Scale, seed: int, **more: Any) -> dict[str, Any]:
    """What a child has to know of a case."""
    words = [*scale.words, f"target.budget.max_epochs={case.epochs}", *case.words]
    return {
        "words": words if case.sweep else [*words, f"seed={seed}"],
        "sweep": list(case.sweep),
        "num_jobs": case.num_jobs,
        "seed": seed,
        "epochs": case.epochs,
        "frozen": case.frozen,
        "half": scale.half,
        "model": scale.model,
        "peer_lr": case.peer_lr,
        "pretrained": case.pretrained,
        **more,
    }


def start(measure: str, wanted: dict[str, Any], threads: int, timeout_s: float = 1800) -> dict[str, Any]:
    """The result of `MEASURES[measure]`, with `wall_s`, `load` (of the machine at its start) and `peak_mb`.

    Raises:
        ChildError: it failed, or took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps({**wanted, "measure": measure, "folder": folder}))
        load, clock = os.getloadavg()[0], time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.speed.children", str(asked), str(answered)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=ROOT, env=environment(folder, threads), timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            raise ChildError(f"not finished after {timeout_s:.0f} s") from error
        if done.returncode or not answered.is_file():
            raise ChildError(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
        result: dict[str, Any] = json.loads(answered.read_text())
    return {**result, "wall_s": time.perf_counter() - clock, "load": load}


def environment(folder: str, threads: int) -> dict[str, str]:
    """The same for every way of training: threads, how they wait for each other, empty caches, no network."""
    # The project's command line sets GOMP_SPINCOUNT itself; the others would be slower without it on a busy machine.
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "5000",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": f"{folder}/datasets",
        "TRANSFER_CACHE": f"{folder}/cache",
        "TRANSFER_PROGRESS": "off",
        "WANDB_MODE": "offline",
    }


class Memory(threading.Thread):
    """The most memory of this process that is not a page of a file, which the system can take back."""

    def __init__(self, every_s: float = 0.02) -> None:
        super().__init__(daemon=True)
        self.every_s = every_s
        self.peak_kb = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(self.every_s):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak_kb = max(self.peak_kb, int(line.split()[1]))


def measured(asked: dict[str, Any]) -> dict[str, Any]:
    """In the child: the result, the peaks of its memory, and the processor time of all its threads."""
    module, function = MEASURES[asked["measure"]]
    memory = Memory()
    if Path("/proc/self/status").is_file():
        memory.start()
    result = getattr(importlib.import_module(f"benchmarks.speed.{module}"), function)(asked)
    memory.over.set()
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **result,
        "peak_mb": used.ru_maxrss * unit / 1e6,
        "peak_anonymous_mb": memory.peak_kb * 1024 / 1e6,
        "cpu_s": used.ru_utime + used.ru_stime,
    }


if __name__ == "__main__":
    outcome = measured(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(outcome))
