"""What `transfer auto` prints: why each one went, what won, and the gain of the winner over its twin."""

from __future__ import annotations

import re
import sys

from rich.console import Console
from rich.table import Table

from transfer.choose.search import Budget, Search
from transfer.errors import Problem, UserError
from transfer.listing import console
from transfer.study import report
from transfer.study.compare import compare

UNITS = {"s": 1, "m": 60, "h": 3600}


def budget_of(time: str | None, runs: int | None) -> Budget:
    """From `--budget 30m` and `--runs 40`.

    Raises:
        UserError: no time that can be read.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", time or "")
    if time is not None and (not found or float(found[1]) == 0):
        raise UserError(Problem("--budget", time, "a time such as 90s, 30m or 2h", ""))
    seconds = float(found[1]) * UNITS[found[2] or "s"] if found else float("inf")
    return Budget(seconds, runs if runs is not None else float("inf"))


def print_search(search: Search) -> None:
    """Decisions, then the comparison on the test split; the page and its pictures are written."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "what", "decision"):
        table.add_column(name, no_wrap=name == "stage")
    for step in search.steps:
        table.add_row(step.stage, step.about, step.decision)
    out.print(table, highlight=False)
    assert search.winner is not None
    chose, last = search.num_runs - len(search.finals), len(search.finals)
    out.print(
        f"\n[bold]{search.winner.strategy.name}[/bold] was chosen, on the validation split alone, after {chose} runs; "
        f"with the last {last}, {search.spent_s:.0f} s in all.",
        highlight=False,
    )
    if search.winner.strategy.start is None:
        out.print("Nothing that was tried validates better than training from scratch.", highlight=False)
    comparison = compare(search.finals)
    written = report.write_all(comparison, search.folder)
    report.print_table(comparison, Console() if sys.stdout.isatty() else Console(width=110))
    print(f"\nPage     {written[0]}\nSearch   {search.folder / 'auto.json'}")
