"""A few steps of a run, trained as it will be but in a folder that is thrown away: what they take in time and room."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from transfer import freezing, legs, records, stages, tasks
from transfer.checkpoints import LAST
from transfer.config import Freezing
from transfer.evaluation import PREDICTIONS
from transfer.operations import Operations
from transfer.plan import Plan

STEPS, EVALUATED = 7, 4
# So many batches of a split stand for all of them.
SAMPLED = 40


@dataclass(frozen=True)
class Measured:
    """Of one kind of run.

    Attributes:
        step_s: of a step on a batch of the mean size.
        phases: (epoch, the part of `step_s` that a step takes from it on); several where layers wake one by one.
        num_train: training rows of the run that was measured.
        num_batches: the steps of its epochs.
        validation_s: of one evaluation of the whole validation split.
        test_s: of one of the test split; 0 where it is left alone.
        overhead_s: of everything else, in every run.
        first_s: of what only the first run of its kind does, such as encoding texts.
        floors_s: of the floors, for labels that have none yet.
        peak_bytes: of main memory, or of a GPU's.
        disk_bytes: of the finished run's folder.
        checkpoint_bytes: of what an unfinished one has beside it; 0 where that was not seen.
    """

    step_s: float
    phases: list[tuple[float, float]]
    num_train: int
    num_batches: int
    validation_s: float
    test_s: float
    overhead_s: float
    first_s: float
    floors_s: float
    peak_bytes: int
    disk_bytes: int
    checkpoint_bytes: int


def measure(plan: Plan, parent: Path | None, folder: Path) -> Measured:
    """What a run of this kind takes; a model of its kind is left in `folder`/model.

    Args:
        parent: the model folder that it starts from.
        folder: what is there is deleted.
    """
    first, watch = Watch(plan), Watch(plan)
    first_wall = _train(_stand_in(plan, folder, steps=1, evaluated=1, first=True), parent, first)
    shutil.rmtree(folder)
    wall = _train(_stand_in(plan, folder, steps=STEPS, evaluated=EVALUATED, first=False), parent, watch)
    record = records.read(folder)
    assert record is not None, f"{folder} has no record"
    overhead = max(0.0, wall - watch.seconds())
    with_floors = plan.arm and plan.config.floors and plan.config.test
    return Measured(
        step_s=watch.steps.rate() * watch.mean["train"],
        phases=watch.phases,
        num_train=record["data"]["num_train"] or 1,  # of a stream nobody knows it
        num_batches=watch.num_batches["train"],
        validation_s=watch.evaluated["val"].rate() * watch.mean["val"] * watch.num_batches["val"],
        test_s=watch.evaluated["test"].rate() * watch.mean["test"] * watch.num_batches["test"],
        overhead_s=overhead,
        first_s=max(0.0, first_wall - first.seconds() - overhead),
        floors_s=_floors_s(plan) if with_floors else 0.0,
        peak_bytes=record["memory"]["peak_gpu_bytes"] or record["memory"]["peak_rss_bytes"],
        disk_bytes=_disk(folder, record["data"]["num_test"]),
        checkpoint_bytes=first.checkpoint_bytes,
    )


def _train(plan: Plan, parent: Path | None, watch: Watch) -> float:
    """Seconds in all."""
    began = time.monotonic()
    plan.folder.mkdir(parents=True)
    stages.train(plan, parent, watching=[watch])
    return time.monotonic() - began


def _stand_in(plan: Plan, folder: Path, *, steps: int, evaluated: int, first: bool) -> Plan:
    """The same run, cut short, by one process with its share of a batch, and all of it in this folder."""
    ranks = plan.trainer.devices * plan.trainer.num_nodes
    limit = min(evaluated, plan.trainer.limit_eval_batches or evaluated)
    trainer = replace(plan.trainer, devices=1, num_nodes=1, strategy="auto", limit_eval_batches=limit)
    tokens = plan.budget.tokens_per_batch
    budget = replace(
        plan.budget,
        max_epochs=steps,
        max_steps=steps,
        patience=None,
        batch_size=max(1, plan.budget.batch_size // ranks),
        tokens_per_batch=None if tokens is None else tokens // ranks,
    )
    # Nothing goes to a server; and the first time a checkpoint is written, to see its size.
    logger = replace(plan.config.logger, offline=True, name="none" if first else plan.config.logger.name)
    config = replace(
        plan.config, output_dir=str(folder.parent), folder=str(folder), floors=False, logger=logger, search=None
    )
    gradual = plan.freezing.policy == "gradual"
    return replace(
        plan,
        config=config,
        budget=budget,
        trainer=replace(trainer, checkpoint_every_s=0.0) if first else trainer,
        freezing=Freezing() if gradual else plan.freezing,
        equal_epochs=None,
    )


def _floors_s(plan: Plan) -> float:
    leg = legs.load(plan)
    task = tasks.make(plan.task, leg.splits.labels, key=f"{plan.leg}.task")
    task.fit(leg.train)
    seconds = 0.0
    for _ in range(2):  # the first time what computes them is imported
        began = time.monotonic()
        task.floors(leg.train, leg.splits.test)
        seconds = time.monotonic() - began
    return seconds


def _disk(folder: Path, num_test: int) -> int:
    """Bytes of the folder, with the predictions for the whole test split."""
    import pyarrow.parquet as pq

    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    predictions = folder / PREDICTIONS
    if predictions in sizes:
        sizes[predictions] = round(sizes[predictions] * num_test / max(1, pq.read_metadata(predictions).num_rows))
    return sum(sizes.values())


@dataclass
class Times:
    """Seconds of batches, and the operations of each."""

    seconds: list[float] = field(default_factory=list)
    operations: list[float] = field(default_factory=list)

    def rate(self) -> float:
        """Seconds an operation. The first batch also prepares what all others find: it does not count."""
        later = slice(1 if len(self.seconds) > 1 else 0, None)
        return sum(self.seconds[later]) / max(sum(self.operations[later]), 1e-9)


class Watch(Callback):
    """Times the batches of a run, and knows how much there is to compute in all of its batches."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = Times()
        self.evaluated = {"val": Times(), "test": Times()}
        self.mean: dict[str, float] = {}
        self.num_batches: dict[str, int] = {}
        self.phases = [(0.0, 1.0)]
        self.checkpoint_bytes = 0
        self._operations: Operations | None = None
        self._since = 0.0

    def seconds(self) -> float:
        """All that these batches take when everything is prepared."""
        return sum(each.rate() * sum(each.operations) for each in (self.steps, *self.evaluated.values()))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._operations is not None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        self._operations = next(c for c in trainer.callbacks if isinstance(c, Operations))  # type: ignore[attr-defined]
        loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
        for split, given in loaders.items():
            batches = self._sampled(given)
            most = self.plan.trainer.limit_train_batches if split == "train" else self.plan.trainer.limit_eval_batches
            count = sum(len(each.batch_sampler) for each in (given if isinstance(given, list) else [given]))
            self.num_batches[split] = min(count, most or count)
            self.mean[split] = sum(batches) / len(batches)
        if self.plan.freezing.policy == "gradual":
            plan = freezing.make(module.model, self.plan.freezing, module.adapted)
            gradual = Operations(module.model, freezing.FreezingCallback(module.model, plan), data)
            inputs = next(iter(data.train_dataloader()))["inputs"]
            work = [(start, gradual.of_a_step(inputs, start)) for start, _ in gradual.rates]
            self.phases = [(start, each / work[-1][1]) for start, each in work]

    def _sampled(self, given: Any) -> list[float]:
        """The operations of some of the batches of a loader, or of several of different data sets."""
        listed = given if isinstance(given, list) else [given]
        batches = [(number, loader, keys) for number, loader in enumerate(listed) for keys in loader.batch_sampler]
        chosen = random.Random(0).sample(batches, min(SAMPLED, len(batches)))
        return [self._work(loader.collate_fn([loader.dataset[key] for key in keys]), n) for n, loader, keys in chosen]

    def _work(self, batch: dict[str, Any], number: int = 0) -> float:
        assert self._operations is not None
        return self._operations.of_a_step(batch["inputs"], 0, int(batch["set"][0]) if "set" in batch else number)

    def _tick(self, times: Times, pl_module: LightningModule, batch: Any, number: int = 0) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.monotonic()
        times.seconds.append(now - self._since)
        times.operations.append(self._work(batch, number))
        self._since = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tick(self.steps, pl_module, batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = self.plan_folder(trainer) / LAST
        self.checkpoint_bytes = last.stat().st_size if last.is_file() else 0

    @staticmethod
    def plan_folder(trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._tick(self.evaluated["val"], pl_module, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._tick(self.evaluated["test"], pl_module, batch, dataloader_idx)
