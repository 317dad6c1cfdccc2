"""Freezing policies -> a plan (parameter name -> the epoch from which it trains, or never), and what applies it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from transfer import parameters
from transfer.config import Freezing
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from transfer.adaptation import Adapted

Plan = dict[str, float | None]
NEVER = None
# A recurrent layer numbers its own: bias_ih_l0.
_BIAS = re.compile(r"(?:.*\.)?bias(_\w+)?")


def make(model: PreTrainedModel, freezing: Freezing, adapted: Adapted | None = None) -> Plan:
    """The epoch from which each parameter trains: 0.0 from the start, None never.

    With adapters, the policy speaks of them, of the head and of what else had no initial weights; nothing else trains.

    Raises:
        UserError: the policy does not fit this model.
    """
    depths = parameters.depths(model)
    top = max((depth for depth in depths.values() if depth is not None), default=0)
    plan = _POLICIES[freezing.policy](depths, top, freezing) | dict.fromkeys(parameters.idle(model), NEVER)
    assert plan.keys() == depths.keys(), "a plan covers every parameter"
    if adapted is not None:
        open_names = adapted.names | adapted.new
        plan = {n: start if depths[n] is None or n in open_names else NEVER for n, start in plan.items()}
    return plan


def _none(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    return dict.fromkeys(depths, 0.0)


def _all(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    return dict.fromkeys(depths, NEVER)


def _head_only(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    if None not in depths.values():
        allowed = "another policy: this model predicts words by their embeddings, which belong to the backbone"
        raise UserError(Problem("freezing.policy", "head_only", allowed, "freezing=first_k or freezing=gradual"))
    return {name: 0.0 if depth is None else NEVER for name, depth in depths.items()}


def _bitfit(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    """The biases, those of the norms among them, and the head (Ben Zaken, Goldberg & Ravfogel 2022)."""
    plan = {name: 0.0 if depth is None or _BIAS.fullmatch(name) else NEVER for name, depth in depths.items()}
    if not any(plan[name] is not None for name, depth in depths.items() if depth is not None):
        allowed, action = "another policy: this model's backbone has no biases", "adaptation=lora is a close one"
        raise UserError(Problem("freezing.policy", "bitfit", allowed, action))
    return plan


def _first_k(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    if freezing.k > top:
        layers = f"this model has {top} layers above its embeddings"
        allowed = f"1 to {top}: {layers}" if top else f"another policy: {layers}"
        raise UserError(Problem("freezing.k", freezing.k, allowed, "freezing=head_only freezes the whole backbone"))
    return {name: 0.0 if depth is None or depth > freezing.k else NEVER for name, depth in depths.items()}


def _gradual(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    """The head from the start, then from the top one depth more every `epochs_per_layer` (Howard & Ruder 2018, 3.3).

    A language model whose head is its word embeddings (GPT-2, T5) begins with its top layer.
    """
    first = int(None in depths.values())
    return {
        name: 0.0 if depth is None else (top - depth + first) * freezing.epochs_per_layer
        for name, depth in depths.items()
    }


def _regex(depths: dict[str, int | None], top: int, freezing: Freezing) -> Plan:
    idle = [pattern for pattern in freezing.patterns if not any(re.fullmatch(pattern, name) for name in depths)]
    if idle:
        some = ", ".join(list(depths)[:4])
        raise UserError(
            Problem("freezing.patterns", idle, "regexes that match a parameter's whole name", f"names look like {some}")
        )
    plan = {name: NEVER if any(re.fullmatch(p, name) for p in freezing.patterns) else 0.0 for name in depths}
    if not any(start is not None for start in plan.values()):
        allowed, action = "patterns that leave something to train", "freezing=all evaluates a model as it is"
        raise UserError(Problem("freezing.patterns", freezing.patterns, allowed, action))
    return plan


_POLICIES: dict[str, Callable[[dict[str, int | None], int, Freezing], Plan]] = {
    "none": _none,
    "all": _all,
    "head_only": _head_only,
    "bitfit": _bitfit,
    "first_k": _first_k,
    "gradual": _gradual,
    "regex": _regex,
}


def frozen_modules(model: nn.Module, training: Iterable[str]) -> list[nn.Module]:
    """The topmost modules none of whose parameters trains: their dropout and batch statistics must rest too."""
    # Not by name: a module may be a part of several, and its parameters have the name of the first alone.
    names = set(training)
    active = {id(parameter) for name, parameter in model.named_parameters() if name in names}

    def visit(module: nn.Module) -> list[nn.Module]:
        own = {id(parameter) for parameter in module.parameters()}
        if own and not active.intersection(own):
            return [module]
        return [found for child in module.children() for found in visit(child)]

    return visit(model)


@contextmanager
def batch_norms_at_rest(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Batch norms use their running statistics meanwhile, where it is wanted: those of a single row are none."""
    from torch.nn.modules.batchnorm import _BatchNorm

    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training] if wanted else []
    for module in found:
        module.eval()
    try:
        yield
    finally:
        for module in found:
            module.train()


