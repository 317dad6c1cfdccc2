"""Rows that are in the training split and again where the model is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transfer.data.texts import texts as read

if TYPE_CHECKING:
    import datasets


def overlap(train: datasets.Dataset, others: Mapping[str, datasets.Dataset], *, name: str = "train") -> list[str]:
    """One note for each of ``others`` that has texts of ``train``, equal but for case and white space.

    ``others`` maps what the note calls them to data sets with the canonical columns, such as
    ``overlap(source.train, {"target test": target.test}, name="source train")``. Numeric features are not compared.
    """
    seen = set(_texts(train))
    notes = []
    for other, dataset in others.items():
        repeated = sum(text in seen for text in _texts(dataset))
        if repeated:
            share = 100 * repeated / len(dataset)
            shown = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
            notes.append(f"{repeated} of {len(dataset)} rows of {other} ({shown} %) are also in {name}")
    return notes


def _texts(dataset: datasets.Dataset) -> list[str]:
    texts = [_normalised(text) for text in read(dataset) or []]
    if "text_pair" not in dataset.column_names:
        return texts
    return [f"{text}\0{_normalised(pair)}" for text, pair in zip(texts, dataset["text_pair"][:], strict=True)]


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
