"""What a worker does with a job of a sweep: in the sweep's folder, and with answers that can be sent back."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from transfer import interruption
from transfer.config import Config, load
from transfer.interruption import Interrupted

# Of the environment, what says where things are and what may be reached; a worker on a cluster that was there before
# the sweep would not have it. Keys and other secrets are not among it: a launcher may write a job to a file.
CARRIED = ("TRANSFER_", "GOMP_SPINCOUNT", "WANDB_MODE", "HF_HUB_OFFLINE")


class StoppedError(Exception):
    """A worker was told to stop by this signal; its run goes on from a checkpoint when it is started again."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _here() -> tuple[str, int]:
    return platform.node(), os.getpid()


def _carried() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}


@dataclass(frozen=True)
class Work:
    """Runs a job, which Hydra has composed or a sweep has frozen, in the process it was made in or in a worker.

    Args:
        job: gets a config and whether to wait for other processes.
    """

    job: Callable[[Config, bool], Any]
    process: tuple[str, int] = field(default_factory=_here)
    folder: str = field(default_factory=os.getcwd)
    environment: dict[str, str] = field(default_factory=_carried)

    def __call__(self, composed: DictConfig) -> Any:
        """What the job returns.

        Raises:
            StoppedError: in a worker that was told to stop.
            Exception: what the job raises; in a worker, as something that can be sent to the process that waits.
        """
        if _here() == self.process:
            return self._run(composed)
        # joblib's own way to start processes, which those that we start do not know.
        multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]
        os.chdir(self.folder)
        os.environ.update(self.environment)
        os.environ["TRANSFER_PROGRESS"] = "off"  # of several bars on one terminal none can be read
        try:
            with interruption.listen(keep=True):
                return self._run(composed)
        except Interrupted as stop:
            interruption.hand_over(stop.signum)
            raise StoppedError(stop.signum) from None
        except Exception as error:
            raise portable(error) from None

    def _run(self, composed: DictConfig) -> Any:
        from transfer.compose import to_config

        frozen = composed.get("job")
        config = load(Path(frozen)) if frozen else to_config(composed)
        if not frozen:
            from hydra.core.hydra_config import HydraConfig

            config.overrides = list(HydraConfig.get().overrides.task)
        return self.job(config, bool(composed.get("wait", True)))


def portable(error: Exception) -> Exception:
    """The error itself if it can be sent to another process, else one with its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(str(error) or type(error).__name__)
    error.__traceback__ = None
    return error
