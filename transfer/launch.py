"""A job's processes: one device in this process, several through torch's elastic launcher.

Lightning would start further ranks by running the command line again, which in a multirun starts a second sweep. Here
the ranks start from the config that the parent process composed and froze in the run's folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from transfer.errors import Problem, UserError
from transfer.plan import Plan

# What a launcher leaves in the environment would make the next job in this process believe it is a rank.
RANK_VARIABLES = (
    "LOCAL_RANK",
    "RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def train(plan: Plan, parent: Path | None) -> None:
    """Train the run; when this returns, its record is written.

    Args:
        parent: the model folder that it starts from.
    """
    if plan.trainer.devices == 1 and plan.trainer.num_nodes == 1:
        from transfer import stages

        stages.train(plan, parent)
        return
    if "TORCHELASTIC_RUN_ID" in os.environ or ("SLURM_NTASKS" in os.environ and "RANK" in os.environ):
        _raise(rank(str(plan.folder / "config.yaml"), str(parent) if parent else None, plan.fingerprint))
        return
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    launch_config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.trainer.devices,
        run_id=plan.fingerprint[:10],
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        found = elastic_launch(launch_config, rank)(
            str(plan.folder / "config.yaml"), str(parent) if parent else None, plan.fingerprint
        )[0]
    except SignalException as stop:
        raise KeyboardInterrupt from stop
    _raise(found)


def _raise(found: list[Problem] | str) -> None:
    if isinstance(found, str):
        from transfer.sweep import pruning

        raise pruning.TrialPruned(found)
    if found:
        raise UserError(found)


def rank(config_file: str, parent: str | None, fingerprint: str) -> list[Problem] | str:
    """What each process runs: the same frozen config, whose fingerprint must come out the same everywhere.

    Returns the user's mistakes, or at which epoch the run was pruned; every rank finds them alike. The launcher would
    make a failure of an exception.
    """
    from transfer import config, plan, stages

    logger = logging.getLogger("transfer")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO if os.environ["RANK"] == "0" else logging.ERROR)
    planned = plan.make(config.load(Path(config_file)))
    assert planned.fingerprint == fingerprint, f"rank has {planned.fingerprint}, its parent {fingerprint}"
    try:
        stages.train(planned, Path(parent) if parent else None)
    except UserError as error:
        return error.problems
    except Exception as error:
        if planned.config.search is not None:
            from transfer.sweep import pruning

            if isinstance(error, pruning.TrialPruned):
                return str(error)
        raise
    return []
