"""The test predictions that a run leaves beside its record."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from transfer.study import shelf, terms
from transfer.study.weighted_metrics import Array

FILE = "predictions.parquet"


class Predictions:
    """Columns of one run, row by row: text, numbers, or (several labels an example) tuples of text.

    A column becomes an array when it is first asked for. ``names``: all columns that can be.
    """

    def __init__(self, path: Path, known: tuple[frozenset[str], dict[str, Array]] | None = None) -> None:
        self.path = path
        self.from_shelf = known is not None
        self.names: frozenset[str] = known[0] if known else frozenset()
        self._columns: dict[str, Array] = known[1] if known else {}
        self.stamp: shelf.Stamp | None = None
        if known is None:
            self._read([*shelf.SHARED, *shelf.OWN])

    def _read(self, wanted: list[str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        # Of files this small the reading is quick and its preparation is not: from memory, without threads, it takes a
        # third of the time.
        buffer = pa.BufferReader(self.path.read_bytes())
        with parquet.ParquetFile(buffer, pre_buffer=False) as file:
            self.names = self.names or frozenset(file.schema_arrow.names)
            names = [name for name in wanted if name in self.names]
            table = file.read(columns=names, use_threads=False)
        for name in names:
            column = table[name].combine_chunks()
            # Runs share their test data, and with them the arrays that hold it.
            self._columns[name] = _shared(column) if name in ("id", "label") else _as_values(column)

    def column(self, name: str) -> Array:
        """The column ``name``, which has to be one of `names`."""
        if name not in self._columns:
            self._read([name])
        return self._columns[name]

    def terms(self, metric: str, suffix: str) -> Array | None:
        """The terms [n, k] of a metric (`transfer.study.terms`); None where the run kept none."""
        wanted = terms.columns(metric, self.names, suffix)
        if not wanted:
            return None
        missing = [name for name in wanted if name not in self._columns]
        if missing:
            self._read(missing)
        return np.stack([self._columns[name] for name in wanted], axis=1).astype(float)

    @property
    def ids(self) -> Array:
        """Which example each row is."""
        return self.column("id")

    @property
    def labels(self) -> Array:
        """The right answers."""
        return self.column("label")


def load(folder: str | Path) -> Predictions | None:
    """The predictions in a run folder, or None where the run left none."""
    folder = Path(folder)
    seen = shelf.stamp(folder)
    try:
        found = Predictions(folder / FILE, shelf.of(folder.parent).take(folder.name, seen))
    except FileNotFoundError:
        return None
    found.stamp = seen
    return found


def keep(found: Iterable[Predictions]) -> None:
    """Put what was read of many runs on the shelves of their experiments, where any of it came from its own file."""
    experiments: dict[Path, list[Predictions]] = {}
    for predictions in found:
        experiments.setdefault(predictions.path.parents[1], []).append(predictions)
    for experiment, members in experiments.items():
        if not all(each.from_shelf for each in members):
            shelf.put(experiment, [shelf.Read(m.path.parent, m.stamp, m.names, m._columns) for m in members if m.stamp])


def _as_values(column: Any) -> Array:
    import pyarrow as pa

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = column.to_pylist()
        sets = np.empty(len(values), dtype=object)
        sets[:] = [tuple(value or ()) for value in values]
        return sets
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)
    coded = column.dictionary_encode()
    classes = np.asarray([*("" if v is None else str(v) for v in coded.dictionary.to_pylist()), ""], dtype=str)
    codes = coded.indices
    if codes.null_count:
        codes = codes.fill_null(len(classes) - 1)
    values = classes[np.from_dlpack(codes)]  # its to_numpy would import pandas, which takes half a second
    return np.asarray(values)


def _shared(column: Any) -> Array:
    """The very same array for the same text, which makes 5,000 runs small and quick to compare."""
    import pyarrow as pa

    if not pa.types.is_string(column.type):
        return _as_values(column)
    return _text(len(column), *(None if part is None else part.to_pybytes() for part in column.buffers()))


@lru_cache(maxsize=128)
def _text(length: int, *buffers: bytes | None) -> Array:
    import pyarrow as pa

    parts = [None if part is None else pa.py_buffer(part) for part in buffers]
    column = pa.Array.from_buffers(pa.string(), length, parts)
    return np.asarray(["" if value is None else value for value in column.to_pylist()], dtype=str)
