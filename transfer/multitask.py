"""A source of several data sets (`source.also`): one backbone that trains on all of them, with a head for each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer import initial, legs, mixture, shared, tasks
from transfer.data import files
from transfer.data.mixing import MixedData
from transfer.data.module import TransferData
from transfer.errors import Problem, UserError
from transfer.freezing import FreezingCallback
from transfer.legs import Leg
from transfer.module import TransferModule
from transfer.plan import Plan, data_name
from transfer.shared import SharedModel

log = logging.getLogger(__name__)


@dataclass
class Further:
    """One of the further data sets of a source; its plan is that of the source with this set alone."""

    name: str
    plan: Plan
    leg: Leg
    task: Any


def load(plan: Plan, task: Any) -> list[Further]:
    """The further data sets of the run, none for most.

    Args:
        task: that of the first set, which is told what the vocabulary needs for the others.

    Raises:
        UserError: with all that is wrong with any of them.
    """
    found, problems = [], []
    for name, part in mixture.further(plan).items():
        try:
            leg = legs.load(part)
            own = tasks.make(part.task, leg.splits.labels, key=f"{part.leg}.task")
        except UserError as error:
            problems += error.problems
            continue
        if own.reads_images != task.reads_images:
            kind = "images" if task.reads_images else "texts"
            allowed = f"a task that reads {kind}, as {plan.task.name} of the source's own data does"
            problems.append(Problem(f"{part.leg}.task.name", part.task.name, allowed, "they share one backbone"))
        own.fit(leg.train)
        for note in leg.splits.notes:
            log.info("%s", note)
        found.append(Further(name, part, leg, own))
    if problems:
        raise UserError(problems)
    if found:
        task.special_tokens = {name: word for each in found for name, word in each.task.special_tokens.items()} | (
            task.special_tokens
        )
    return found


def share(plan: Plan, further: list[Further], model: Any, tokenizer: Any, parent: Path | None) -> Any:
    """The model with the heads of the further sets over its backbone; without any, the model as it is.

    Raises:
        UserError: with every set whose task has no model of this family, or one with another backbone.
    """
    others: dict[str, Any] = {}
    problems = []
    for each in further:
        try:
            other, _, _ = initial.initial(each.plan, each.task, each.leg.train, list, parent, tokenizer=tokenizer)
        except UserError as error:
            problems += error.problems
            continue
        if names := shared.missing(model, other):
            received = f"{each.plan.task.name}, with other weights below its head: {', '.join(names[:4])}"
            allowed = f"a task whose model has the backbone of {plan.task.name}'s, or a part of it"
            problems.append(Problem(f"{each.plan.leg}.task.name", received, allowed, "choose another task"))
        others[each.name] = other
    if problems:
        raise UserError(problems)
    return SharedModel(model, others) if others else model


def mix(plan: Plan, further: list[Further], data: TransferData, limit: int | None, **options: Any) -> TransferData:
    """The data of all sets as one; without further ones, the data as they are."""
    if not further:
        return data
    parts = {
        each.name: legs.batches(each.plan, each.leg, each.task, data.tokenizer, limit, **options) for each in further
    }
    mixed = MixedData({"": data, **parts}, plan.temperature)
    for name, chance in zip([data_name(plan.data), *parts], mixed.chances, strict=False):
        log.info("%s: %.1f%% of the batches", name, 100 * chance)
    return mixed


def module(further: list[Further], model: Any, task: Any, *rest: Any) -> TransferModule:
    """What trains the model: on one data set, or on several."""
    return MultitaskModule(model, task, *rest, further=further) if further else TransferModule(model, task, *rest)


class MultitaskModule(TransferModule):
    """Trains a `SharedModel` on several data sets; a batch says of which it is.

    Each further set has a `TransferModule` of its own, which knows its loss and its metrics and is no part of the
    training. The first set's metrics are named as in a run on it alone, and those of a further one after it, as in
    `val/NAME/accuracy`; so it is the first set's monitor that chooses the best weights.
    """

    def __init__(
        self, model: SharedModel, task: Any, plan: Plan, frozen: FreezingCallback, *rest: Any, further: list[Further]
    ) -> None:
        super().__init__(model, task, plan, frozen, *rest)  # type: ignore[arg-type]
        self.names = ["", *(each.name for each in further)]
        told = [(task, plan), *((each.task, each.plan) for each in further)]
        # In a list: their models are parts of this one's, and would be so a second time.
        self.parts = [TransferModule(own, *of_set, frozen) for own, of_set in zip(model.models(), told, strict=True)]
        self.kept: Any = torch.nn.ModuleList(kept for part in self.parts for kept in (part.losses, part.weights))
        self.step_loss = torch.zeros(())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.step_loss = torch.zeros((), device=self.device)
        loss = super().training_step(batch, batch_idx)
        if name := self.names[_set(batch)]:
            several = self.trainer.world_size > 1
            self.log(f"train/{name}/loss", self.step_loss, batch_size=len(batch["index"]), sync_dist=several)
        return loss

    def _share_of_loss(self, part: dict[str, Any]) -> Tensor:
        loss = self.parts[_set(part)]._share_of_loss(part)
        self.step_loss = self.step_loss + loss.detach()
        return loss

    def _evaluate_part(self, part: dict[str, Any], split: str) -> None:
        self.parts[_set(part)]._evaluate_part(part, split)

    def _finish(self, split: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for name, part, source in zip(self.names, self.parts, data.parts, strict=True):
            computed = part.computed(split, source, self.trainer.world_size)
            if name:
                named = {f"{split}/{name}/{metric}": value for metric, value in computed.items()}
                self.log_dict(named, rank_zero_only=True)
            else:
                self.log_metrics(split, computed)
        self.tested = self.parts[0].tested

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._forget()

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._forget()

    def _forget(self) -> None:
        for part in self.parts:
            part.answers = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(_of_set(batch, dataloader_idx), batch_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(_of_set(batch, dataloader_idx), batch_idx)


def _set(batch: dict[str, Any]) -> int:
    return int(batch["set"][0])


def _of_set(batch: dict[str, Any], number: int) -> dict[str, Any]:
    return batch | {"set": torch.full_like(batch["index"], number)}


def describe(further: list[Further], data: TransferData) -> dict[str, Any]:
    """What a record says of the further sets: `also`, by their names; nothing where there are none."""
    if not isinstance(data, MixedData):
        return {}
    about = {
        each.name: {
            "data": data_name(each.plan.data),
            "task": each.plan.task.name,
            "fingerprint": files.fingerprint(each.plan.data, key=f"{each.plan.leg}.data"),
            "num_train": len(each.leg.train),
            "num_val": len(each.leg.splits.validation),
            "num_test": len(each.leg.splits.test),
            "subset_hash": each.leg.subset_hash,
            "share_of_batches": round(chance, 4),
            "head": f"model/{shared.HEADS}/{each.name}.safetensors",
        }
        for each, chance in zip(further, data.chances[1:], strict=True)
    }
    return {"also": about}


def restore(plan: Plan, further: list[Further], folder: Path, model: Any) -> Any:
    """The model of a finished run with its further heads; without any, the model as it is."""
    return shared.load(folder, model, {each.name: each.task for each in further}) if further else model
