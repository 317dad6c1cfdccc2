"""What can be read in the rows of a split, whatever their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transfer.data.mapped import blocks

if TYPE_CHECKING:
    import datasets


def texts_in_blocks(rows: datasets.Dataset) -> Iterator[list[str]]:
    """The text of each row, or its words joined by blanks, some thousands at a time; nothing where there is neither."""
    if "text" in rows.column_names:
        yield from blocks(rows, "text")
    elif "tokens" in rows.column_names:
        for block in blocks(rows, "tokens"):
            yield [" ".join(words) for words in block]
