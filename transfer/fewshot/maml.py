"""Adaptation by gradient steps, as pure functions of the weights, so that one can differentiate through it.

MAML: Finn, Abbeel & Levine 2017. First-order MAML: its section 5.2. ANIL: Raghu et al. 2020, MAML with the head alone
adapting. Meta-SGD: Li et al. 2017; here a learned rate is a whole tensor's, not each weight's. Reptile: Nichol, Achiam
& Schulman 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tensors = Mapping[str, Tensor]
# Weights and the rows of an episode -> its mean loss.
Loss = Callable[[dict[str, Tensor], Any], Tensor]


def trajectory(
    loss: Loss,
    start: Tensors,
    rates: Mapping[str, Tensor | float],
    support: Any,
    steps: int,
    *,
    first_order: bool = False,
) -> list[dict[str, Tensor]]:
    """The weights before the first and after every gradient step on the support rows.

    A step is w <- w - rate * d loss / d w, for the weights that have a rate; the others stay (ANIL's body).

    Args:
        loss: of weights and rows.
        start: all weights by name.
        rates: of the weights that adapt, by name; tensors where they are learned.
        first_order: take the steps as constants where the result is differentiated.
    """
    weights = dict(start)
    passed = [weights]
    for _ in range(steps):
        fixed = weights
        gradient = torch.func.grad(lambda own, fixed=fixed: loss({**fixed, **own}, support))(
            {name: weights[name] for name in rates}
        )
        if first_order:
            gradient = {name: step.detach() for name, step in gradient.items()}
        weights = {**weights, **{name: weights[name] - rates[name] * gradient[name] for name in rates}}
        passed.append(weights)
    return passed


def toward(start: Tensors, adapted: Tensors) -> Tensor:
    """A number whose gradient in `start` is start - adapted: Reptile's direction, for any optimizer to descend."""
    return torch.stack([(weight * (weight - adapted[name]).detach()).sum() for name, weight in start.items()]).sum()


def over_episodes(function: Callable[..., Any], *, batched: bool) -> Callable[..., Any]:
    """`function` of one episode as one of several, which are the first dimension of all that goes in and comes out.

    Args:
        batched: all at once, through `torch.func.vmap`; else one after another.
    """
    if batched:
        return torch.func.vmap(function)

    def loop(*several: Any) -> Any:
        size = len(pytree.tree_leaves(several)[0])
        results = [function(*pytree.tree_map(lambda each, i=i: each[i], several)) for i in range(size)]
        return pytree.tree_map(lambda *parts: torch.stack(parts), *results)

    return loop
