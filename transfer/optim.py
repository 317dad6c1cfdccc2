"""Parameter groups with their own rates and decay, the optimizer over them, and the schedule of the rates."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transfer import parameters
from transfer.config import Optimizer, Scheduler
from transfer.errors import Problem, UserError
from transfer.freezing import Plan

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel

    from transfer.adaptation import Adapted


def parameter_groups(
    model: PreTrainedModel, optimizer: Optimizer, plan: Plan, adapted: Adapted | None = None
) -> list[dict[str, Any]]:
    """One group for each depth, with and without decay; what never trains is in none.

    The rate of depth d is ``lr * layer_decay ** (top - d)`` (Howard & Ruder 2018, discriminative fine-tuning), that of
    the head ``lr * head_multiplier``. Tensors with fewer than two dimensions (norms, biases) do not decay. All groups
    exist from the start, also those of layers that a gradual plan wakes later. Adapters are in groups of their own,
    with the rate of their depth times `adaptation.lr_multiplier`.
    """
    assert optimizer.lr is not None, "the plan fills in the model's own rate"
    depths = parameters.depths(model)
    top = max((depth for depth in depths.values() if depth is not None), default=0)
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if plan[name] is None:
            continue
        depth = depths[name]
        adapter = adapted is not None and name in adapted.names
        decays = optimizer.decay_norms_and_biases or parameter.ndim >= 2
        rate = optimizer.lr * (optimizer.head_multiplier if depth is None else optimizer.layer_decay ** (top - depth))
        label = "head" if depth is None else f"depth_{depth}"
        if adapter:
            assert adapted is not None
            decays = decays and adapted.decays
            rate *= adapted.settings.lr_multiplier
            label = f"adapter_{label}"
        group = groups.setdefault(
            (adapter, top + 1 if depth is None else depth, decays),
            {
                "params": [],
                "lr": rate,
                "weight_decay": optimizer.weight_decay if decays else 0.0,
                "name": label if decays else f"{label}_no_decay",
            },
        )
        group["params"].append(parameter)
    return [groups[index] for index in sorted(groups)]


def build(
    groups: list[dict[str, Any]], optimizer: Optimizer, *, fused: bool = True, key: str = "optimizer"
) -> TorchOptimizer:
    """The optimizer named by `_target_` over these groups; its fused kernel where wanted and there is one.

    Raises:
        UserError: no such class, or options that it does not take.
    """
    cls = _locate(optimizer._target_, key)
    accepted = _options(cls, "params", "lr", "weight_decay")
    _require_known(f"{key}.options", optimizer.options, accepted, f"the options are those of {optimizer._target_}")
    options = dict(optimizer.options)
    floating = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for group in groups for p in group["params"]
    )
    if fused and "fused" in accepted and "fused" not in options and "foreach" not in options and floating:
        options["fused"] = True
    try:
        built: TorchOptimizer = cls(groups, lr=optimizer.lr, weight_decay=optimizer.weight_decay, **options)
    except (TypeError, ValueError, IndexError) as error:
        received = f"lr={optimizer.lr}, weight_decay={optimizer.weight_decay}, options={optimizer.options}"
        raise UserError(Problem(key, received, f"what {optimizer._target_} takes", str(error))) from error
    return built


def _options(cls: Any, *ours: str) -> list[str]:
    """What a class takes besides the arguments that it gets from us."""
    return [name for name in inspect.signature(cls).parameters if name not in ours]


def _require_known(key: str, options: dict[str, Any], accepted: Collection[str], action: str = "") -> None:
    unknown = [name for name in options if name not in accepted]
    if unknown:
        raise UserError(Problem(key, ", ".join(unknown), ", ".join(accepted) or "none", action))


def _locate(target: str, key: str) -> Any:
    from torch.optim import Optimizer as TorchOptimizer

    module, _, name = target.rpartition(".")
    problem = Problem(f"{key}._target_", target, "the dotted name of an optimizer class", "as in torch.optim.AdamW")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(replace(problem, action=str(error))) from error
    if not (isinstance(found, type) and issubclass(found, TorchOptimizer)):
        raise UserError(problem)
    return found


def schedule(
    optimizer: TorchOptimizer, scheduler: Scheduler, num_steps: int, *, mode: str = "max", key: str = "scheduler"
) -> LRScheduler | Any:
    """The rate over `num_steps` optimizer steps. `plateau` is stepped once an epoch with the validation metric.

    Raises:
        UserError: an option that this schedule does not have, or a value that it does not take.
    """
    from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

    if scheduler.name != "plateau":
        warmup = scheduler.warmup_steps or round(scheduler.warmup_fraction * num_steps)
        return LambdaLR(optimizer, factor(scheduler, warmup, num_steps, key=key))
    _require_known(f"{key}.options", scheduler.options, _options(ReduceLROnPlateau, "optimizer", "mode"))
    try:
        return ReduceLROnPlateau(optimizer, mode="min" if mode == "min" else "max", **scheduler.options)
    except (TypeError, ValueError) as error:
        raise UserError(
            Problem(f"{key}.options", scheduler.options, "what torch's ReduceLROnPlateau takes", str(error))
        ) from error


def factor(scheduler: Scheduler, warmup: int, num_steps: int, *, key: str = "scheduler") -> Callable[[int], float]:
    """step -> what the rate is multiplied with, 1 at its peak.

    Raises:
        UserError: an option that this schedule does not have, or a value that makes no curve.
    """
    allowed = {"slanted_triangular": ("cut_fraction", "ratio"), "cosine": ("num_cycles",)}.get(scheduler.name, ())
    _require_known(f"{key}.options", scheduler.options, allowed)
    if scheduler.name == "slanted_triangular":
        options = {"cut_fraction": 0.1, "ratio": 32.0} | scheduler.options
        if not (0 < options["cut_fraction"] < 1 and options["ratio"] >= 1):
            allowed_values = "cut_fraction between 0 and 1, ratio of at least 1"
            raise UserError(Problem(f"{key}.options", scheduler.options, allowed_values, "left out they are 0.1, 32"))
        return _slanted_triangular(num_steps, **options)
    from torch.nn import Parameter
    from torch.optim import SGD
    from transformers import optimization

    # transformers keeps these curves as closures inside schedulers: a throw-away optimizer gives us the function alone.
    throwaway = SGD([Parameter()], lr=1.0)
    if scheduler.name == "constant":
        built = optimization.get_constant_schedule_with_warmup(throwaway, warmup)
    elif scheduler.name == "linear":
        built = optimization.get_linear_schedule_with_warmup(throwaway, warmup, num_steps)
    else:
        assert scheduler.name == "cosine", scheduler.name
        built = optimization.get_cosine_schedule_with_warmup(throwaway, warmup, num_steps, **scheduler.options)
    curve: Callable[[int], float] = built.lr_lambdas[0]
    return curve


def _slanted_triangular(num_steps: int, cut_fraction: float, ratio: float) -> Callable[[int], float]:
    """Howard & Ruder 2018, equation 3: linear up to the cut, then linear down to 1/ratio of the peak.

    The way down takes the steps that are left. The equation has `cut * (1 / cut_fraction - 1)` there, which is the same
    but where the cut had to be rounded: in a run of 19 steps, half of them would stay at the bottom.
    """
    cut = max(1, int(num_steps * cut_fraction))

    def curve(step: int) -> float:
        p = step / cut if step < cut else max(0.0, 1 - (step - cut) / max(1, num_steps - cut))
        return (1 + p * (ratio - 1)) / ratio

    return curve
