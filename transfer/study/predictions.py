"""The test predictions that a run leaves beside its record."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from transfer.study.weighted_metrics import Array

FILE = "predictions.parquet"


class Predictions:
    """Columns of one run, row by row: text, numbers, or (several labels an example) tuples of text.

    A column is read when it is first asked for. ``names``: all columns that the file has.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path = path
        self._columns: dict[str, Array] = {}
        with parquet.ParquetFile(path) as file:
            self.names = frozenset(file.schema_arrow.names)
            self._read(file, ["id", "label"] + ["prediction"] * ("prediction" in self.names))

    def _read(self, file: Any, names: list[str]) -> None:
        # Of a file this small, threads would cost more than they save.
        table = file.read(columns=names, use_threads=False)
        for name in names:
            column = table[name].combine_chunks()
            self._columns[name] = _as_text(column) if name == "id" else _as_values(column, shared=name == "label")

    def column(self, name: str) -> Array:
        """The column ``name``, which has to be one of `names`."""
        if name not in self._columns:
            from pyarrow import parquet

            with parquet.ParquetFile(self.path) as file:
                self._read(file, [name])
        return self._columns[name]

    @property
    def ids(self) -> Array:
        """Which example each row is."""
        return self._columns["id"]

    @property
    def labels(self) -> Array:
        """The right answers."""
        return self._columns["label"]


def load(folder: str | Path) -> Predictions | None:
    """The predictions in a run folder, or None where the run left none."""
    path = Path(folder) / FILE
    return Predictions(path) if path.is_file() else None


def _as_values(column: Any, *, shared: bool) -> Array:
    import pyarrow as pa

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = column.to_pylist()
        sets = np.empty(len(values), dtype=object)
        sets[:] = [tuple(value or ()) for value in values]
        return sets
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)
    if shared:
        return _as_text(column)
    coded = column.dictionary_encode()
    classes = np.asarray([*("" if v is None else str(v) for v in coded.dictionary.to_pylist()), ""], dtype=str)
    return classes[coded.indices.fill_null(len(classes) - 1).to_numpy()]


def _as_text(column: Any) -> Array:
    """Runs on the same test data get the very same array, which makes 5,000 of them small and quick to compare."""
    import pyarrow as pa

    if not pa.types.is_string(column.type):
        column = pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return _text(len(column), *(None if part is None else part.to_pybytes() for part in column.buffers()))


@lru_cache(maxsize=128)
def _text(length: int, *buffers: bytes | None) -> Array:
    import pyarrow as pa

    parts = [None if part is None else pa.py_buffer(part) for part in buffers]
    column = pa.Array.from_buffers(pa.string(), length, parts)
    return np.asarray(["" if value is None else value for value in column.to_pylist()], dtype=str)
