"""A comparison as Markdown, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Collection

from transfer.study.details import Details
from transfer.study.outline import Section, Table
from transfer.study.results import Comparison
from transfer.study.sections import sections


def render(comparison: Comparison, details: Details, figures: Collection[str]) -> str:
    """The text; ``figures``: names of the pictures ``NAME.png`` that lie in the same folder."""
    parts = [f"# {_text(comparison.question)}", f"**{_text(comparison.headline)}**"]
    if comparison.experiments:
        parts.append(f"Experiment: {_text(', '.join(comparison.experiments))}")
    for section in sections(comparison, details):
        parts += _section(section, figures)
    return "\n\n".join(parts) + "\n"


def _section(section: Section, figures: Collection[str]) -> list[str]:
    parts = [f"## {section.title}", *map(_text, section.paragraphs)]
    parts += [f"![{section.title}]({section.figure}.png)"] if section.figure in figures else []
    parts += [_table(section.table)] if section.table else []
    parts += [f"*{_text(note)}*" for note in section.notes]
    parts += ["\n".join(f"- {_text(line)}" for line in section.items)] if section.items else []
    parts += [_code(section.commands)] if section.commands else []
    for title, lines in section.folded:
        listed = "\n".join(f"- {_text(line)}" for line in lines)
        parts += [f"### {_text(title)}", _code(lines) if section.folded_is_code else listed]
    return parts


def _code(lines: list[str]) -> str:
    return "```sh\n" + "\n".join(lines) + "\n```"


def _table(table: Table) -> str:
    rule = "|" + "|".join("---:" if i in table.numbers else "---" for i in range(len(table.head))) + "|"
    lines = [table.head, *table.rows]
    text = ["| " + " | ".join(_text(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], rule, *text[1:]])


def _text(text: str) -> str:
    """User text that Markdown does not take for its own marks, on one line."""
    for mark in "\\`*_<[":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
