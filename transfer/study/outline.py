"""The parts that the page and the Markdown are made of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Table:
    """Cells as plain text. ``numbers``: columns to set right; ``dim``: rows that are no result of their own."""

    head: list[str]
    rows: list[list[str]]
    numbers: frozenset[int] = frozenset()
    dim: frozenset[int] = frozenset()


@dataclass
class Section:
    """A heading with what is below it, in this order; ``folded``: titles of lines that are shown when asked for."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    figure: str = ""
    table: Table | None = None
    notes: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    folded: list[tuple[str, list[str]]] = field(default_factory=list)
    folded_is_code: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing but the heading."""
        return not (self.paragraphs or self.figure or self.table or self.items or self.commands or self.folded)
