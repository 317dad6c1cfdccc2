"""What each class counts in the loss: `task.class_weights`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transfer.errors import Problem

BALANCED = "balanced"


def problems(given: Any, labels: Sequence[str], key: str) -> list[Problem]:
    """What is wrong with a setting that is neither null, nor balanced, nor one number a class."""
    if given in (None, BALANCED) or (
        isinstance(given, Sequence)
        and len(given) == len(labels)
        and all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in given)
        and any(given)
    ):
        return []
    allowed = f"null, balanced, or {len(labels)} numbers of at least 0 in the order {list(labels)}"
    return [Problem(f"{key}.class_weights", given, allowed, "")]


def listed(given: Any) -> Tensor | None:
    """The weights [classes] that are given number by number."""
    return None if given in (None, BALANCED) else torch.tensor([float(weight) for weight in given])


def balanced(counts: Tensor) -> Tensor:
    """Weights [classes] inverse to the class frequencies, with mean 1 over what was counted."""
    return counts.sum() / (len(counts) * counts.clamp(min=1).float())
