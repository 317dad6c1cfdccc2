"""The launchers of a sweep: in this process, or joblib, submitit and Ray, each from a package of its own."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from transfer import hardware, interruption
from transfer.errors import Problem, UserError
from transfer.interruption import Interrupted
from transfer.sweep.work import StoppedError

log = logging.getLogger(__name__)

# The package of Hydra's launcher -> our extra that installs it.
EXTRAS = {"hydra_joblib_launcher": "joblib", "hydra_submitit_launcher": "slurm", "hydra_ray_launcher": "ray"}


def make(*, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Launcher:
    """The chosen launcher.

    Raises:
        UserError: its package is not installed.
    """
    settings = config.hydra.launcher
    package = str(settings._target_).split(".")[1]
    if package in EXTRAS and importlib.util.find_spec(f"hydra_plugins.{package}") is None:
        received = config.hydra.runtime.choices["hydra/launcher"]
        allowed = f"a launcher whose package is installed; {package.replace('_', '-')} is not"
        raise UserError(Problem("hydra/launcher", received, allowed, f"pip install 'transfer[{EXTRAS[package]}]'"))
    if str(settings._target_).endswith(".SlurmLauncher") and shutil.which("srun") is None:
        allowed = "a machine with SLURM's commands; srun is not on the PATH"
        raise UserError(Problem("hydra/launcher", "submitit_slurm", allowed, "submitit_local tries it without SLURM"))
    if package == "hydra_ray_launcher" and (settings.ray.init.get("address") or os.environ.get("RAY_ADDRESS")):
        with open_dict(settings):  # the launcher would set a size, which Ray refuses for a cluster that is there
            settings.ray.init.object_store_memory = None
    return Plugins.instance().instantiate_launcher(
        hydra_context=hydra_context, task_function=task_function, config=config
    )


def launch(
    launcher: Launcher,
    files: Sequence[Path],
    *,
    first: int,
    wait: bool,
    is_complete: Callable[[Path], bool],
    choice: Sequence[str] = (),
) -> list[JobReturn]:
    """What came of each job. Where a worker died and took the launcher with it, the rest runs one after another.

    Args:
        launcher: any of Hydra's.
        files: the frozen config of each job.
        first: the number of the first of these jobs among all that were launched.
        wait: whether a job waits for another process that trains the same run.
        is_complete: whether the job of this file has its record.
        choice: overrides that every job needs.

    Raises:
        Interrupted: the workers were told to stop.
    """
    overrides = [[_job(file), f"wait={str(wait).lower()}", *choice] for file in files]
    if not in_this_process(launcher):
        logs = getattr(launcher, "params", {}).get("submitit_folder")
        log.info("%d jobs go to %s%s", len(files), type(launcher).__name__, f"; logs: {logs}" if logs else "")
    # joblib kills its workers when this process breaks off; told to stop, they leave checkpoints instead.
    workers = multiprocessing.active_children if type(launcher).__name__ == "JoblibLauncher" else None
    try:
        with interruption.passing_on(workers), _cores_shared(launcher, len(files)):
            found = list(launcher.launch(overrides, initial_job_idx=first))
    except Exception as error:
        if (signum := interruption.received()) is not None:
            raise Interrupted(signum) from error
        if len(files) == 1:
            return [_failed(error)]
        log.warning("a worker died: %s; what is missing runs one after another", _first_line(error))
        alone = partial(launch, launcher, first=first, wait=wait, is_complete=is_complete, choice=choice)
        return [_complete() if is_complete(file) else alone([file])[0] for file in files]
    signum = interruption.received()
    for result in found:
        if isinstance(result._return_value, StoppedError):
            signum = result._return_value.signum
    if signum is not None:
        raise Interrupted(signum)
    return found


def in_this_process(launcher: Launcher) -> bool:
    """Whether the jobs run here, one after another."""
    # By its name: Hydra's search for plugins imports the module of this class a second time.
    return type(launcher).__name__ == "BasicLauncher"


@contextmanager
def _cores_shared(launcher: Launcher, num_jobs: int) -> Iterator[None]:
    """For submitit's processes on this machine, which all begin at once; joblib and Ray see to it themselves."""
    if type(launcher).__name__ != "LocalLauncher" or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, hardware.num_cpus() // num_jobs))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _job(file: Path) -> str:
    quoted = str(file.absolute()).replace("'", "\\'")
    return f"job='{quoted}'"


def _failed(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError(f"its worker died: {_first_line(error)}"))


def _complete() -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=None)


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
