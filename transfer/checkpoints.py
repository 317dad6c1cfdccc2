"""Keeping the best weights, and being able to go on after an interruption at any moment."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from transfer import interruption, sharding
from transfer.interruption import Interrupted

log = logging.getLogger(__name__)

LAST = "checkpoints/last.ckpt"


class BestWeights(Callback):
    """Holds the weights with the best validation metric so far; of equals, those with the lower validation loss.

    They live in main memory and inside `last.ckpt`, so that progress and best weights are always of the same moment.

    Args:
        until_step: with it, only weights reached within so many optimizer steps count.
    """

    def __init__(self, monitor: str, mode: str, *, until_step: int | None = None) -> None:
        self.monitor = monitor
        self.sign = 1.0 if mode == "max" else -1.0
        self.until_step = until_step
        self.best: tuple[float, float] | None = None
        self.step = 0
        self.seen_step = -1
        self.metrics: dict[str, float] = {}
        self.weights: dict[str, torch.Tensor] = {}

    @property
    def state_key(self) -> str:
        return f"BestWeights(until_step={self.until_step})"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen_step = trainer.global_step
        late = self.until_step is not None and trainer.global_step > self.until_step
        if not (late and self.best is not None):
            self.take(trainer, pl_module)

    def take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights of this validation if they are the best so far."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        model: Any = pl_module.model
        self.see(metrics, trainer.global_step, lambda: sharding.held(model))

    def see(self, metrics: dict[str, float], step: int, weights: Callable[[], dict[str, torch.Tensor]]) -> None:
        """Keep the weights with these metrics if they are the best so far; only then they are asked for."""
        # Nothing compares with nan: once kept, it would never be beaten.
        score = (_comparable(self.sign * metrics[f"val/{self.monitor}"]), _comparable(-metrics["val/loss"]))
        if self.best is None or score > self.best:
            self.best, self.step, self.metrics = score, step, metrics
            self.weights = weights()

    def state_dict(self) -> dict[str, Any]:
        kept = {"best": self.best, "step": self.step, "metrics": self.metrics, "weights": self.weights}
        return kept | {"seen_step": self.seen_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self.best = None if best is None else (best[0], best[1])
        self.step, self.metrics, self.weights = state_dict["step"], state_dict["metrics"], state_dict["weights"]
        self.seen_step = state_dict["seen_step"]


def _comparable(score: float) -> float:
    return -math.inf if math.isnan(score) else score


class PatientStopping(EarlyStopping):
    """Early stopping that does not count before `min_steps`: random weights need a while before anything improves."""

    def __init__(self, monitor: str, patience: int, mode: str, *, min_steps: int) -> None:
        super().__init__(monitor, patience=patience, mode=mode, check_finite=True)
        self.min_steps = min_steps

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        over = trainer.global_step == trainer.max_steps  # perhaps before anything was validated
        if trainer.global_step >= self.min_steps and not over:
            super()._run_early_stopping_check(trainer)


class Resumable(Callback):
    """Writes `last.ckpt` every so many seconds, between batches or at the end of an epoch, whole or not at all.

    Told to stop, it does so at once, and raises `Interrupted`.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.path = folder / LAST
        self.every_s = every_s
        self.saved = time.monotonic()
        self.stop: int | None = None

    def _save_if_due(self, trainer: Trainer) -> None:
        due, stop = time.monotonic() - self.saved >= self.every_s, interruption.received()
        if trainer.world_size > 1:  # a signal comes to the ranks between different batches
            due, stop = trainer.strategy.broadcast((due, stop))
        if due or stop is not None:
            self.save(trainer)
        if stop is not None:
            log.info("told to stop (%s): %s holds step %d", Signals(stop).name, self.path, trainer.global_step)
            self.stop = stop

    def save(self, trainer: Trainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".writing")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
        self.saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = time.monotonic()
        interruption.defer()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Only now: Lightning logs a step, or an epoch, after the hooks of its end.
        if self.stop is not None:
            raise Interrupted(self.stop)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        interruption.resume()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        interruption.abandon()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last batch of an epoch is followed by validation; the checkpoint comes after it, in on_train_epoch_end.
        if batch_idx + 1 < trainer.num_training_batches:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.should_stop:
            self._save_if_due(trainer)
