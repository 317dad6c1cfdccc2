"""Gradient norms to the loggers, with a warning that names the layer where they vanish or explode."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from transfer import parameters

log = logging.getLogger(__name__)

VANISHED, EXPLODED = 1e-7, 1e3


class GradientNorms(Callback):
    """Logs the gradient's 2-norm, in all and for each depth, before clipping; warns once for each kind of trouble."""

    def __init__(self, model: PreTrainedModel, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.model = model
        self.depths = parameters.depths(model)
        self.warned: set[str] = set()

    @property
    def groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """The parameters of each depth, as they are now: sharding puts others in their place."""
        found: dict[str, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            depth = self.depths[name]
            found.setdefault("head" if depth is None else f"depth_{depth}", []).append(parameter)
        return found

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer.global_step % self.every_n_steps:
            return
        norms = {}
        for group, members in self.groups.items():
            gradients = [p.grad for p in members if p.grad is not None]
            if gradients:
                norm = torch.nn.utils.get_total_norm(gradients)
                norms[group] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not norms:
            return
        total = math.sqrt(sum(norm * norm for norm in norms.values()))
        pl_module.log_dict(
            {"gradient_norm/total": total} | {f"gradient_norm/{group}": norm for group, norm in norms.items()}
        )
        self._warn(norms, trainer.global_step)

    def _warn(self, norms: dict[str, float], step: int) -> None:
        exploded = {group: norm for group, norm in norms.items() if not norm < EXPLODED}
        vanished = {group: norm for group, norm in norms.items() if norm < VANISHED}
        # A model that has learned all it can has small gradients everywhere: only some layers without any are trouble.
        if exploded and "exploded" not in self.warned:
            self.warned.add("exploded")
            worst = max(exploded, key=lambda group: math.inf if math.isnan(exploded[group]) else exploded[group])
            log.warning(
                "exploding gradients in %s: norm %.3g at step %d; lower the learning rate", worst, exploded[worst], step
            )
        if vanished and len(vanished) < len(norms) and "vanished" not in self.warned:
            self.warned.add("vanished")
            log.warning(
                "vanishing gradients in %s: norm below %g at step %d", ", ".join(sorted(vanished)), VANISHED, step
            )
