"""How a W&B run begins: online, offline, or in the place that a sweep agent keeps for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from transfer.config import Logger
from transfer.wandb_environment import SWEEP_ID, offline

log = logging.getLogger(__name__)


def start(settings: Logger, folder: Path, *, quick: bool = False, **about: Any) -> Any:
    """`wandb.init`; a server that cannot be reached stops nothing, and the rest of this process stays offline.

    Args:
        settings: the project, and whether to be offline.
        folder: the W&B files go to its `wandb`.
        quick: nothing about the machine and its packages.
        about: what else `wandb.init` takes.

    Raises:
        wandb.errors.CommError: the server cannot be reached, and `settings.offline` is false.
    """
    import wandb

    # wandb reads the environment once a process, and a sweep's variables are hidden while its source is trained.
    silent = wandb.Settings(silent=True)
    if wandb.setup(silent).settings.sweep_id != os.environ.get(SWEEP_ID):
        wandb.teardown()
        wandb.setup(silent)
    about |= {
        "project": settings.project,
        "entity": settings.entity,
        "dir": folder,
        "resume": "allow",
        "reinit": "finish_previous",
        "settings": wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=quick,
            x_disable_machine_info=quick,
            x_save_requirements=not quick,
        ),
    }
    if offline(settings.offline):
        return wandb.init(mode="offline", **about)
    try:
        return wandb.init(mode="online", **about)
    except wandb.errors.CommError as error:
        if settings.offline is False:
            raise
        reason = str(error).splitlines()[0]
        log.warning("W&B cannot be reached (%s): kept offline, `transfer sync` uploads it later", reason)
        os.environ["WANDB_MODE"] = "offline"
        wandb.teardown()  # the run that did not begin keeps its id
        wandb.setup(silent)
        return wandb.init(mode="offline", **about)
