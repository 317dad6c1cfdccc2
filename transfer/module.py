"""The one LightningModule: any model, any task, any freezing plan."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from transfer import optim
from transfer.freezing import FreezingCallback
from transfer.plan import Plan

EVALUATIONS = ("val", "test")


class TransferModule(LightningModule):
    """Trains `model` on `task`. After `Trainer.test`, `predictions` holds (row numbers, logits) of this rank."""

    def __init__(self, model: PreTrainedModel, task: Any, plan: Plan, freezing: FreezingCallback) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.plan = plan
        self.freezing = freezing
        self.val_metrics = task.metrics(per_class=False)
        self.test_metrics = task.metrics(per_class=True)
        # By default a nan is left out of the mean, and a diverged model would show the loss of its good batches.
        self.losses: Any = torch.nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in EVALUATIONS})
        self.predictions: list[tuple[Tensor, Tensor]] = []
        self.num_examples = 0
        self.num_tokens = 0

    def train(self, mode: bool = True) -> TransferModule:
        """Frozen modules stay in eval mode, whoever puts the model into training mode."""
        super().train(mode)
        if mode:
            self.freezing.rest()
        return self

    def forward(self, batch: dict[str, Any]) -> Tensor:
        logits: Tensor = self.model(**batch["inputs"]).logits
        return logits

    def on_train_epoch_start(self) -> None:
        loader: Any = self.trainer.train_dataloader
        loader.batch_sampler.set_epoch(self.trainer.current_epoch)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        # Dropout is drawn from (seed, step, rank), so that a run resumed at this step draws the same again.
        step = self.trainer.fit_loop.total_batch_idx
        torch.manual_seed((self.plan.seeds.order * 1_000_003 + step) * 64 + self.global_rank)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss: Tensor = self.task.loss(self(batch), batch["labels"])
        size = len(batch["index"])
        self.num_examples += size
        mask = batch["inputs"].get("attention_mask")
        self.num_tokens += size if mask is None else mask.numel()
        self.log("train/loss", loss, prog_bar=True, batch_size=size, sync_dist=self.trainer.world_size > 1)
        return loss

    def _evaluate(self, batch: dict[str, Any], split: str) -> Tensor:
        logits = self(batch)
        metrics = self.val_metrics if split == "val" else self.test_metrics
        self.task.update(metrics, logits, batch["labels"])
        self.losses[split].update(self.task.loss(logits, batch["labels"]), len(batch["index"]))
        return logits

    def _finish(self, split: str) -> None:
        metrics = self.val_metrics if split == "val" else self.test_metrics
        computed = self.task.named(metrics.compute()) | {"loss": float(self.losses[split].compute())}
        metrics.reset()
        self.losses[split].reset()
        monitor = self.task.task.monitor
        self.log_dict(
            {f"{split}/{name}": value for name, value in computed.items() if name != monitor}, rank_zero_only=True
        )
        self.log(f"{split}/{monitor}", computed[monitor], prog_bar=True, rank_zero_only=True)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_start(self) -> None:
        self.predictions = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        logits = self._evaluate(batch, "test")
        self.predictions.append((batch["index"].cpu(), logits.float().cpu()))

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Lightning refuses to clip for a fused optimizer, which is only wrong where a scaler is at work (16-mixed), and
        # there no fused optimizer is made.
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(
                [p for p in self.model.parameters() if p.grad is not None], gradient_clip_val
            )

    def configure_optimizers(self) -> Any:
        groups = optim.parameter_groups(self.model, self.plan.optimizer, self.freezing.plan)
        leg = "source." if self.plan.leg == "source" else ""
        optimizer = optim.build(
            groups, self.plan.optimizer, fused=self.trainer.precision != "16-mixed", key=f"{leg}optimizer"
        )
        steps = int(self.trainer.estimated_stepping_batches)
        task = self.plan.task
        scheduler = optim.schedule(optimizer, self.plan.scheduler, steps, mode=task.mode, key=f"{leg}scheduler")
        plateau = self.plan.scheduler.name == "plateau"
        every = {"interval": "epoch", "monitor": f"val/{task.monitor}"} if plateau else {"interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **every}}
