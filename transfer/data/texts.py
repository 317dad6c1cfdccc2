"""What can be read in the rows of a split, whatever their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transfer.data.mapped import blocks

if TYPE_CHECKING:
    import datasets


def texts_in_blocks(rows: datasets.Dataset) -> Iterator[list[str]]:
    """As `texts`, in lists of some thousands; nothing where there is neither text nor words."""
    if "text" in rows.column_names:
        yield from blocks(rows, "text")
    elif "tokens" in rows.column_names:
        for block in blocks(rows, "tokens"):
            yield [" ".join(words) for words in block]


def texts(rows: datasets.Dataset) -> list[str] | None:
    """The text of each row, or its words joined by blanks; None where there is neither."""
    if "text" in rows.column_names:
        found: list[str] = rows["text"][:]
        return found
    if "tokens" in rows.column_names:
        return [" ".join(words) for words in rows["tokens"][:]]
    return None
