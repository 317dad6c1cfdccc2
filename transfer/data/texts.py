"""What can be read in the rows of a split, whatever their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


def texts(rows: datasets.Dataset) -> list[str] | None:
    """The text of each row, or its words joined by blanks; None where there is neither."""
    if "text" in rows.column_names:
        found: list[str] = rows["text"][:]
        return found
    if "tokens" in rows.column_names:
        return [" ".join(words) for words in rows["tokens"][:]]
    return None
