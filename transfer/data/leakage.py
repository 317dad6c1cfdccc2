"""Rows that are in the training split and again where the model is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transfer.data.mapped import blocks
from transfer.data.texts import texts_in_blocks

if TYPE_CHECKING:
    import datasets


def overlap(train: datasets.Dataset, others: Mapping[str, datasets.Dataset], *, name: str = "train") -> list[str]:
    """One note for each of ``others`` that has texts of ``train``, equal but for case and white space.

    ``others`` maps what the note calls them to data sets with the canonical columns, such as
    ``overlap(source.train, {"target test": target.test}, name="source train")``. Numeric features are not compared.
    """
    seen = np.unique(_hashes(train))
    notes = []
    for other, dataset in others.items():
        repeated = int(np.isin(_hashes(dataset), seen).sum())
        if repeated:
            share = 100 * repeated / len(dataset)
            shown = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
            notes.append(f"{repeated} of {len(dataset)} rows of {other} ({shown} %) are also in {name}")
    return notes


def _hashes(dataset: datasets.Dataset) -> np.ndarray:
    """64 bits for each text, so that millions of texts need not be held. That any two be alike by chance is unlikely:

    one in ten million, for a million rows against a million.
    """
    texts = (_normalised(text) for block in texts_in_blocks(dataset) for text in block)
    if "text_pair" in dataset.column_names:
        pairs = (pair for block in blocks(dataset, "text_pair") for pair in block)
        texts = (f"{text}\0{_normalised(pair)}" for text, pair in zip(texts, pairs, strict=True))
    return np.fromiter(map(hash, texts), np.int64)


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
