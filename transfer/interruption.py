"""Being told to stop: SIGTERM, and SIGUSR1 or SIGUSR2, by which SLURM and submitit warn that a job's time runs out.

A training stops at its next batch boundary and leaves a checkpoint there; everything else stops at once. Signals belong
to the process as a whole, and so does what this module knows.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(KeyboardInterrupt):
    """This process was told to stop, by this signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass
class _State:
    listening: bool = False
    deferred: bool = False
    received: int | None = None
    before: dict[int, Any] = field(default_factory=dict)
    workers: Callable[[], Iterable[Any]] | None = None


_state = _State()


@contextmanager
def listen(*, keep: bool = False) -> Iterator[None]:
    """Within, the signals raise `Interrupted`, in a training at its next batch boundary.

    Args:
        keep: for a worker's process, which may wait for another job afterwards: a signal is then taken note of, and
            the next job is not begun.
    """
    if threading.current_thread() is not threading.main_thread() or (_state.listening and not keep):
        yield
        return
    if not _state.listening:
        _state.before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        _state.listening, _state.received = True, None
        install()
    _state.deferred = False
    try:
        if _state.received is not None:
            raise Interrupted(_state.received)
        yield
    finally:
        _state.deferred = True
        if not keep:
            for signum, handler in _state.before.items():
                signal.signal(signum, handler)
            _state.listening, _state.received = False, None


def install() -> None:
    """Take the signals again from a library that has taken them."""
    if _state.listening:
        for signum in SIGNALS:
            signal.signal(signum, _handle)


def _handle(signum: int, _: Any) -> None:
    if _state.received is not None:
        return  # it is being seen to; at the end of a job's time SLURM sends SIGTERM after its warning
    _state.received = signum
    if _state.deferred:
        return
    workers = list(_state.workers()) if _state.workers else []
    for worker in workers:
        if _listens(worker.pid, signum):
            os.kill(worker.pid, signum)
    if not workers:
        raise Interrupted(signum)


def _listens(process: int, signum: int) -> bool:
    """Whether a process has a handler: one that has had no job yet would be killed, and joblib then kills the rest."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


@contextmanager
def passing_on(workers: Callable[[], Iterable[Any]] | None) -> Iterator[None]:
    """Within, a signal goes to these processes, which stop in good order, and this one waits for them."""
    _state.workers = workers
    try:
        yield
    finally:
        _state.workers = None


def received() -> int | None:
    """The signal by which this process was told to stop."""
    return _state.received


def defer() -> None:
    """A training begins: it asks `received` at its batch boundaries."""
    if _state.listening:
        install()
        _state.deferred = True


def resume() -> None:
    """The training is over.

    Raises:
        Interrupted: told to stop after the last boundary.
    """
    if _state.listening and _state.deferred:
        _state.deferred = False
        if _state.received is not None:
            raise Interrupted(_state.received)


def abandon() -> None:
    """The training broke off, with an exception that is on its way."""
    if _state.listening:
        _state.deferred = False


@contextmanager
def through_lightning() -> Iterator[None]:
    """Around a call of Lightning's Trainer, which makes an exit code of Ctrl-C, and one of success of SIGTERM.

    Raises:
        Interrupted: told to stop by a signal.
        KeyboardInterrupt: stopped at the keyboard.
    """
    try:
        yield
    except SystemExit as stop:
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        if isinstance(stop.__context__, Interrupted):
            raise Interrupted(stop.__context__.signum) from stop
        if isinstance(stop, SIGTERMException) or isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise


def hand_over(signum: int) -> None:
    """Let who started this process have the signal that we took from it: submitit's handler queues the job again."""
    handler = _state.before.get(signum)
    if callable(handler):
        handler(signum, None)


def requeue(signum: int) -> None:
    """Ask SLURM to start this job again, where it was warned that its time runs out. After SIGTERM somebody else has
    decided already: `scancel`, or a preemption, after which SLURM requeues by itself.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or signum not in WARNINGS or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        log.warning("SLURM job %s is not requeued: scontrol: %s", job, error.strerror)
        return
    if done.returncode == 0:
        log.info("SLURM job %s is requeued, and goes on from here", job)
    else:
        log.warning("SLURM job %s is not requeued: %s", job, done.stderr.strip() or f"exit code {done.returncode}")
