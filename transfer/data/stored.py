"""Columns of a large file, unpacked once into the cache: they are read from there a block at a time, never whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from transfer.data.parsing import Row

VERSION = 1
# Of a file of this many bytes, the rows as lists of Python take some hundred megabytes.
LARGE = 16 << 20
BLOCK = 8192
# Begins what is no text as it stands: the JSON of another value follows.
_MARK = "\0"


def is_large(path: Path) -> bool:
    """Whether the rows of this file are better not all in memory; a packed file counts several times."""
    size = path.stat().st_size
    return size * (4 if path.name.lower().endswith(".gz") else 1) >= LARGE


class Stored(Sequence[Any]):
    """A column that lies on disk: in all but its speed like a list of its values.

    Args:
        path: the file, of blocks of `BLOCK` rows.
        field: the number of the column in it.
        rows: which rows of the file, in ascending order; all of them without.
        read: makes of the value in the file that of this column.
    """

    def __init__(
        self,
        path: Path,
        field: int,
        size: int,
        rows: np.ndarray | None = None,
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        self.path = path
        self.field = field
        self.size = size
        self.rows = rows
        self.read = read

    def __len__(self) -> int:
        return self.size if self.rows is None else len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return list(self.take(np.arange(len(self))[place]))
        row = range(len(self))[place] if self.rows is None else int(self.rows[place])
        value = _block(self.path, self.field, row // BLOCK)[row % BLOCK]
        return value if self.read is None else self.read(value)

    def __iter__(self) -> Iterator[Any]:
        values = self._values()
        return values if self.read is None else map(self.read, values)

    def _values(self) -> Iterator[Any]:
        import pyarrow as pa

        with _opened(self.path, self.field) as reader:
            for number in range(reader.num_record_batches):
                block = reader.get_batch(number).column(0)
                if self.rows is not None:
                    first, last = np.searchsorted(self.rows, [number * BLOCK, (number + 1) * BLOCK])
                    if first == last:
                        continue
                    block = block.take(pa.array(self.rows[first:last] - number * BLOCK))
                yield from _unpacked(block)

    def take(self, chosen: np.ndarray) -> Stored:
        """Only these of its values, whose places ascend."""
        rows = chosen if self.rows is None else self.rows[chosen]
        assert len(rows) < 2 or bool((np.diff(rows) > 0).all()), "rows in the order of the file"
        return Stored(self.path, self.field, self.size, rows, self.read)

    def map(self, read: Callable[[Any], Any]) -> Stored:
        """This of each value, made whenever it is read."""
        before = self.read
        both = read if before is None else lambda value: read(before(value))
        return Stored(self.path, self.field, self.size, self.rows, both)


class Numbered(Sequence[str]):
    """PREFIX-NUMBER of each number: the ids of rows that have none of their own."""

    def __init__(self, prefix: str, numbers: np.ndarray) -> None:
        self.prefix = prefix
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        found = self.numbers[place]
        return [f"{self.prefix}-{number}" for number in found] if isinstance(place, slice) else f"{self.prefix}-{found}"

    def __iter__(self) -> Iterator[str]:
        return (f"{self.prefix}-{number}" for part in _blocks(self.numbers) for number in part.tolist())

    def take(self, chosen: np.ndarray) -> Numbered:
        return Numbered(self.prefix, self.numbers[chosen])


def table(rows: Callable[[], Iterable[Row]], file: Path) -> dict[str, Stored]:
    """Column -> its values, from this file; where it is not there yet, it is written from the rows."""
    if not file.is_file():
        try:
            _write(rows(), file, [])
        except _MoreColumnsError as error:
            _write(rows(), file, error.names)
    with _opened(file) as reader:
        last = reader.num_record_batches - 1
        size = last * BLOCK + reader.get_batch(last).num_rows if last >= 0 else 0
        names = reader.schema.names
    return {name: Stored(file, field, size) for field, name in enumerate(names)}


class _MoreColumnsError(Exception):
    """Later rows have columns that the first ones have not; these are all."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names


def _write(rows: Iterable[Row], file: Path, names: list[str]) -> None:
    import pyarrow as pa

    rows = iter(rows)
    block = list(islice(rows, BLOCK))
    names = names or list(dict.fromkeys(name for row in block for name in row))
    with replacing(file) as sink, pa.ipc.new_file(sink, pa.schema([(name, pa.string()) for name in names])) as writer:
        while block:
            if any(row.keys() - names for row in block):
                raise _MoreColumnsError(
                    list(dict.fromkeys([*names, *(name for row in chain(block, rows) for name in row)]))
                )
            arrays = [_packed([row.get(name) for row in block]) for name in names]
            writer.write_batch(pa.record_batch(arrays, names=names))
            block = list(islice(rows, BLOCK))


@contextmanager
def replacing(file: Path) -> Iterator[Any]:
    """A file to write to, that takes this place when it is whole."""
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")
    os.close(handle)
    try:
        with pa.OSFile(name, "wb") as sink:
            yield sink
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _opened(file: Path, field: int | None = None) -> Iterator[Any]:
    """To be read with copies: what is mapped of a large file would count as memory of the process."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=None if field is None else [field])
    with pa.OSFile(str(file), "rb") as source:
        yield pa.ipc.open_file(source, options=options)


@lru_cache(maxsize=8)
def _block(file: Path, field: int, number: int) -> list[Any]:
    with _opened(file, field) as reader:
        return list(_unpacked(reader.get_batch(number).column(0)))


def _blocks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[begin : begin + BLOCK] for begin in range(0, len(numbers), BLOCK))


def _packed(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    plain = [
        value if value is None or (isinstance(value, str) and not value.startswith(_MARK)) else _marked(value)
        for value in values
    ]
    try:
        return pa.array(plain, pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        return pa.array([value if value is None or value.isascii() else _marked(value) for value in plain], pa.string())


def _marked(value: Any) -> str:
    return _MARK + json.dumps(value, default=str)


def _unpacked(block: pa.Array) -> Iterator[Any]:
    for value in block.to_pylist():
        yield json.loads(value[1:]) if value is not None and value.startswith(_MARK) else value
