"""Several data sets in one source (`source.also`): which they are, how often each is drawn, what is wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from transfer.config import Config, Data, Source, Task, Trainer
from transfer.errors import Problem

if TYPE_CHECKING:
    from transfer.plan import Plan

DDP = "ddp_find_unused_parameters_true"
# It names a file and a metric.
NAME = re.compile(r"[A-Za-z][\w-]*")


def data_sets(source: Source) -> list[tuple[str, Data, Task]]:
    """The data sets of a source, each as its key, data and task: the source's own, then the further ones by name."""
    further = [(f"source.also.{name}.data", each.data, each.task) for name, each in sorted(source.also.items())]
    return [("source.data", source.data, source.task), *further]


def further(plan: Plan) -> dict[str, Plan]:
    """Name -> the plan of a source, as it would be with this further data set alone."""
    return {
        name: replace(plan, leg=f"source.also.{name}", data=each.data, task=each.task, also={})
        for name, each in plan.also.items()
    }


def trainer(config: Config) -> Trainer:
    """The trainer of a source. Heads of which a step has no batch get no gradient in it, as DDP has to be told.

    A meta run has one device and full precision: gradients of gradients are not exchanged, and not rounded.
    """
    if config.source.meta.algorithm != "none":
        return replace(config.trainer, devices=1, num_nodes=1, strategy="auto", precision="32-true")
    several = config.trainer.devices * config.trainer.num_nodes > 1
    if config.source.also and several and config.trainer.strategy in ("auto", "ddp"):
        return replace(config.trainer, strategy=DDP)
    return config.trainer


def not_used_by_meta(settings: Trainer) -> list[str]:
    """Notes on settings of the trainer that a meta run has in its own way."""
    notes = []
    if settings.devices * settings.num_nodes > 1:
        notes.append("trainer.devices and trainer.num_nodes are not used by stage=meta: it trains on one device")
    if settings.precision not in ("auto", "32", "32-true"):
        notes.append(f"trainer.precision={settings.precision} is not used by stage=meta: it computes in float32")
    return notes


def probabilities(sizes: Sequence[int], temperature: float) -> list[float]:
    """How probable it is that a batch is of each data set: size ** (1 / temperature), normalised.

    Temperature-scaled mixing of Raffel et al. 2020, section 3.5.2, without their artificial limit on the sizes; before
    them multilingual BERT (Devlin 2018) was trained so, with the exponent 0.7.
    """
    logs = [math.log(size) / temperature for size in sizes]
    shares = [math.exp(value - max(logs)) for value in logs]
    return [share / sum(shares) for share in shares]


def problems(config: Config) -> Iterable[Problem]:
    """What is wrong with `source.also` as a whole; each set is checked as the data and the task of a source are."""
    source = config.source
    if not source.temperature > 0 or math.isinf(source.temperature):
        yield Problem("source.temperature", source.temperature, "a number above 0", "1 is in proportion to the sizes")
    if not source.also:
        if source.temperature != 1:
            allowed = "1, the default, where there is one data set and nothing to draw from"
            yield Problem("source.temperature", source.temperature, allowed, "name further ones in source.also")
        return
    for name in source.also:
        if not NAME.fullmatch(name):
            yield Problem(f"source.also.{name}", name, "a name of letters, digits, _ and -, a letter first", "")
    kind = config.model.config.get("model_type")
    if kind == "linear":
        yield Problem("source.also", ", ".join(source.also), f"none with a {kind} model: it is all head", "model=lstm")
    if config.model.decoder or kind == "encoder-decoder":
        allowed = "none with an encoder and a decoder that are put together: the head is between and inside them"
        yield Problem("source.also", ", ".join(source.also), allowed, "name one model, such as a T5 or a BART")
