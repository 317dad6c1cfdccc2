"""Outputs of the frozen part of a model on disk: written once, memory-mapped, bounded, shared by all runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer import records
from transfer.prefix.boundary import FIRST, ROWS, TOKENS

log = logging.getLogger(__name__)

META, UNFINISHED = "features.json", ".part"
GB = 1e9


@dataclass(frozen=True)
class Field:
    """One tensor that is kept.

    Attributes:
        kind: of each token, of the first one, or of the row.
        dtype: torch's name for it; bfloat16 is stored as the 16-bit integers of the same bits, which numpy has.
        shape: behind the rows, or behind rows and tokens.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]

    def stored(self) -> np.dtype:
        return np.dtype("int16" if self.dtype == "bfloat16" else self.dtype)

    def length(self, lengths: np.ndarray) -> int:
        return int(lengths.sum()) if self.kind == TOKENS else len(lengths)

    def num_bytes(self, lengths: np.ndarray) -> int:
        return self.length(lengths) * int(np.prod(self.shape)) * self.stored().itemsize


class Writer:
    """Fills the files of a set of rows, in any order; `finish` makes them those that a reader finds.

    Args:
        folder: of the finished files.
        lengths: of each row, in tokens [rows].
        create: false in a process that fills files made by another.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Field], lengths: np.ndarray, *, create: bool = True) -> None:
        self.folder = folder
        self.fields = dict(fields)
        self.lengths = lengths
        self.starts = starts(lengths)
        self.part = folder.with_name(folder.name + UNFINISHED)
        if create:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
        self.arrays = {name: self._open(name, field, create=create) for name, field in self.fields.items()}

    def _open(self, name: str, field: Field, *, create: bool) -> np.memmap:
        shape = (field.length(self.lengths), *field.shape)
        path = self.part / f"{name}.npy"
        if not create:
            return np.load(path, mmap_mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=field.stored(), shape=shape)

    def write(self, index: Tensor, given: Mapping[str, Tensor], mask: Tensor | None) -> None:
        """What came out for the rows of these numbers.

        Args:
            index: [rows].
            given: tensors [rows, ...].
            mask: [rows, tokens], 1 at tokens.
        """
        for name, field in self.fields.items():
            value = given[name].detach().to("cpu")
            if field.kind == TOKENS:
                assert mask is not None
                at = places(index, self.starts, self.lengths)
                self.arrays[name][at.numpy()] = _as_array(value[mask.bool().cpu()])
            else:
                value = value[:, 0] if field.kind == FIRST else value
                self.arrays[name][index.cpu().numpy()] = _as_array(value)

    def finish(self) -> None:
        for array in self.arrays.values():
            array.flush()
        about = {name: [field.kind, field.dtype, list(field.shape)] for name, field in self.fields.items()}
        records.write_atomically(self.part / META, json.dumps(about))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(self.part, self.folder)


class Reader:
    """The finished files of a set of rows, as tensors that are read from disk where they are asked for."""

    def __init__(self, folder: Path, lengths: np.ndarray) -> None:
        about = json.loads((folder / META).read_text(encoding="utf-8"))
        self.fields = {name: Field(kind, dtype, tuple(shape)) for name, (kind, dtype, shape) in about.items()}
        self.lengths = lengths
        self.starts = starts(lengths)
        os.utime(folder / META)  # what was used last is thrown away last
        self.tensors = {name: _mapped(folder / f"{name}.npy", field) for name, field in self.fields.items()}

    def rows(self, index: Tensor, mask: Tensor | None, device: torch.device | None = None) -> dict[str, Tensor]:
        """The kept tensors of these rows, padded where `mask` [rows, tokens] is 0."""
        index = index.cpu()
        found = {}
        for name, field in self.fields.items():
            flat = self.tensors[name]
            if field.kind == ROWS:
                found[name] = flat[index].to(device)
                continue
            assert mask is not None
            value = torch.zeros(*mask.shape, *field.shape, dtype=flat.dtype, device=device)
            if field.kind == FIRST:
                value[:, 0] = flat[index].to(device)
            else:
                value[mask.bool()] = flat[places(index, self.starts, self.lengths)].to(device)
            found[name] = value
        return found


def starts(lengths: np.ndarray) -> np.ndarray:
    """Where the tokens of each row begin among those of all rows [rows]."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def places(index: Tensor, begin: np.ndarray, lengths: np.ndarray) -> Tensor:
    """The places of all tokens of these rows, row by row."""
    rows = index.cpu().numpy()
    length = lengths[rows]
    offsets = np.arange(length.sum()) - np.repeat(starts(length), length)
    return torch.from_numpy(np.repeat(begin[rows], length) + offsets)


def _as_array(value: Tensor) -> np.ndarray:
    array: np.ndarray = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    return array


def _mapped(path: Path, field: Field) -> Tensor:
    # Copy on write: torch warns of memory that cannot be written, and nobody writes.
    tensor = torch.from_numpy(np.load(path, mmap_mode="c"))
    return tensor.view(torch.bfloat16) if field.dtype == "bfloat16" else tensor


def is_there(folder: Path) -> bool:
    """Whether the features of these rows are complete."""
    return (folder / META).is_file()


def size(folder: Path) -> int:
    """Bytes of the files below a folder, which others may be throwing away."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def make_room(root: Path, needed: int, limit_gb: float) -> str | None:
    """Throw away what was not used for longest, until `needed` bytes fit; else why they do not.

    What another process has mapped stays there for it until it lets go.
    """
    limit = int(limit_gb * GB)
    if needed > limit:
        return f"{needed / GB:.1f} GB, more than trainer.feature_cache_gb={limit_gb:g}"
    root.mkdir(parents=True, exist_ok=True)
    found = [(path.stat().st_mtime, path.parent) for path in root.glob(f"*/*/{META}") if path.exists()]
    sizes = {folder: size(folder) for _, folder in found}
    total = sum(sizes.values())
    for _, folder in sorted(found, key=lambda item: item[0]):
        if total + needed <= limit and shutil.disk_usage(root).free > 2 * needed:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]
    free = shutil.disk_usage(root).free
    return None if free > 2 * needed else f"{needed / GB:.1f} GB, with {free / GB:.1f} GB free on the disk"


def identity(tensors: Any, about: dict[str, Any]) -> str:
    """A name for these weights under these circumstances: 32 hex digits of BLAKE2b over their bytes."""
    import hashlib

    digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
