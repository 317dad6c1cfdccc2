"""The mean of the weights over the last part of a training, as one more candidate for the best weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from transfer import interruption
from transfer.checkpoints import BestWeights
from transfer.config import Averaging

log = logging.getLogger(__name__)


class AveragedWeights(Callback):
    """Averages after every step from `start_fraction` of the planned steps on.

    `swa` gives all of them the same weight (Izmailov et al. 2018, with each step in place of each cycle), `ema` the
    newest the largest: ``decay * mean + (1 - decay) * weights``.
    """

    def __init__(self, settings: Averaging) -> None:
        self.settings = settings
        self.averaged: AveragedModel | None = None
        self.kept: dict[str, Any] | None = None

    @property
    def num_averaged(self) -> int:
        return 0 if self.averaged is None else int(self.averaged.n_averaged)

    def _start(self, model: nn.Module) -> AveragedModel:
        ema = get_ema_multi_avg_fn(self.settings.decay) if self.settings.name == "ema" else None
        averaged = AveragedModel(model, multi_avg_fn=ema)
        if self.kept is not None:
            averaged.load_state_dict(self.kept)
            self.kept = None
        return averaged

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self.settings.start_fraction * trainer.estimated_stepping_batches:
            return
        model: Any = pl_module.model
        if self.averaged is None:
            self.averaged = self._start(model)
        self.averaged.update_parameters(model)

    def evaluate(self, trainer: Trainer, pl_module: Any, data: Any, best: BestWeights) -> dict[str, Any]:
        """Validate the mean, which `best` takes if it is the best so far; what came of it."""
        found: dict[str, Any] = {"name": self.settings.name, "num_averaged": 0, "chosen": False}
        if self.apply(trainer, pl_module, data.train_dataloader()):
            held = best.best
            with interruption.through_lightning():
                trainer.validate(pl_module, datamodule=data, verbose=False)
            value = float(trainer.callback_metrics[f"val/{best.monitor}"])
            found |= {"num_averaged": self.num_averaged, "chosen": best.best != held, f"val/{best.monitor}": value}
        log.info("averaging=%s: %s", self.settings.name, ", ".join(f"{name} {value}" for name, value in found.items()))
        return found

    def apply(self, trainer: Trainer, pl_module: Any, batches: Any) -> bool:
        """Put the mean in place of the model's weights; False where the training ended before it began.

        Running means of batch norms are those of the mean weights on the training rows, but for the frozen ones.
        """
        if self.averaged is None and self.kept is not None:  # resumed after the last step
            self.averaged = self._start(pl_module.model)
        if self.averaged is None:
            return False
        mean = dict(self.averaged.module.named_parameters())
        with torch.no_grad():
            for name, parameter in pl_module.model.named_parameters():
                parameter.copy_(mean[name])
        norms = [m for m in pl_module.model.modules() if isinstance(m, _BatchNorm)]
        if norms:
            _renew(trainer, pl_module, norms, batches)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self.kept if self.averaged is None else self.averaged.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict["averaged"]


class _Model(nn.Module):
    """What torch's `update_bn` runs: the model on the inputs of a batch, with the norms that are to be renewed."""

    def __init__(self, module: Any, norms: list[_BatchNorm]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.whole = [module]  # no submodule: frozen norms are not to be renewed

    def train(self, mode: bool = True) -> _Model:
        super().train(mode)
        self.whole[0].train(mode)
        return self

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.whole[0].model(**batch["inputs"])


def _renew(trainer: Trainer, pl_module: Any, norms: list[_BatchNorm], batches: Any) -> None:
    pl_module.train()
    awake = [norm for norm in norms if norm.training]
    device = next(pl_module.model.parameters()).device

    def moved() -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {"inputs": {name: value.to(device) for name, value in batch["inputs"].items()}}

    update_bn(moved(), _Model(pl_module, awake))
    for norm in awake:
        for name, buffer in norm.named_buffers():
            setattr(norm, name, trainer.strategy.broadcast(buffer))
