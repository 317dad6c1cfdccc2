"""How many processes tokenize, and how many load batches: more than one only where that was seen to pay."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from transfer import hardware

log = logging.getLogger(__name__)

# Starting processes takes half a second; two cores save 20 microseconds a short text (docs/batches.md).
TOKENIZED_BY_SEVERAL = 50_000
# No more of either kind, however many cores there are.
MOST = 8
# Of the first steps so many are left out, since they make room and compile, and so many are watched.
WARM_UP, WATCHED = 3, 17
# Loading is worth a process where a batch takes so many seconds and so large a part of a step; below, handing over the
# batch costs as much.
LEAST_S, LEAST_FRACTION = 0.005, 0.1


def tokenizing(num_rows: int) -> int | None:
    """How many processes tokenize so many rows; None is this one."""
    can = min(cores(), MOST)
    return can if num_rows >= TOKENIZED_BY_SEVERAL and can > 1 and _may_fork() else None


def cores() -> int:
    """Those of each of the run's processes on this machine."""
    return hardware.num_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)


def _may_fork() -> bool:
    # Where processes are started anew (macOS, Windows), the model would have to be sent to them.
    return multiprocessing.get_start_method() == "fork" and not multiprocessing.current_process().daemon


@contextmanager
def environment_kept() -> Iterator[None]:
    """For `Dataset.map` with several processes, which switches the threads of tokenizers off (TOKENIZERS_PARALLELISM),
    in this one too, and may leave a copy in the place of `os.environ` (datasets 5.2)."""
    name = "TOKENIZERS_PARALLELISM"
    environment, before = os.environ, os.environ.get(name)
    try:
        yield
    finally:
        os.environ = environment  # noqa: B003
        environment.pop(name, None)
        if before is not None:
            environment[name] = before


@dataclass
class Watch:
    """Decides after the first steps of a training, in which its own process loads, how many others shall do it."""

    most: int = field(default_factory=lambda: min(cores(), MOST) if _may_fork() else 0)
    loading: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    decided: bool = False

    def saw(self, loading_s: float, step_s: float) -> int:
        """Take note of a batch; how many processes shall load from now on."""
        self.loading.append(loading_s)
        self.steps.append(step_s)
        if self.most < 2 or len(self.loading) < WARM_UP + WATCHED:
            return 0
        self.decided = True
        load, step = (median(seen[WARM_UP:]) for seen in (self.loading, self.steps))
        if load < LEAST_S or load < LEAST_FRACTION * (load + step):
            return 0
        number = min(self.most, max(1, math.ceil(load / max(step, 1e-9))))
        log.info(
            "loading a batch takes %.0f ms and a step %.0f ms: %d processes load from now on",
            1e3 * load,
            1e3 * step,
            number,
        )
        return number
