"""The table that `transfer run --estimate` prints, and what it comes to in all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from transfer import estimate
from transfer.estimate import Estimate, Row, Span
from transfer.listing import console
from transfer.sweep.ahead import Ahead


def print_table(ahead: Ahead) -> None:
    """The table, and what it comes to in all."""
    found = estimate.estimate(ahead)
    done = f"{found.num_complete} of {found.num_jobs} jobs are complete and left out" if found.num_complete else ""
    out = console()
    if found.rows:
        table = Table(box=None, pad_edge=False, header_style="bold")
        varying = [name for name in found.rows[0].labels if name == "run" or _varies(found.rows, name)]
        for name in (*varying, "runs", "steps", "time each", "in all", "memory", "disk"):
            table.add_column(name, justify="left" if name in varying else "right", no_wrap=name not in varying)
        for row in found.rows:
            table.add_row(
                *(row.labels[name] for name in varying),
                str(row.num_runs),
                _span(row.steps, _whole),
                _span(row.seconds, _time),
                _span(row.seconds.times(row.num_runs), _time),
                _size(row.peak_bytes),
                _size(row.disk_bytes * row.num_runs),
            )
        out.print(table, highlight=False)
        disk = sum(row.disk_bytes * row.num_runs for row in found.rows)
        print(
            f"\nIn all     {_span(found.seconds, _time)}, one after another; of it {_time(found.once_s)} once, to begin"
        )
        print(f"Disk       {_size(disk)}" + _while_unfinished(found))
        print(f"Memory     {_size(max(row.peak_bytes for row in found.rows))} at most, in the steps that were measured")
    lines = [done, *found.notes] if found.rows else [done or "nothing to train", *found.notes]
    if found.num_interrupted:
        lines.append(f"{found.num_interrupted} runs go on from a checkpoint and are counted from their start")
    if any(row.steps.least < row.steps.most for row in found.rows):
        lines.append("from .. to: as early as it can stop when nothing improves, and all epochs")
    if found.rows:
        lines.append(f"measured in {_time(found.measured_s)}; nothing of it is kept")
    for line in filter(None, lines):
        print(line)


def _varies(rows: Sequence[Row], name: str) -> bool:
    """Between rows of the same arm or source."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.labels["run"], set()).add(row.labels[name])
    return any(len(values) > 1 for values in found.values())


def _while_unfinished(found: Estimate) -> str:
    kept = found.checkpoint_bytes
    return f", and {_size(kept)} more for a run that is not finished" if kept else ""


def _span(span: Span, by: Callable[[float], str]) -> str:
    least, most = by(span.least), by(span.most)
    return least if least == most else f"{least} .. {most}"


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