class FreezingCallback(Callback):
    """Applies a plan during training.

    On one device a parameter that does not train yet has no gradient, which saves its backward pass. Under DDP the set
    of parameters with gradients is fixed when the model is wrapped, and changing it later desynchronises the ranks;
    there the gradients of parameters that have to wait are dropped before the optimizer's step instead.
    """

    def __init__(self, model: PreTrainedModel, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self.gradual = any(start for start in plan.values())
        self.active: set[str] = set()

    def apply(self, epoch: float, *, wrapped: bool = False) -> None:
        """Set gradients and modes as the plan has them in this epoch."""
        self.active = {name for name, start in self.plan.items() if start is not None and epoch >= start}
        for name, parameter in self.model.named_parameters():
            if not wrapped:
                parameter.requires_grad_(name in self.active)
        if self.model.training:
            self.model.train()  # what wakes in this epoch has rested in eval mode
        self.rest()

    def prepare(self, *, distributed: bool) -> None:
        """Before the model is wrapped: what never trains has no gradient; under DDP all else has, from the start."""
        self.apply(0)
        if distributed:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self.plan[name] is not None)

    def rest(self) -> None:
        """Put what is frozen into eval mode; called whenever the model is put into training mode."""
        if self.model.training:
            for module in [*frozen_modules(self.model, self.active), *self._between_frozen()]:
                module.eval()

    def _between_frozen(self) -> list[nn.Module]:
        """The dropout that some (GPT-2) have between embeddings and first layer, where both are frozen."""
        from torch.nn import Dropout

        layers = parameters.layers(self.model)
        first = f"{layers[min(layers)]}." if layers else ""
        if not first or any(name.startswith(first) for name in self.active):
            return []
        return [child for child in self.model.base_model.children() if isinstance(child, Dropout)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run resumed in mid-epoch is past the start of that epoch, and Lightning does not come back to it.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.apply(trainer.current_epoch, wrapped=trainer.world_size > 1)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer.world_size > 1 and self.gradual:
            for name, parameter in self.model.named_parameters():
                if name not in self.active:
                    parameter.grad = None


def counts(plan: Plan, model: PreTrainedModel) -> dict[str, int]:
    """How many parameters the model has, and how many of them ever train."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {"total": sum(sizes.values()), "trainable": sum(n for name, n in sizes.items() if plan[name] is not None)}


def describe(plan: Plan, model: PreTrainedModel) -> str:
    """One line: how many parameters train, and when the last of them starts."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    at_start = sum(size for name, size in sizes.items() if plan[name] == 0)
    ever = sum(size for name, size in sizes.items() if plan[name] is not None)
    last = max((start for start in plan.values() if start is not None), default=0)
    later = f", {ever:,} from epoch {math.ceil(last)} on" if ever != at_start else ""
    return f"{at_start:,} of {total:,} parameters train ({at_start / max(total, 1):.1%}){later}"
