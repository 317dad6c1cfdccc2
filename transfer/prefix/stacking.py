"""Batches of several runs as one: of the same shape, one run behind the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class NotTogetherError(Exception):
    """These runs have to be trained one by one; the message says why."""


def in_parts(number: int, size: int) -> Iterator[range]:
    return (range(begin, min(begin + size, number)) for begin in range(0, number, size))


def on(values: Any, device: torch.device) -> Any:
    """Every tensor of a batch on this device."""
    if isinstance(values, dict):
        return {name: on(value, device) for name, value in values.items()}
    return values.to(device)


def rows_of(values: Any, index: Tensor) -> Any:
    """Of every tensor these rows."""
    if isinstance(values, dict):
        return {name: rows_of(value, index) for name, value in values.items()}
    return values[index.to(values.device)]


def by_run(values: Any, runs: int) -> Any:
    """Rows of several runs, one run behind the other, as [runs, rows, ...]."""
    if isinstance(values, dict):
        return {name: by_run(value, runs) for name, value in values.items()}
    return values.view(runs, -1, *values.shape[1:])


def of_run(values: Any, number: int) -> Any:
    """Of what stands by run that of this one."""
    if isinstance(values, dict):
        return {name: of_run(value, number) for name, value in values.items()}
    return values[number]


def joined(parts: list[Any]) -> Any:
    """More runs behind those of the first part."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    return _together(torch.cat, parts)


def pad_alike(batches: list[dict[str, Any]]) -> None:
    """Bring all inputs to the tokens of the longest; what is added is no token."""
    masks = [batch["inputs"].get("attention_mask") for batch in batches]
    if masks[0] is None:
        return
    longest = max(mask.shape[1] for mask in masks)
    for batch, mask in zip(batches, masks, strict=True):
        missing = longest - mask.shape[1]
        batch["inputs"] = {
            name: F.pad(value, (0, missing)) if value.shape == mask.shape else value
            for name, value in batch["inputs"].items()
        }


def stacked(values: list[Any]) -> Any:
    """One tensor [runs, ...] for the tensors of each name or place."""
    first = values[0]
    if isinstance(first, dict):
        return {name: stacked([value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [stacked(list(of_place)) for of_place in zip(*values, strict=True)]
    return _together(torch.stack, values)


def _together(join: Callable[[list[Tensor]], Tensor], values: list[Tensor]) -> Tensor:
    try:
        return join(values)
    except RuntimeError as error:
        raise NotTogetherError(str(error).splitlines()[0]) from error
