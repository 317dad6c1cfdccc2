"""Rows from a file or a pipe, some at a time, and rows into one: nothing is held that was passed on."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from transfer.data.files import format_of
from transfer.data.formats import Table
from transfer.errors import Problem, UserError

READ = ("csv", "tsv", "jsonl", "parquet", "txt", "conll")
WRITTEN = ("csv", "tsv", "jsonl", "parquet")


def read_rows(source: str, given: str | None, size: int) -> Iterator[Table]:
    """Tables of at most so many rows: column -> values.

    Args:
        source: a file, also .gz, or - for the standard input, where a first line that begins with { means jsonl and
            anything else one text a line.
        given: the format, where the name does not say it.

    Raises:
        UserError: no such file, an unknown format, or a line that cannot be read; what came before was passed on.
    """
    kind = given or (None if source == "-" else format_of(Path(source), None))
    if source != "-":
        if not Path(source).is_file():
            raise UserError(Problem("--input", source, "a file, or - for the standard input", "check the path"))
        if kind not in READ:
            allowed = ", ".join(f".{name}" for name in READ) + ", each also .gz but parquet"
            raise UserError(Problem("--input", source, allowed, "say what it is with --input-format"))
    if kind == "parquet":
        yield from _parquet(source, size)
        return
    lines = _lines(source)
    if kind is None:
        first = next(lines, "")
        kind = "jsonl" if first.lstrip().startswith("{") else "txt"
        lines = chain([first] if first else [], lines)
    try:
        yield from _tables(lines, kind, size)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(Problem("--input", f"{source}: {error}", f"{kind} in UTF-8", "mend the file")) from error


def _lines(source: str) -> Iterator[str]:
    if source == "-":
        yield from io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        return
    opened: Any = gzip.open if source.lower().endswith(".gz") else open
    with opened(source, "rt", encoding="utf-8-sig", newline="") as file:
        yield from file


def _tables(lines: Iterator[str], kind: str, size: int) -> Iterator[Table]:
    if kind in ("csv", "tsv"):
        yield from _separated(lines, "," if kind == "csv" else "\t", size)
        return
    rows: Iterator[Any] = {"jsonl": _objects, "txt": _texts, "conll": _sentences}[kind](lines)
    names: list[str] = []
    while chunk := list(islice(rows, size)):
        names = names or list(dict.fromkeys(name for row in chunk for name in row))
        yield {name: [row.get(name) for row in chunk] for name in names}


def _objects(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _unreadable(f"line {number}: {error.msg}") from error
        if not isinstance(row, dict):
            raise _unreadable(f"line {number} is no object")
        yield row


def _texts(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    return ({"text": line.rstrip("\r\n")} for line in lines if line.strip())


def _sentences(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    words: list[str] = []
    for line in chain(lines, [""]):
        if line.strip():
            words.append((line.rstrip("\r\n").split("\t") if "\t" in line else line.split())[0])
        elif words:
            yield {"tokens": words}
            words = []


def _separated(lines: Iterator[str], delimiter: str, size: int) -> Iterator[Table]:
    csv.field_size_limit(1 << 30)  # the default, 131072 characters, is less than a long document
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        while chunk := list(islice((row for row in reader if row), size)):
            wrong = [row for row in chunk if len(row) != len(names)]
            if wrong:
                received = (
                    f"a row of {len(wrong[0])} fields before line {reader.line_num + 1}, the header has {len(names)}"
                )
                raise _unreadable(received)
            yield {name: [row[i] for row in chunk] for i, name in enumerate(names)}
    except csv.Error as error:
        raise _unreadable(f"line {reader.line_num}: {error}") from error


def _unreadable(received: str) -> UserError:
    return UserError(Problem("--input", received, "rows as its format has them", "mend the file"))


def _parquet(source: str, size: int) -> Iterator[Table]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=size):
                yield {name: batch.column(name).to_pylist() for name in batch.schema.names}
    except (pa.ArrowException, OSError) as error:
        raise UserError(Problem("--input", source, "a parquet file", str(error).splitlines()[0])) from error


class Writer(AbstractContextManager["Writer"]):
    """Writes tables one after another, as the name ends: csv, tsv, jsonl (also .gz), parquet; - is stdout, jsonl."""

    def __init__(self, target: str, given: str | None) -> None:
        self.target = target
        self.kind = given or ("jsonl" if target == "-" else format_of(Path(target), None))
        if self.kind not in WRITTEN:
            allowed = ", ".join(f".{name}" for name in WRITTEN) + " or - for the standard output"
            raise UserError(Problem("--output", target, allowed, "say what it is with --output-format"))
        if self.kind == "parquet" and target == "-":
            raise UserError(Problem("--output", "-", "csv, tsv or jsonl for the standard output", "name a file"))
        if target != "-" and not Path(target).absolute().parent.is_dir():
            raise UserError(Problem("--output", target, "a file in a folder that exists", "make the folder first"))
        self.file: IO[str] | None = None
        self.parquet: Any = None
        self.schema: Any = None

    def __enter__(self) -> Writer:
        if self.target == "-":
            self.file = sys.stdout
        elif self.kind != "parquet":
            opened: Any = gzip.open if self.target.lower().endswith(".gz") else open
            self.file = opened(self.target, "wt", encoding="utf-8", newline="")
        return self

    def write(self, table: Table) -> None:
        """Append these rows; later tables have the columns of the first."""
        if self.kind == "parquet":
            self._write_parquet(table)
            return
        assert self.file is not None
        rows = zip(*table.values(), strict=True)
        if self.kind == "jsonl":
            self.file.writelines(
                json.dumps(dict(zip(table, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
            )
        else:
            writer = csv.writer(self.file, delimiter="," if self.kind == "csv" else "\t")
            if self.schema is None:
                self.schema = list(table)
                writer.writerow(self.schema)
            writer.writerows([_cell(value) for value in row] for row in rows)
        self.file.flush()

    def _write_parquet(self, table: Table) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        made = pa.table(table) if self.schema is None else pa.table(table, schema=self.schema)
        if self.parquet is None:
            self.schema, self.parquet = made.schema, parquet.ParquetWriter(self.target, made.schema)
        self.parquet.write_table(made)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.parquet is not None:
            self.parquet.close()
        if self.file is not None and self.target != "-":
            self.file.close()


def _cell(value: Any) -> Any:
    """Lists do not fit into a cell; JSON does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
