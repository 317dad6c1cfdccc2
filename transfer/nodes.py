"""A run on several machines: `transfer run trainer.num_nodes=N ...`, started once on each by srun or torchrun.

The first one holds the lock, trains what comes before and writes the record; the others do their share of each one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from transfer.errors import Problem, UserError
from transfer.plan import Plan

# A node may have to wait as long as another job trains the source, so that nothing gives up before SLURM does.
PATIENCE_S = 7 * 24 * 3600
# In the environment of what torchrun has started.
TORCHRUN = "TORCHELASTIC_RUN_ID"
PORTS = range(20_000, 40_000)


@dataclass(frozen=True)
class Node:
    """This machine's place among those of a run, and where they meet."""

    number: int = 0
    endpoint: str = "localhost:0"

    @property
    def rendezvous(self) -> dict[str, Any]:
        """For torch's elastic launcher."""
        if self.endpoint == Node.endpoint:
            return {}
        return {"is_host": self.number == 0, "join_timeout": PATIENCE_S, "read_timeout": PATIENCE_S}


def this(plan: Plan) -> Node:
    """Which of a run's machines this is.

    Raises:
        UserError: the run is for several and was not started once on each of them.
    """
    wanted = plan.trainer.num_nodes
    if wanted == 1:
        return Node()
    # Each training has a port of its own: the meeting point of the one before may not be gone yet.
    port = PORTS[int(plan.fingerprint[:8], 16) % len(PORTS)]
    if TORCHRUN in os.environ:
        number, have = int(os.environ["GROUP_RANK"]), int(os.environ["WORLD_SIZE"])
        if have != wanted:
            raise UserError(Problem("trainer.num_nodes", wanted, str(have), f"torchrun has started {have} machines"))
        return Node(number, f"{os.environ['MASTER_ADDR']}:{port}")
    started = {name: os.environ.get(f"SLURM_{name}") for name in ("NNODES", "NTASKS")}
    names = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST")
    if names is None or any(value != str(wanted) for value in started.values()):
        allowed = f"1, or one task on each of {wanted} nodes (SLURM says {started})"
        action = f"srun --nodes={wanted} --ntasks-per-node=1 transfer run ..."
        raise UserError(Problem("trainer.num_nodes", wanted, allowed, action))
    from lightning.fabric.plugins.environments import SLURMEnvironment

    return Node(int(os.environ["SLURM_NODEID"]), f"{SLURMEnvironment.resolve_root_node_address(names)}:{port}")


def require_one_process() -> None:
    """Of torchrun's processes on this machine; the ranks are started by `transfer.launch`.

    Raises:
        UserError: there are several; each would be a run of its own, and wait for the first one.
    """
    have = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if TORCHRUN in os.environ and have != "1":
        action = f"torchrun --nproc-per-node=1 ... -m transfer run trainer=ddp trainer.devices={have} ..."
        raise UserError(Problem("torchrun --nproc-per-node", have, "1", action))
