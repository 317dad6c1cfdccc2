"""The test predictions that a run leaves beside its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfer.study.weighted_metrics import Array

FILE = "predictions.parquet"


@dataclass(frozen=True)
class Predictions:
    """Columns of one run, row by row: text, numbers, or (several labels an example) tuples of text."""

    ids: Array
    labels: Array
    columns: dict[str, Array]


def load(folder: str | Path) -> Predictions | None:
    """The predictions in a run folder, or None where the run left none. `columns` holds every column of predictions."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    from pyarrow import parquet

    table = parquet.read_table(path)
    names = [name for name in table.column_names if name.startswith("prediction")]
    return Predictions(
        ids=np.asarray(table["id"].to_pylist(), dtype=str),
        labels=_column(table["label"]),
        columns={name: _column(table[name]) for name in names},
    )


def _column(column: object) -> Array:
    import pyarrow as pa

    assert isinstance(column, pa.ChunkedArray)
    values = column.to_pylist()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        sets = np.empty(len(values), dtype=object)
        sets[:] = [tuple(value or ()) for value in values]
        return sets
    if pa.types.is_floating(column.type):
        return np.asarray(values, dtype=float)
    return np.asarray(["" if value is None else str(value) for value in values], dtype=str)
