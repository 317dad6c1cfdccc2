"""A comparison in the terminal, and all its files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.study.cells import (
    caption,
    floor_cell,
    floors_under,
    gain_cell,
    gain_header,
    labels_cell,
    p_cell,
    runs_cell,
    spread_cell,
    with_p,
)
from transfer.study.results import Comparison, Contrast
from transfer.study.words import floor_words, metric_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from transfer.study.details import Details

VERDICT_STYLES = {"gain": "green", "harm": "red", "undecided": "yellow"}
_MOST_COMMANDS = 8
_MOST_SENTENCES = 10
_MOST_REFUSED = 20
# With more gains than that, the pictures are drawn beside the second opinions on them.
_MANY = 50


def print_table(comparison: Comparison, console: Console) -> None:
    """Print the answer, the table, what it says, what was refused and what to type next; made for 100 columns."""
    from rich.markup import escape
    from rich.padding import Padding

    console.print(f"[bold]{escape(comparison.question)}[/bold]")
    console.print(f"{escape(comparison.headline)}\n", highlight=False)
    console.print(_table(comparison))
    for sentence in comparison.sentences[:_MOST_SENTENCES]:
        console.print(escape(sentence), highlight=False)
    if len(comparison.sentences) > _MOST_SENTENCES:
        console.print(f"and {len(comparison.sentences) - _MOST_SENTENCES} more on the page", style="dim")
    if comparison.refused:
        console.print("\n[bold]Not compared[/bold]")
        for line in comparison.refused[:_MOST_REFUSED]:
            console.print(Padding(escape(line), (0, 0, 0, 2)), style="yellow", highlight=False)
        if len(comparison.refused) > _MOST_REFUSED:
            console.print(f"  and {len(comparison.refused) - _MOST_REFUSED} more on the page", style="dim")
    if comparison.next_commands:
        console.print("\n[bold]Next[/bold], to settle what is open")
        for line in comparison.next_commands[:_MOST_COMMANDS]:  # one line each, to be copied
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
        if len(comparison.next_commands) > _MOST_COMMANDS:
            console.print(f"  and {len(comparison.next_commands) - _MOST_COMMANDS} more like these", style="dim")
    if comparison.use_command:
        console.print("\n[bold]To predict with the best model[/bold]")
        console.print(f"  {escape(comparison.use_command)}", highlight=False, soft_wrap=True)


def _table(comparison: Comparison) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=caption(comparison), caption_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("labels", justify="right", no_wrap=True)
    table.add_column("arm")
    table.add_column(comparison.unit, justify="right", no_wrap=True)
    table.add_column(metric_words(comparison.metric), justify="right", no_wrap=True)
    table.add_column(gain_header(comparison).replace(" (", "\n("), no_wrap=True)
    if with_p(comparison):
        table.add_column("p", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("beats\nfloor", no_wrap=True)
    p = with_p(comparison)
    last = None
    for row in comparison.rows:
        if last is not None and row.budget != last:
            table.add_row()
        for index, contrast in enumerate([*row.over_scratch] or [None]):
            own = index == 0
            table.add_row(
                labels_cell(row) if own and row.budget != last else "",
                escape(row.label) if own else "",
                runs_cell(comparison, row) if own else "",
                spread_cell(row.score, comparison.metric) if own else "",
                escape(gain_cell(row, contrast, comparison.metric)),
                *[p_cell(contrast)] * p,
                _coloured(contrast),
                floor_cell(row) if own else "",
                style="dim" if row.secondary else "",
            )
        for floor in floors_under(comparison, row):
            cells = ["", floor_words(floor.name), "", spread_cell(floor.score, comparison.metric)]
            table.add_row(*cells, style="italic dim")
        last = row.budget
    return table


def _coloured(contrast: Contrast | None) -> str:
    if contrast is None:
        return ""
    verdict = contrast.verdict
    return f"[{VERDICT_STYLES[verdict]}]{verdict}[/]"


def write_all(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write the page, its text as Markdown, its pictures as PNG and SVG and its data as CSV; the page comes first.

    Nothing on the page is fetched from anywhere. The folder is made if it is not there.
    """
    from transfer.study import details, markdown, page, tables
    from transfer.study.beside import beside
    from transfer.study.figures import FIGURES

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = details.build(comparison)
    # Half of the pictures take as long as the other half with the second opinions.
    one_half, other_half = list(FIGURES)[::2], list(FIGURES)[1::2]
    drawn = beside(partial(_drawn, comparison, found, one_half), wanted=len(comparison.gains) > _MANY)
    found.opinions = details.opinions(comparison)
    figures: dict[str, tuple[str, str]] = {}
    pictures: list[Path] = []
    others = _drawn(comparison, found, other_half)
    made = drawn() | others
    for name, (wide, narrow, png) in ((name, made[name]) for name in FIGURES if name in made):
        figures[name] = wide, narrow
        pictures += [folder / f"{name}.png", folder / f"{name}.svg"]
        pictures[-2].write_bytes(png)
        pictures[-1].write_text(wide, encoding="utf-8")
    texts = [folder / "report.html", folder / "report.md"]
    texts[0].write_text(page.render(comparison, found, figures), encoding="utf-8")
    texts[1].write_text(markdown.render(comparison, found, figures), encoding="utf-8")
    return [*texts, *pictures, *tables.write(comparison, found, folder)]


def _drawn(comparison: Comparison, found: Details, names: list[str]) -> dict[str, tuple[str, str, bytes]]:
    """Of each of these pictures that there is something to draw for: as SVG, for a narrow page as SVG, and as PNG."""
    from transfer import pictures
    from transfer.study.figures import FIGURES

    made = {}
    for name in names:
        wide, narrow = (FIGURES[name](comparison, found, narrow) for narrow in (False, True))
        if wide is not None and narrow is not None:
            made[name] = pictures.as_svg(wide), pictures.as_svg(narrow), pictures.as_png(wide)
    return made
