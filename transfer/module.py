"""The one LightningModule: any model, any task, any freezing plan."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import SumMetric
from transformers import PreTrainedModel

from transfer import memory, optim, sharding
from transfer.adaptation import Adapted
from transfer.data.module import TransferData
from transfer.freezing import FreezingCallback, batch_norms_at_rest
from transfer.plan import Plan
from transfer.prefix.cache import EVER, FeatureCache
from transfer.regularizers import Forward
from transfer.tasks.base import Predicted

log = logging.getLogger(__name__)

# What Lightning and the metrics call them, and what the splits are called.
EVALUATIONS = {"val": "validation", "test": "test"}


class TransferModule(LightningModule):
    """Trains `model` on `task`. After `Trainer.test`, `tested` holds the rows that were tested and what was predicted.

    An optimizer step takes one global batch, in `splits` parts one after another. Lightning knows of the whole batch
    alone, so that the number of parts can grow in mid-epoch when memory runs out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: Any,
        plan: Plan,
        freezing: FreezingCallback,
        splits: int | None = None,
        adapted: Adapted | None = None,
        regularizer: Forward | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.plan = plan
        self.freezing = freezing
        self.adapted = adapted
        self.regularizer = regularizer
        self.features = features
        self.splits = splits or plan.trainer.accumulate_grad_batches
        self.evaluation_splits = 1
        self._has_gradient = False
        # By default a nan is left out of the mean, and a diverged model would show the loss of its good batches.
        # Of torchmetrics' MeanMetric, nan_strategy="disable" drops the weights with the nans (1.9.0).
        self.losses: Any = torch.nn.ModuleDict({name: SumMetric(nan_strategy="disable") for name in EVALUATIONS})
        self.weights: Any = torch.nn.ModuleDict({name: SumMetric(nan_strategy="disable") for name in EVALUATIONS})
        self.answers: list[tuple[Tensor, Any]] = []
        self.batches_missing = 0
        self.tested: tuple[list[int], Predicted] = ([], Predicted([]))
        self.num_examples = 0
        self.num_tokens = 0
        # On the device, where to ask for its value would be to wait for the step.
        self.num_padding = torch.zeros((), dtype=torch.int64)
        self._num_rows = 0

    def configure_model(self) -> None:
        if sharding.is_sharded(self.trainer):
            assert self.device_mesh is not None
            sharding.shard(self.model, self.device_mesh["data_parallel"], str(self.trainer.precision))

    def train(self, mode: bool = True) -> TransferModule:
        """Frozen modules stay in eval mode, whoever puts the model into training mode."""
        super().train(mode)
        if mode:
            self.freezing.rest()
        return self

    def forward(self, batch: dict[str, Any], split: str = "train") -> Any:
        if self.regularizer is not None and self.training:
            return self.regularizer.outputs(self.model, batch["inputs"])
        if self.features is not None:
            return self.features.outputs(self.model, batch, split, self.phase())
        return self.model(**batch["inputs"])

    def phase(self) -> float:
        """The epoch that is trained now; elsewhere weights of any epoch may be at work."""
        return float(self.trainer.current_epoch) if self.trainer.state.fn == TrainerFn.FITTING else EVER

    def on_train_start(self) -> None:
        if self.features is not None:
            self.features.before_training(self.trainer)

    def on_test_start(self) -> None:
        if self.features is not None:
            self.features.before_testing(self.trainer)

    def on_train_epoch_start(self) -> None:
        loader: Any = self.trainer.train_dataloader
        loader.batch_sampler.set_epoch(self.trainer.current_epoch)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        seed_dropout(self.plan, self.trainer.fit_loop.total_batch_idx, self.device, self.global_rank)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self._num_rows = len(batch["index"])
        total, loss = torch.zeros((), device=self.device), torch.empty(0)
        cut = memory.equally_many if sharding.is_sharded(self.trainer) else memory.parts
        parts = list(cut(batch, self.splits))
        for part in parts:
            loss = self._share_of_loss(part)
            total = total + loss.detach()
            if part is not parts[-1]:
                # Of one process alone: gradients are exchanged in the backward pass of the last part, which is
                # Lightning's. Where they are sharded, in that of every part.
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(loss, None)
            self._has_gradient = False
        size = self._num_rows
        self.log("train/loss", total, prog_bar=True, batch_size=size, sync_dist=self.trainer.world_size > 1)
        return loss

    def _share_of_loss(self, part: dict[str, Any]) -> Tensor:
        """What these rows add to the mean loss of the global batch, times the number of ranks."""
        with batch_norms_at_rest(self.model, wanted=len(part["index"]) == 1):
            outputs, share = self(part), float(part["share"].sum())
        if share == 0:  # a weighted mean over rows without weight is nan
            tensors = [value for value in outputs.values() if isinstance(value, Tensor) and value.requires_grad]
            return torch.stack([value.sum() * 0.0 for value in tensors]).sum()
        loss: Tensor = self.task.loss(outputs, part) * share
        penalty = None if self.regularizer is None else self.regularizer.penalty(outputs, part)
        return loss if penalty is None else loss + penalty

    def on_after_backward(self) -> None:
        self._has_gradient = True

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Done at the start of the step: here, it would take away the gradients of all parts but the last."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step; where memory runs out in it, again in twice as many parts, and so in the steps after it.

        Raises:
            OutOfMemoryInRankError: among several processes, which would wait for this one.
        """
        while True:
            try:
                optimizer.step(closure=optimizer_closure)
                return
            except Exception as error:
                if not self._can_split(error):
                    raise
            self.splits *= 2
            if self.trainer.world_size > 1:
                raise memory.OutOfMemoryInRankError(self.splits)
            memory.release()
            log.warning(
                "out of memory at step %d: going on with every batch in %d parts", self.global_step, self.splits
            )

    def _can_split(self, error: Exception) -> bool:
        # With the gradient there, it is the optimizer's own state that has no room, and may be half updated.
        wanted = self.plan.trainer.halve_on_out_of_memory and not self._has_gradient
        return wanted and self.splits < self._num_rows and memory.is_out_of_memory(error)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        rows = int((batch["share"] > 0).sum())
        self.num_examples += rows
        mask = batch["inputs"].get("attention_mask")
        if "num_padding" in batch:  # the mask says more than that
            self.num_tokens += batch["inputs"]["input_ids"].numel()
            self.num_padding = self.num_padding + batch["num_padding"].sum()
        elif mask is None:
            self.num_tokens += rows
        else:
            self.num_tokens += mask.numel()
            self.num_padding = self.num_padding + (mask == 0).sum()

    def _evaluate(self, batch: dict[str, Any], split: str) -> None:
        """Loss and answers of a batch, in parts where memory runs out; here no process waits for another."""
        work = functools.partial(self._evaluate_part, split=split)
        allowed = self.plan.trainer.halve_on_out_of_memory
        self.evaluation_splits = memory.without_gradients(
            batch, self.evaluation_splits, work, "evaluating", may_split=allowed
        )

    def _evaluate_part(self, part: dict[str, Any], split: str) -> None:
        outputs = self(part, EVALUATIONS[split])
        self.task.testing = split == "test"
        answers = self.task.answers(self.model, outputs, part)
        weight = part["share"].sum()
        if weight > 0:
            self.losses[split].update(self.task.loss(outputs, part) * weight)
            self.weights[split].update(weight)
        self.answers.append((part["index"].cpu(), answers))

    def _finish(self, split: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.log_metrics(split, self.computed(split, data, self.trainer.world_size))

    def computed(self, split: str, data: TransferData, world_size: int) -> dict[str, float]:
        """Metrics over the answers of all ranks, every encoded row once."""
        name = EVALUATIONS[split]
        index, answers = gather(self.answers, world_size)
        self.answers = []
        encoded, rows = data.encoded[name], data.rows[name]
        if len(index) < len(encoded):  # limit_eval_batches
            encoded = encoded.select(index)
            rows = rows.select(sorted(set(encoded["row"][:])))
        else:
            assert index == list(range(len(encoded))), "every row counts exactly once"
        predicted = self.task.predict(answers, encoded, rows)
        computed: dict[str, float] = self.task.score(predicted, rows, per_class=split == "test")
        computed |= {"loss": float(self.losses[split].compute() / self.weights[split].compute())}
        self.losses[split].reset()
        self.weights[split].reset()
        if split == "test":
            self.tested = sorted(set(encoded["row"][:])), predicted
        return computed

    def log_metrics(self, split: str, computed: dict[str, float]) -> None:
        """The monitored one beside the progress bar."""
        monitor = self.task.task.monitor
        self.log_dict(
            {f"{split}/{name}": value for name, value in computed.items() if name != monitor}, rank_zero_only=True
        )
        self.log(f"{split}/{monitor}", computed[monitor], prog_bar=True, rank_zero_only=True)

    def _start(self, num_batches: int) -> None:
        self.answers = []
        if sharding.is_sharded(self.trainer):
            most = self.trainer.strategy.reduce(torch.tensor(num_batches, device=self.device), reduce_op="max")
            self.batches_missing = int(most) - num_batches

    def _keep_up(self, batch: dict[str, Any]) -> None:
        """Take part in the batches that others have more: each pass needs the weights of every process."""
        row = memory.rows(batch, slice(0, 1))
        while self.batches_missing:
            self.task.answers(self.model, self(row), row)
            self.batches_missing -= 1

    def on_validation_epoch_start(self) -> None:
        self._start(int(sum(self.trainer.num_val_batches)))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val")
        if batch_idx + 1 == sum(self.trainer.num_val_batches):
            self._keep_up(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_start(self) -> None:
        self._start(int(sum(self.trainer.num_test_batches)))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test")
        if batch_idx + 1 == sum(self.trainer.num_test_batches):
            self._keep_up(batch)

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
        groups = optim.parameter_groups(self.model, self.plan.optimizer, self.freezing.plan, self.adapted)
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


def seed_dropout(plan: Plan, step: int, device: torch.device, rank: int = 0) -> None:
    """Dropout is drawn from (seed, step, rank), so that a run resumed at this step draws the same again."""
    seed = (plan.seeds.order * 1_000_003 + step) * 64 + rank
    # To seed devices that nobody uses takes as long as a step of a small model.
    seeded = torch.default_generator if device.type == "cpu" else torch
    seeded.manual_seed(seed)


def gather(answers: list[tuple[Tensor, Any]], world_size: int) -> tuple[list[int], Any]:
    """Row numbers in their order, and the answer to each, from the batches of all ranks."""
    parts: list[Any] = [answers]
    if world_size > 1:
        parts = [None] * world_size
        torch.distributed.all_gather_object(parts, answers)
    batches = [batch for part in parts for batch in part]
    index = torch.cat([numbers for numbers, _ in batches])
    order = torch.argsort(index)
    if isinstance(batches[0][1], Tensor):
        return index[order].tolist(), torch.cat([given for _, given in batches])[order]
    listed = [answer for _, given in batches for answer in given]
    return index[order].tolist(), [listed[i] for i in order.tolist()]
