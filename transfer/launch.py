"""A job's processes: one device in this process, several through torch's elastic launcher.

Lightning would start further ranks by running the command line again, which in a multirun starts a second sweep. Here
the ranks start from the config that the parent process composed and froze in the run's folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer import interruption, nodes
from transfer.errors import Problem, UserError
from transfer.interruption import Interrupted
from transfer.plan import Plan

log = logging.getLogger(__name__)

# Left in the run's folder by the process whose memory ran out: into how many parts to cut a step.
OUT_OF_MEMORY = ".out_of_memory"


class RankFailedError(RuntimeError):
    """The first of a run's processes that failed, by its number, with the last line of what it said."""

    def __init__(self, number: int, said: Any) -> None:
        # torch keeps a traceback as text, or as a mapping with the message in it.
        text = str(said.get("message", said) if isinstance(said, dict) else said).strip()
        super().__init__(f"rank {number}: {text.splitlines()[-1] if text else 'no message'}")


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
    if nodes.TORCHRUN not in os.environ:  # there they are this machine's place among the others
        for name in RANK_VARIABLES:
            os.environ.pop(name, None)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    node = nodes.this(plan)
    # So long the ranks have for their checkpoint when they are told to stop.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "90")
    launch_config = LaunchConfig(
        min_nodes=plan.trainer.num_nodes,
        max_nodes=plan.trainer.num_nodes,
        nproc_per_node=plan.trainer.devices,
        run_id=plan.fingerprint[:10],
        rdzv_backend="c10d",
        rdzv_endpoint=node.endpoint,
        rdzv_configs=node.rendezvous,
        max_restarts=0,
        monitor_interval=0.2,
        start_method=_start_method(plan),
    )
    # It would print the whole traceback of a rank; what came of it is told by whoever hears of the error.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    arguments = str(plan.folder / "config.yaml"), str(parent) if parent else None, plan.fingerprint
    note = plan.folder / OUT_OF_MEMORY
    splits = None
    while True:
        note.unlink(missing_ok=True)
        try:
            found = next(iter(elastic_launch(launch_config, rank)(*arguments, splits, _environment()).values()))
            break
        except SignalException as stop:
            raise Interrupted(stop.sigval) from stop
        except ChildFailedError as error:
            if not note.is_file():
                number, failure = error.get_first_failure()
                raise RankFailedError(number, failure.message) from error
        finally:
            interruption.install()  # the elastic launcher leaves handlers of its own
        splits = int(note.read_text())
        note.unlink()
        log.warning("out of memory: starting again, with every batch in %d parts", splits)
    _raise(found)


def _raise(found: list[Problem] | str) -> None:
    if isinstance(found, str):
        from transfer.sweep import pruning

        raise pruning.TrialPruned(found)
    if found:
        raise UserError(found)


_first_environment: dict[str, str] = {}


def _start_method(plan: Plan) -> str:
    """Processes for the CPU are forked from one that has imported everything, which lives as long as this process.

    The second job of a sweep starts at once and not after the seconds that the imports of its ranks take. What has once
    looked at a GPU must not be forked.
    """
    if plan.trainer.accelerator != "cpu":
        return "spawn"
    multiprocessing.set_forkserver_preload(["transfer.preload", "transfer.stages"])
    _first_environment.update(os.environ if not _first_environment else {})
    return "forkserver"


def _environment() -> dict[str, str | None]:
    """The environment for the ranks, None for what is no longer in it: a forked one has that of the first job.

    Without a rank's place among the others: what torchrun says of this machine's is not what the launcher says of it.
    """
    names = {*_first_environment, *os.environ} - {*RANK_VARIABLES}
    return {name: os.environ.get(name) for name in names if not name.startswith("TORCHELASTIC_")}


def rank(
    config_file: str,
    parent: str | None,
    fingerprint: str,
    splits: int | None = None,
    environment: Mapping[str, str | None] | None = None,
) -> list[Problem] | str:
    """What each process runs: the same frozen config, whose fingerprint must come out the same everywhere.

    Returns the user's mistakes, or at which epoch the run was pruned; every rank finds them alike. The launcher would
    make a failure of an exception.
    """
    for name, value in (environment or {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # How this process was started would be how it starts those that load its batches: each would import everything.
    multiprocessing.set_start_method(None, force=True)
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from transfer import config, memory, plan, stages

    # Lightning asks for it when it is imported, and a forked rank finds it imported.
    rank_zero_only.rank = int(os.environ["RANK"])  # type: ignore[attr-defined]

    logger = logging.getLogger("transfer")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO if os.environ["RANK"] == "0" else logging.ERROR)
    planned = plan.make(config.load(Path(config_file)))
    assert planned.fingerprint == fingerprint, f"rank has {planned.fingerprint}, its parent {fingerprint}"
    try:
        with interruption.listen():
            stages.train(planned, Path(parent) if parent else None, splits)
    except UserError as error:
        return error.problems
    except memory.OutOfMemoryInRankError as error:
        (planned.folder / OUT_OF_MEMORY).write_text(str(error.splits))
        raise
    except Exception as error:
        if planned.config.search is not None:
            from transfer.sweep import pruning

            if isinstance(error, pruning.TrialPruned):
                return str(error)
        raise
    return []
