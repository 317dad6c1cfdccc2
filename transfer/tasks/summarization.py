"""The text in few words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from datasets import Dataset
from torchmetrics.functional.text import rouge_score

from transfer.tasks.base import Predicted
from transfer.tasks.dialogue import words
from transfer.tasks.likelihood import texts
from transfer.tasks.seq2seq import SequenceToSequence

ROUGE = ("rouge1", "rouge2", "rougeL")
# After the sign that ends a sentence; Chinese has no space there.
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")


class Task(SequenceToSequence):
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): F1 of the words, pairs of words and longest common subsequence.

    The mean over the rows, from 0 to 1. Words are in lower case, without punctuation and not stemmed; a Chinese
    character is a word. The terms of a row are its F1 and 1.
    """

    metric_names: tuple[str, ...] = ROUGE

    def predicted(self, values: list[Any], rows: Dataset) -> Predicted:
        scores = [rouge(said, true) for said, true in zip(values, rows["label"][:], strict=True)]
        terms = {f"{name}:num": [score[name] for score in scores] for name in ROUGE}
        return Predicted(values, terms=terms | {f"{name}:den": [1.0] * len(values) for name in ROUGE})

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        return {name: float(np.mean(predicted.terms[f"{name}:num"])) for name in ROUGE}

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """`lead1` and `lead3`: the first sentences of the text."""
        sentences = [[part for part in _SENTENCE.split(source.strip()) if part] for source in texts(test[:])]
        return {f"lead{number}": [" ".join(parts[:number]) for parts in sentences] for number in (1, 3)}


def rouge(said: str, true: str) -> dict[str, float]:
    """ROUGE F1 of one text against one reference."""
    found = rouge_score(said, true, rouge_keys=ROUGE, normalizer=str, tokenizer=words)
    return {name: float(found[f"{name}_fmeasure"]) for name in ROUGE}
