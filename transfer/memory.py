"""Steps in smaller parts when memory runs out: the same global batch and, but for rounding, the same gradient."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.memory import is_oom_error

log = logging.getLogger(__name__)

# What torch and oneDNN say where the process may take no more memory.
ON_CPU = ("[enforce fail at alloc_cpu.cpp", "could not create a primitive", "std::bad_alloc")


class OutOfMemoryInRankError(RuntimeError):
    """One of several processes ran out of memory; all have to begin again with steps in `splits` parts."""

    def __init__(self, splits: int) -> None:
        super().__init__(f"out of memory with every batch in {splits // 2} parts")
        self.splits = splits


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or in the process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or is_oom_error(error):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(ON_CPU)


def parts(batch: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """The rows of a batch in at most so many parts of nearly equal size; every tensor has the rows first."""
    length = len(batch["index"])
    size = -(-length // number)
    for begin in range(0, length, size):
        yield rows(batch, slice(begin, begin + size))


def equally_many(batch: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Exactly so many parts, for processes that have to take each together: what is missing are rows that count
    nothing.
    """
    found = list(parts(batch, number))
    blank = rows(found[0], slice(0, 1))
    blank["share"] = torch.zeros_like(blank["share"])
    return found + [blank] * (number - len(found))


def without_gradients(
    batch: dict[str, Any], splits: int, work: Callable[[dict[str, Any]], None], what: str, *, may_split: bool = True
) -> int:
    """Do `work` with all rows of a batch, in `splits` parts, and in twice as many where memory runs out.

    What is done stays done. Nothing in `work` may wait for other processes, which may have other parts.

    Args:
        what: the work, in a warning.

    Returns:
        In how many parts the next batch is to be taken.
    """
    done = 0
    while done < len(batch["index"]):
        rest = rows(batch, slice(done, None))
        part = rows(rest, slice(0, -(-len(batch["index"]) // splits)))
        try:
            work(part)
            done += len(part["index"])
            continue
        except Exception as error:
            if not (may_split and len(part["index"]) > 1 and is_out_of_memory(error)):
                raise
        splits *= 2
        release()
        log.warning("out of memory: %s every batch in %d parts", what, splits)
    return splits


def rows(values: Any, chosen: slice) -> Any:
    """Of every tensor in a batch these rows."""
    if isinstance(values, dict):
        return {name: rows(value, chosen) for name, value in values.items()}
    return values[chosen]


def release() -> None:
    """Give back what a failed step still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
