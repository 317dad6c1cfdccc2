"""The test predictions of an experiment's runs in one file, so that comparing thousands of them again opens one.

It is a copy, `<outputs>/<experiment>/.predictions.npz`, that may be deleted at any time. A run's predictions are taken
from it while its record is the one that they were copied beside: a record is written after its predictions.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from transfer.records import RECORD
from transfer.study.weighted_metrics import Array

FILE = ".predictions.npz"
VERSION = 1
LEAST_RUNS, MOST_CELLS = 100, 50_000_000
# Columns that runs share, and those that they do not.
SHARED, OWN = ("id", "label"), ("prediction",)


Stamp = list[int]


def stamp(folder: Path) -> Stamp | None:
    """What tells a run's record from a later one; None where there is none."""
    try:
        found = os.stat(folder / RECORD)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


@dataclass(frozen=True)
class Read:
    """What was read of one run: the stamp from before the reading, names of all columns, the columns read."""

    folder: Path
    stamp: Stamp
    names: frozenset[str]
    columns: dict[str, Array]


@dataclass
class Shelf:
    """What is in the file. ``runs``: name of a run's folder -> its stamp, its columns, and where those here are."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    shared: list[Array] = field(default_factory=list)
    classes: list[Array] = field(default_factory=list)
    codes: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def take(self, name: str, seen: Stamp | None) -> tuple[frozenset[str], dict[str, Array]] | None:
        """Names of all columns of a run, and those columns that are here; None for a run that is not, or no more."""
        run = self.runs.get(name)
        if run is None or run["stamp"] != seen:
            return None
        columns = {name: self.shared[place] for name, place in run["shared"].items()}
        for name, (start, size, classes) in run["own"].items():
            columns[name] = self.classes[classes][self.codes[start : start + size]]
        return frozenset(run["names"]), columns


@lru_cache(maxsize=8)
def _opened(path: Path, _size: int, _changed: int) -> Shelf:
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes())
            if meta["version"] != VERSION:
                return Shelf()
            shared = [file[f"shared_{index}"] for index in range(meta["num_shared"])]
            classes = [np.asarray(names, dtype=str) for names in meta["classes"]]
            return Shelf(meta["runs"], shared, classes, file["codes"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # cut off, or not ours: it is a copy
        return Shelf()


def of(experiment: Path) -> Shelf:
    """The shelf of an experiment's folder, empty where there is none that can be read."""
    try:
        found = os.stat(experiment / FILE)
    except OSError:
        return Shelf()
    return _opened(experiment / FILE, found.st_size, found.st_mtime_ns)


def put(experiment: Path, found: Iterable[Read]) -> bool:
    """Write the shelf of an experiment, and say whether it was.

    Few runs, or so many examples that the file would be large, are left in their own files; so is what is no text.
    """
    new, start = Shelf(), 0
    parts: list[Array] = []
    kinds: dict[tuple[str, ...], int] = {}
    places: dict[int, int] = {}
    for run in found:
        shared = {name: run.columns[name] for name in SHARED if name in run.columns}
        own = {name: run.columns[name] for name in OWN if name in run.columns}
        if any(column.dtype.kind != "U" for column in (*shared.values(), *own.values())):
            continue
        entry: dict[str, Any] = {"stamp": run.stamp, "names": sorted(run.names), "shared": {}, "own": {}}
        for name, column in shared.items():
            key = places.get(id(column))
            if key is None:
                key = places[id(column)] = len(new.shared)
                new.shared.append(column)
            entry["shared"][name] = key
        for name, column in own.items():
            classes, codes = np.unique(column, return_inverse=True)
            kind = kinds.setdefault(tuple(classes.tolist()), len(kinds))
            entry["own"][name] = [start, len(codes), kind]
            parts.append(codes.astype(np.int32))
            start += len(codes)
        new.runs[run.folder.name] = entry
    cells = start + sum(len(column) for column in new.shared)
    if len(new.runs) < LEAST_RUNS or cells > MOST_CELLS:
        return False
    meta = {"version": VERSION, "runs": new.runs, "num_shared": len(new.shared), "classes": list(kinds)}
    arrays = {f"shared_{index}": column for index, column in enumerate(new.shared)}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    temporary = experiment / f"{FILE}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, codes=np.concatenate(parts), **arrays)  # type: ignore[arg-type]
        os.replace(temporary, experiment / FILE)
    except OSError:  # an outputs folder that may only be read
        temporary.unlink(missing_ok=True)
        return False
    return True
