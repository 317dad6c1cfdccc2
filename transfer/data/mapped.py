"""Data sets that are mapped into memory, gone through a block at a time."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.data.stored import BLOCK, LARGE

if TYPE_CHECKING:
    import datasets

MAPS = Path("/proc/self/maps")
# So many blocks are read before their memory is given back.
KEPT = 2


def blocks(dataset: datasets.Dataset, name: str) -> Iterator[list[Any]]:
    """The values of a column in lists of at most `BLOCK`; memory that was mapped for them is given back.

    Of a stream, in place of a data set, it is those of its first rows.
    """
    if hasattr(dataset, "blocks"):
        yield from dataset.blocks(name)
        return
    column = dataset[name]
    for number, begin in enumerate(range(0, len(dataset), BLOCK), start=1):
        yield column[begin : begin + BLOCK]
        if number % KEPT == 0:
            release(dataset)
    release(dataset)


def array(dataset: datasets.Dataset, name: str) -> np.ndarray:
    """A column of numbers, in its own type; memory that was mapped for it is given back."""
    found: np.ndarray = np.asarray(dataset.with_format("numpy")[name][:])
    release(dataset)
    return found


def release(dataset: datasets.Dataset) -> None:
    """Give back the memory in which the files of a large data set are mapped. Where it is wanted it comes again.

    What the kernel would take back by itself, when it is short, counts until then as memory of the process.
    """
    release_files(large_files(dataset))


def large_files(dataset: datasets.Dataset) -> set[str]:
    """The files in which a data set lies, if they are large."""
    files = {os.path.realpath(file["filename"]) for file in dataset.cache_files}
    return files if sum(map(os.path.getsize, files)) >= LARGE else set()


def release_files(files: set[str]) -> None:
    """As `release`."""
    if not files or not MAPS.exists():
        return
    for line in MAPS.read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        if path in files:
            begin, end = (int(place, 16) for place in span.split("-"))
            _advise()(begin, end - begin, mmap.MADV_DONTNEED)


@cache
def _advise() -> Any:
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
