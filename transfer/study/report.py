"""A comparison in the terminal, and the way to its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transfer.study.cells import caption, floor_cell, floors_under, gain_cell, gain_header, labels_cell, spread_cell
from transfer.study.page import render
from transfer.study.results import Comparison, Contrast
from transfer.study.words import floor_words, metric_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

VERDICT_STYLES = {"gain": "green", "harm": "red", "undecided": "yellow"}
_MOST_COMMANDS = 8


def print_table(comparison: Comparison, console: Console) -> None:
    """Print the table, what it says, what was refused and what to type next; made for 100 columns."""
    from rich.markup import escape
    from rich.padding import Padding

    console.print(f"[bold]{escape(comparison.question)}[/bold]")
    console.print(_table(comparison))
    for sentence in comparison.sentences:
        console.print(escape(sentence), highlight=False)
    if comparison.refused:
        console.print("\n[bold]Not compared[/bold]")
        for line in comparison.refused:
            console.print(Padding(escape(line), (0, 0, 0, 2)), style="yellow", highlight=False)
    if comparison.next_commands:
        console.print("\n[bold]Next[/bold]")
        for line in comparison.next_commands[:_MOST_COMMANDS]:  # one line each, to be copied
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
        if len(comparison.next_commands) > _MOST_COMMANDS:
            console.print(f"  and {len(comparison.next_commands) - _MOST_COMMANDS} more like these", style="dim")


def _table(comparison: Comparison) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=caption(comparison), caption_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("labels", justify="right", no_wrap=True)
    table.add_column("arm")
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column(metric_words(comparison.metric), justify="right", no_wrap=True)
    table.add_column(gain_header(comparison))
    table.add_column("verdict", no_wrap=True)
    table.add_column("beats floor", no_wrap=True)
    last = None
    for row in comparison.rows:
        if last is not None and row.budget != last:
            table.add_row()
        style = "dim" if row.secondary else ""
        first = row.over_scratch[0] if row.over_scratch else None
        table.add_row(
            "" if row.budget == last else labels_cell(row),
            escape(row.label),
            str(len(row.seeds)),
            spread_cell(row.score, comparison.metric),
            escape(gain_cell(row, first, comparison.metric)),
            _coloured(first),
            floor_cell(row),
            style=style,
        )
        for contrast in row.over_scratch[1:]:
            table.add_row("", "", "", "", escape(gain_cell(row, contrast, comparison.metric)), _coloured(contrast), "")
        for floor in floors_under(comparison, row):
            table.add_row(
                "",
                floor_words(floor.name),
                "",
                spread_cell(floor.score, comparison.metric),
                "",
                "",
                "",
                style="italic dim",
            )
        last = row.budget
    return table


def _coloured(contrast: Contrast | None) -> str:
    if contrast is None:
        return ""
    verdict = contrast.verdict
    return f"[{VERDICT_STYLES[verdict]}]{verdict}[/]"


def write_html(comparison: Comparison, path: str | Path) -> None:
    """Write one self-contained page; nothing on it is fetched from anywhere."""
    Path(path).write_text(render(comparison), encoding="utf-8")
