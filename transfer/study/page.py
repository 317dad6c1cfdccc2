"""A comparison as one page that needs nothing but itself: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import io
from html import escape

from transfer.study.cells import caption, floor_cell, floors_under, gain_cell, gain_header, labels_cell, spread_cell
from transfer.study.figures import plot
from transfer.study.results import Comparison, Contrast, Row
from transfer.study.words import floor_words, metric_words

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --line: #d0d7de; --dim: #59636e; --soft: #f4f6f8;
  --gain: #116329; --harm: #b3261e; --undecided: #7a5200; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --back: #14171b; --line: #3a424b; --dim: #9aa5b1;
  --soft: #1f242a; --gain: #5fd38a; --harm: #ff8f86; --undecided: #f0c05a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.35rem 0.7rem 0.35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.dim td, .dim { color: var(--dim); }
.gain { color: var(--gain); font-weight: 600; } .harm { color: var(--harm); font-weight: 600; }
.undecided { color: var(--undecided); font-weight: 600; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
pre { background: var(--soft); padding: 0.7rem; border-radius: 6px; overflow-x: auto; font-size: 0.85rem; }
"""


def render(comparison: Comparison) -> str:
    """The page as HTML text. Everything that came from a config or a record is escaped."""
    title = escape(comparison.question)
    parts = [
        f"<h1>{title}</h1>",
        *(
            f'<p class="dim">Experiment: {escape(", ".join(comparison.experiments))}</p>'
            for _ in comparison.experiments[:1]
        ),
        *(f"<p>{escape(sentence)}</p>" for sentence in comparison.sentences),
        _table(comparison),
        _picture(comparison),
        _list("Not compared", comparison.refused),
        _commands("What to run next", comparison.next_commands),
        _commands("How to run this again", list(dict.fromkeys(c for row in comparison.rows for c in row.commands))),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _table(comparison: Comparison) -> str:
    heads = [
        ("labels", True),
        ("arm", False),
        ("seeds", True),
        (metric_words(comparison.metric), True),
        (gain_header(comparison), False),
        ("verdict", False),
        ("beats floor", False),
    ]
    head = "".join(f'<th scope="col"{_number(right)}>{escape(text)}</th>' for text, right in heads)
    lines = []
    last = None
    for row in comparison.rows:
        lines += _rows(comparison, row, row.budget == last)
        last = row.budget
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + f'\n</tbody>\n</table></div>\n<p class="dim">{escape(caption(comparison))}</p>'
    )


def _rows(comparison: Comparison, row: Row, same_budget: bool) -> list[str]:
    contrasts: list[Contrast | None] = [*row.over_scratch] or [None]
    lines = []
    for index, contrast in enumerate(contrasts):
        verdict = "" if contrast is None else f'<span class="{contrast.verdict}">{contrast.verdict}</span>'
        own = index == 0
        lines.append(
            _line(
                [
                    ("" if same_budget or not own else escape(labels_cell(row)), True),
                    (escape(row.label) if own else "", False),
                    (str(len(row.seeds)) if own else "", True),
                    (escape(spread_cell(row.score, comparison.metric)) if own else "", True),
                    (escape(gain_cell(row, contrast, comparison.metric)), False),
                    (verdict, False),
                    (floor_cell(row) if own else "", False),
                ],
                dim=row.secondary,
            )
        )
    for floor in floors_under(comparison, row):
        score = escape(spread_cell(floor.score, comparison.metric))
        lines.append(
            _line(
                [
                    ("", True),
                    (escape(floor_words(floor.name)), False),
                    ("", True),
                    (score, True),
                    ("", False),
                    ("", False),
                    ("", False),
                ],
                dim=True,
            )
        )
    return lines


def _number(right: bool) -> str:
    return ' class="number"' if right else ""


def _line(cells: list[tuple[str, bool]], dim: bool) -> str:
    inner = "".join(f"<td{_number(right)}>{text}</td>" for text, right in cells)
    return f'<tr class="dim">{inner}</tr>' if dim else f"<tr>{inner}</tr>"


def _picture(comparison: Comparison) -> str:
    image = io.BytesIO()
    plot(comparison, image)
    data = base64.b64encode(image.getvalue()).decode("ascii")
    words = f"{metric_words(comparison.metric)} of each arm against the number of labels; the numbers are in the table"
    return (
        f'<img width="1200" height="700" alt="{escape(words)}" src="data:image/png;base64,{data}">\n'
        '<p class="dim">Large marks: means; bars: their 95 % intervals, which may leave the picture; '
        "small dots: single seeds.</p>"
    )


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{escape(title)}</h2>\n<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def _commands(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{escape(title)}</h2>\n<pre>" + escape("\n".join(lines)) + "</pre>"
