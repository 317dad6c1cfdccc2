"""A comparison as one page that needs nothing but itself: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import re
from html import escape

from transfer.pictures import COLOURS, FAINT
from transfer.study.answer_figures import MOST_BUDGETS, MOST_TABLES
from transfer.study.details import Details
from transfer.study.drawing import DARK, FLOOR, MOST_STRATEGIES, inline
from transfer.study.metric_figures import MOST_GAINS
from transfer.study.outline import Section, Table
from transfer.study.results import Comparison
from transfer.study.sections import sections
from transfer.study.words import metric_words

Figures = dict[str, tuple[str, str]]  # name -> wide and narrow, as SVG

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MOST_ITEMS = 10
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --line: #d0d7de; --dim: #59636e; --soft: #f4f6f8;
  --gain: #116329; --harm: #b3261e; --undecided: #7a5200; @light }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --back: #14171b; --line: #3a424b; --dim: #9aa5b1;
  --soft: #1f242a; --gain: #5fd38a; --harm: #ff8f86; --undecided: #f0c05a; @dark } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.headline { font-size: 1.15rem; border-left: 4px solid var(--line); padding-left: 0.8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.35rem 0.8rem 0.35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: normal; }
.same { visibility: hidden; } td.number { white-space: nowrap; } .number { text-align: right; }
tr.dim td, .dim { color: var(--dim); } .dim { font-size: 0.9rem; }
.gain { color: var(--gain); font-weight: 600; } .harm { color: var(--harm); font-weight: 600; }
.undecided { color: var(--undecided); font-weight: 600; }
figure { margin: 1rem 0; } svg { display: block; width: 100%; height: auto; } svg.narrow { display: none; }
svg text { fill: var(--text); }
@media (max-width: 40rem) {
  svg.narrow { display: block; } svg.wide { display: none; } body { padding: 0.8rem; } ul { padding-left: 1.2rem; }
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: 0.5rem 0; display: flex; flex-wrap: wrap; column-gap: 0.6rem; }
  td, td.number { flex: 1 1 100%; border: 0; padding: 0.1rem 0; display: flex; justify-content: space-between;
    gap: 1rem; text-align: right; white-space: normal; visibility: visible; }
  td::before { content: attr(data-label); color: var(--dim); text-align: left; } td:empty { display: none; }
  td[data-label="arm"], td[data-label="labels"] { flex: 0 1 auto; order: -1; font-weight: 600; text-align: left; }
  td[data-label="arm"] { order: -2; } td[data-label="labels"]::after { content: "labels"; margin-left: -0.7rem; }
  td[data-label="arm"]::before, td[data-label="labels"]::before { display: none; }
}
pre { background: var(--soft); padding: 0.7rem; border-radius: 6px; font-size: 0.85rem; white-space: pre-wrap; }
summary { cursor: pointer; padding: 0.2rem 0; } li { margin: 0.35rem 0; }
"""


def render(comparison: Comparison, details: Details, figures: Figures) -> str:
    """The page as HTML text. Everything that came from a config or a record is escaped."""
    title = escape(comparison.question)
    parts = [f"<h1>{title}</h1>", f'<p class="headline">{_html(comparison.headline)}</p>']
    if comparison.experiments:
        parts.append(f'<p class="dim">Experiment: {escape(", ".join(comparison.experiments))}</p>')
    parts += [_section(section, comparison, figures) for section in sections(comparison, details)]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{_style()}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _style() -> str:
    series = [*(colour for shades in COLOURS.values() for colour in shades), FAINT, FLOOR]
    light = " ".join(f"--s{colour[1:]}: {colour};" for colour in series)
    dark = " ".join(f"--s{colour[1:]}: {DARK[colour]};" for colour in series)
    return _STYLE.replace("@light", light).replace("@dark", dark)


def _section(section: Section, comparison: Comparison, figures: Figures) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{_html(text)}</p>" for text in section.paragraphs]
    parts += [_figure(section.figure, comparison, figures)] if section.figure in figures else []
    parts += [_table(section.table)] if section.table else []
    parts += [f'<p class="dim">{_html(note)}</p>' for note in section.notes]
    parts += [_items(section.items)] if section.items else []
    parts += [f"<pre>{escape(chr(10).join(section.commands))}</pre>"] if section.commands else []
    for title, lines in section.folded:
        inner = _pre_or_list(section, lines)
        parts.append(f"<details><summary>{_html(title)}</summary>{inner}</details>")
    return "\n".join(parts)


