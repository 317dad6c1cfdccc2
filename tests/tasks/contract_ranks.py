"""Every combination of the contract in two processes at once, which are started once for all of them."""

import os
import signal
import traceback
from pathlib import Path
from typing import Any

import torch

from tests.tasks import contract
from tests.tasks.contract_table import BATCH_NORMS, FITTING, KINDS
from transfer.config import Freezing
from transfer.interruption import SIGNALS
from transfer.launch import RANK_VARIABLES

Trained = tuple[dict[str, torch.Tensor], dict[str, float]]


def train(folder: Path, kind: str, family: str, *, devices: int) -> Trained:
    """Weights after the two steps of an epoch, and the metrics of the validation after it."""
    built = contract.build(folder, kind, family)
    # Batch norms are compared with their running statistics: those of a batch are a rank's own.
    policy = Freezing("head_only") if family in BATCH_NORMS else Freezing()
    module = contract.fit(built, built.copy(), policy=policy, devices=devices)
    metrics = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    weights = {name: tensor.detach().clone() for name, tensor in module.model.state_dict().items()}
    return weights, {name: value for name, value in metrics.items() if name.startswith("val/")}


def rank(folder: Path, environment: dict[str, str]) -> None:
    """What each of the two does; its results go to a file of its own."""
    os.environ.update(environment)
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    number = int(os.environ["RANK"])
    rank_zero_only.rank = number  # type: ignore[attr-defined]
    found: dict[tuple[str, str], Any] = {}
    for pair in FITTING:
        try:
            found[pair] = train(folder, *pair, devices=2)
        except Exception:
            found[pair] = traceback.format_exc()
    torch.save(found, folder / f"rank{number}.pt")


def launch(folder: Path) -> list[dict[tuple[str, str], Any]]:
    """The results of both: weights and metrics, or how it failed."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for kind in KINDS:
        contract.build(folder, kind, KINDS[kind].families[0])  # what is encoded is there for both
    environment = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")}
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="contract",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="forkserver",
    )
    try:
        elastic_launch(settings, rank)(folder, environment)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in RANK_VARIABLES:
            os.environ.pop(name, None)
    return [torch.load(folder / f"rank{number}.pt", weights_only=False) for number in (0, 1)]
