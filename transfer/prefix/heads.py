"""Many runs of which only the head trains, over the same features: all of them at once, a step of each at a time.

Their heads stand stacked, and one forward and one backward pass (`torch.func`) serve them all. Everything else is each
run's own and as it is in a run alone: batches, dropout, clipping, optimizer, schedule, the choice of the best weights.
So each run comes to what it comes to alone, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from transfer import optim
from transfer.checkpoints import BestWeights, PatientStopping
from transfer.data.module import TransferData
from transfer.freezing import FreezingCallback
from transfer.module import TransferModule, seed_dropout
from transfer.plan import Plan
from transfer.prefix import boundary as boundaries
from transfer.prefix.boundary import TOKENS
from transfer.prefix.cache import EVER, FeatureCache
from transfer.prefix.stacking import NotTogetherError, by_run, in_parts, joined, of_run, on, pad_alike, rows_of, stacked

# Rows that are evaluated at once, where what is kept of each is small.
EVALUATED = 512


class Evaluated(TransferModule):
    """Evaluates a model outside of a Trainer, on features of what never trains."""

    def phase(self) -> float:
        return EVER


class Subset:
    """The training rows of some of the runs, and the features of their data.

    Attributes:
        train: all rows as one batch, on the device.
    """

    def __init__(self, data: TransferData, features: FeatureCache, device: torch.device) -> None:
        self.features = features
        loader: Any = data.train_dataloader()
        rows = loader.dataset
        self.train: dict[str, Any] = on(data.collate([rows[row, 1.0, 0] for row in range(len(rows))]), device)


@dataclass
class Job:
    """One of the runs: its plan, its own head over the backbone that all share, its rows and their features.

    Attributes:
        best: the best weights of the head so far, with their metrics.
        history: what was logged, as (step, name -> value).
        failed: whether its loss was no number; alone it will come to the same, and say so.
    """

    plan: Plan
    task: Any
    data: TransferData
    model: Any
    subset: Subset
    best: BestWeights = field(init=False)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    num_examples: int = 0
    num_tokens: int = 0
    num_padding: int = 0
    steps: int = 0
    stopped: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        budget, task = self.plan.budget, self.plan.task
        self.best = BestWeights(task.monitor, task.mode)
        self.stopping = (
            None
            if budget.patience is None
            else PatientStopping(f"val/{task.monitor}", budget.patience, task.mode, min_steps=budget.min_steps)
        )
        loader: Any = self.data.train_dataloader()
        self.sampler = loader.batch_sampler
        epochs = budget.max_epochs * len(self.sampler)
        self.num_steps = epochs if budget.max_steps is None else min(epochs, budget.max_steps)

    @property
    def over(self) -> bool:
        return self.stopped or self.failed or self.steps >= self.num_steps


class Heads:
    """The heads of some runs of the same length, stacked; `fit` trains them.

    Args:
        jobs: those of the same subset one behind the other.
        frozen: what keeps the shared backbone at rest; its model is that of the first run.
        precision: Lightning's plugin.
    """

    def __init__(self, jobs: list[Job], frozen: FreezingCallback, precision: Any) -> None:
        self.jobs = jobs
        self.frozen = frozen
        self.model: Any = frozen.model
        self.precision = precision
        features = jobs[0].subset.features
        found = features.at[EVER]
        assert found is not None, "a frozen backbone has a boundary"
        self.boundary = found
        self.kept = features.kept[found]
        self.names = [name for name, start in frozen.plan.items() if start is not None]
        self.subsets = [(subset, len(list(of))) for subset, of in groupby(job.subset for job in jobs)]
        pad_alike([subset.train for subset, _ in self.subsets])
        self._stack()
        self.dropouts: list[tuple[torch.nn.Dropout, torch.Size, torch.dtype]] | None = None
        self.validation = self._validation()
        self.evaluated = [
            Evaluated(job.model, job.task, job.plan, frozen, features=job.subset.features) for job in jobs
        ]

    def _stack(self) -> None:
        """`self.stack`: the parameters [runs, ...] by name. Those of each head become views of them, and have its
        optimizer.
        """
        own = [dict(job.model.named_parameters()) for job in self.jobs]
        self.stack = {name: torch.stack([each[name].detach() for each in own]) for name in self.names}
        self.own = [[parameters[name] for name in self.names] for parameters in own]
        self.optimizers: list[Any] = []
        self.schedules: list[Any] = []
        for number, job in enumerate(self.jobs):
            for name, parameter in zip(self.names, self.own[number], strict=True):
                parameter.data = self.stack[name][number]
            plan = job.plan
            groups = optim.parameter_groups(job.model, plan.optimizer, self.frozen.plan)
            optimizer = optim.build(groups, plan.optimizer)
            self.optimizers.append(optimizer)
            self.schedules.append(optim.schedule(optimizer, plan.scheduler, job.num_steps, mode=plan.task.mode))

    def fit(self) -> None:
        """Train until every run has come to its end.

        Raises:
            NotTogetherError: something in these models or this task is not made for it; nothing was changed then.
        """
        for epoch in range(self.jobs[0].plan.budget.max_epochs):
            for job in self.jobs:
                job.sampler.set_epoch(epoch)
            for batches in zip(*(job.sampler for job in self.jobs), strict=True):
                if self.jobs[0].steps < self.jobs[0].num_steps:
                    self._step(batches, epoch)
            for number, job in enumerate(self.jobs):
                if not (job.stopped or job.failed):
                    self._evaluate(number, epoch)
            if all(job.over for job in self.jobs):
                break

    def _step(self, batches: tuple[list[tuple[int, float, int]], ...], epoch: int) -> None:
        """One optimizer step of each run.

        Args:
            batches: (row, share, epoch) of the rows of each.
        """
        self._to_train()
        batch = self._batch(batches)
        if self.dropouts is None:
            self.dropouts = self._find_dropouts(of_run(batch, 0))
        masks = [self._masks(job, len(batches[0])) for job in self.jobs]
        try:
            with self.precision.forward_context():
                gradients, losses = vmap(grad_and_value(self._loss))(self.stack, batch, stacked(masks))
        except RuntimeError as error:
            raise NotTogetherError(str(error).splitlines()[0]) from error
        mask = batch["inputs"].get("attention_mask")
        lengths = torch.ones_like(batch["share"]) if mask is None else mask.sum(2)
        longest, tokens = lengths.amax(1).tolist(), lengths.sum(1).tolist()
        for number, (job, loss) in enumerate(zip(self.jobs, losses.tolist(), strict=True)):
            # After the end of a run its head stays as it is.
            if not job.over:
                self._update(number, {name: gradients[name][number] for name in self.names})
                self._count(job, len(batches[number]), int(longest[number]), int(tokens[number]), loss, epoch)

    def _to_train(self) -> None:
        self.model.train()
        self.frozen.rest()

    def _batch(self, batches: tuple[list[tuple[int, float, int]], ...]) -> dict[str, Any]:
        """The rows of every run, their shares, and what is kept of them: tensors [runs, rows, ...]."""
        index = torch.tensor([[row for row, _, _ in rows] for rows in batches])
        parts = []
        for (subset, number), own in zip(self.subsets, index.split([n for _, n in self.subsets]), strict=True):
            part = rows_of(subset.train, own.flatten())
            reader = subset.features.readers["train", self.boundary]
            part["given"] = reader.rows(own.flatten(), part["inputs"].get("attention_mask"), self.model.device)
            parts.append(by_run(part, number))
        shares = [[share for _, share, _ in rows] for rows in batches]
        return joined(parts) | {"share": torch.tensor(shares, device=self.model.device)}

    def _loss(self, head: dict[str, Tensor], batch: dict[str, Any], masks: list[Tensor]) -> Tensor:
        with boundaries.resumed(self.model, self.kept, batch["given"], batch["inputs"]), self._dropping(masks):
            outputs = functional_call(self.model, head, kwargs=batch["inputs"])
        loss: Tensor = self.jobs[0].task.loss(outputs, batch) * batch["share"].sum()
        return loss

    def _find_dropouts(self, batch: dict[str, Any]) -> list[tuple[torch.nn.Dropout, torch.Size, torch.dtype]]:
        """The dropout at work above the features, in the order of the calls, with the shape and type of what it gets
        for the first batch.
        """
        seen: list[tuple[torch.nn.Dropout, torch.Size, torch.dtype]] = []

        def note(module: Any, given: tuple[Tensor, ...]) -> None:
            seen.append((module, given[0].shape, given[0].dtype))

        with ExitStack() as stack:
            for module in self.model.modules():
                if isinstance(module, torch.nn.Dropout) and module.p and module.training:
                    stack.callback(module.register_forward_pre_hook(note).remove)
            stack.enter_context(boundaries.resumed(self.model, self.kept, batch["given"], batch["inputs"]))
            stack.enter_context(self.precision.forward_context())
            with torch.no_grad():
                self.model(**batch["inputs"])
        return seen

    def _masks(self, job: Job, rows: int) -> list[Tensor]:
        """What each dropout multiplies with in this step: drawn as in a run alone, from (seed, step), in its order."""
        seed_dropout(job.plan, job.steps, self.model.device)
        return [
            F.dropout(torch.ones(rows, *shape[1:], dtype=dtype, device=self.model.device), module.p)
            for module, shape, dtype in self.dropouts or []
        ]

    @contextmanager
    def _dropping(self, masks: list[Tensor]) -> Iterator[None]:
        given = iter(masks)
        with ExitStack() as stack:
            for module in {id(module): module for module, _, _ in self.dropouts or []}.values():
                stack.enter_context(boundaries.replaced(module, lambda value: value * next(given)))
            yield

    def _update(self, number: int, gradients: dict[str, Tensor]) -> None:
        job = self.jobs[number]
        for name, parameter in zip(self.names, self.own[number], strict=True):
            parameter.grad = gradients[name].contiguous()
        if job.plan.trainer.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.own[number], job.plan.trainer.gradient_clip_val)
        self.optimizers[number].step()
        if job.plan.scheduler.name != "plateau":
            self.schedules[number].step()
        job.steps += 1

    def _count(self, job: Job, rows: int, longest: int, tokens: int, loss: float, epoch: int) -> None:
        job.failed = not math.isfinite(loss)
        job.num_examples += rows
        job.num_tokens += rows * longest
        job.num_padding += rows * longest - tokens
        if job.steps % job.plan.trainer.log_every_n_steps == 0:
            job.history.append((job.steps - 1, {"epoch": epoch, "train/loss": loss}))

    def _validation(self) -> list[dict[str, Any]]:
        """The validation split, which all runs share, in as few batches as its features allow."""
        data = self.jobs[0].data
        loader: Any = data.every_row("validation")
        if TOKENS in self.kept.kinds.values():
            return [on(batch, self.model.device) for batch in loader]
        rows = loader.dataset
        parts = (data.collate([rows[i] for i in part]) for part in in_parts(len(rows), EVALUATED))
        return [on(batch, self.model.device) for batch in parts]

    @torch.inference_mode()
    def _evaluate(self, number: int, epoch: int) -> None:
        """Validate a run at the end of its epoch: keep its head if it is the best so far, stop if it no longer gets
        better.
        """
        job = self.jobs[number]
        job.model.eval()
        module = self.evaluated[number]
        with self.precision.forward_context():
            for batch in self.validation:
                module._evaluate_part(batch, "val")
        found = {f"val/{name}": value for name, value in module.computed("val", job.data, 1).items()}
        # Logged as Lightning does: after an epoch at its last step, where `max_steps` ended it earlier at the next.
        ended = job.steps % len(job.sampler) == 0
        job.history.append((job.steps - ended, {"epoch": epoch, **found}))
        job.best.see(found, job.steps, lambda: {name: self.stack[name][number].clone() for name in self.names})
        monitored = torch.tensor(found[f"val/{job.plan.task.monitor}"])
        if job.plan.scheduler.name == "plateau":
            self.schedules[number].step(monitored)
        if job.stopping is not None and job.steps >= job.plan.budget.min_steps:
            job.stopped = job.stopping._evaluate_stopping_criteria(monitored)[0]