def _pre_or_list(section: Section, lines: list[str]) -> str:
    if section.folded_is_code:
        return f"<pre>{escape(chr(10).join(lines))}</pre>"
    return "<ul>" + "".join(f"<li>{_html(line)}</li>" for line in lines) + "</ul>"


def _items(items: list[str]) -> str:
    def listed(lines: list[str]) -> str:
        return "<ul>\n" + "\n".join(f"<li>{_html(line)}</li>" for line in lines) + "\n</ul>"

    text = listed(items[:_MOST_ITEMS])
    if len(items) > _MOST_ITEMS:
        text += f"<details><summary>{len(items) - _MOST_ITEMS} more</summary>{listed(items[_MOST_ITEMS:])}</details>"
    return text


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_kind(table, i)}>{_html(text)}</th>' for i, text in enumerate(table.head))
    lines = []
    above = [""] * len(table.head)
    for index, row in enumerate(table.rows):
        # What a table leaves out because the row above says it, a phone shows: there every row is a card of its own.
        same = [not text and i < 2 for i, text in enumerate(row)]
        above = [old if repeated else text for old, text, repeated in zip(above, row, same, strict=True)]
        cells = "".join(
            f'<td{_kind(table, i, same[i])} data-label="{escape(table.head[i])}">{_cell(text, table.head[i])}</td>'
            for i, text in enumerate(above)
        )
        lines.append(f'<tr class="dim">{cells}</tr>' if index in table.dim else f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _kind(table: Table, column: int, same: bool = False) -> str:
    kinds = ["number"] * (column in table.numbers) + ["same"] * same
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _html(text: str) -> str:
    """Escaped, and a number is not parted from its percent sign."""
    return re.sub(r"(\d) %", "\\1\u00a0%", escape(text))


def _cell(text: str, head: str) -> str:
    return f'<span class="{escape(text)}">{escape(text)}</span>' if head == "verdict" and text else _html(text)


def _figure(name: str, comparison: Comparison, figures: Figures) -> str:
    words = {
        "curves": f"{metric_words(comparison.metric)} of each arm; the numbers are in the table",
        "gains": "the gains over scratch with their intervals; the numbers are in the table",
        "learning": f"validation {metric_words(comparison.metric)} of each arm against its steps",
        "confusion": "percent of each class that got each answer",
    }[name]
    captions = {
        "curves": "Large marks: means; bars: their 95 % intervals, may leave the picture; dots: single "
        f"{comparison.unit}.",
        "gains": "Bars: 95 % intervals, which may leave the picture; hollow marks: undecided.",
        "learning": f"Thin: single {comparison.unit}; thick: their mean at the steps that all of them logged.",
    }
    wide, narrow = (
        inline(svg, words).replace("<svg ", f'<svg class="{kind}" ', 1)
        for svg, kind in zip(figures[name], ("wide", "narrow"), strict=True)
    )
    captions[name] = " ".join(filter(None, [captions.get(name), _left_out(name, comparison)]))
    caption = f'<figcaption class="dim">{escape(captions[name])}</figcaption>' if captions[name] else ""
    return f"<figure>{wide}{narrow}{caption}</figure>"


def _left_out(name: str, comparison: Comparison) -> str:
    """What a picture leaves out because it would be too much."""
    strategies, gains = len({row.label for row in comparison.rows}), len(comparison.gains)
    if name == "curves" and strategies > MOST_STRATEGIES:
        return f"Shown are the arms from scratch and the best others, {MOST_STRATEGIES} of {strategies} strategies."
    if name == "gains" and gains > MOST_GAINS:
        return f"Shown are the first {MOST_GAINS} of {gains} gains."
    main = [row for row in comparison.rows if not row.secondary]
    budgets = len({row.budget for row in main})
    if name == "learning" and budgets > MOST_BUDGETS:
        return f"Shown are the first {MOST_BUDGETS} of {budgets} label budgets."
    if name == "confusion" and len(main) > MOST_TABLES:
        return f"Shown are the first {MOST_TABLES} of {len(main)}."
    return ""
