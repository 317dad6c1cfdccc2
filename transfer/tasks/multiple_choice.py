"""Which of several answers is right."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from torch import Tensor

from transfer import floors
from transfer.tasks.base import BaseTask, Batch, Predicted

RIGHT, WRONG = "right", "wrong"


class Task(BaseTask):
    """Cross-entropy over the answers of a row, each read with the question (Radford et al. 2018; Zellers et al. 2018).

    The model reads `text` and the answer as a pair; with `text_pair`, `text` and then `text_pair` with the answer
    behind it (SWAG: the begin of the second sentence; RACE: the question, `text` being the passage). The classes are
    the columns of the answers.
    """

    auto_class = "AutoModelForMultipleChoice"
    problem_type = "choice"
    metric_names = ("accuracy",)

    def model_settings(self) -> dict[str, Any]:
        return {}

    def same_head(self, config: Any) -> bool:
        """One number an answer, whatever the answers are."""
        models = getattr(transformers, self.auto_class)._model_mapping
        return type(config) in models and models[type(config)].__name__ in (config.architectures or [])

    @property
    def texts_per_row(self) -> int:
        return len(self.labels)

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """Of every input a list with one entry an answer; `length` is that of the longest."""
        firsts, seconds = _pairs(columns)
        encoded = tokenizer(firsts, seconds, truncation=True, max_length=max_length)
        size = len(self.labels)
        made = {
            name: [values[i : i + size] for i in range(0, len(values), size)] for name, values in dict(encoded).items()
        }
        made["length"] = [max(map(len, ids)) for ids in made["input_ids"]]
        made["row"] = columns["row"]
        made["label"] = [self.labels.index(label) for label in columns["label"]]
        return made

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """`inputs` [rows, answers, length], `labels` [rows]: the place of the right answer."""
        names = [name for name in rows[0] if name in tokenizer.model_input_names]
        flat = [{name: row[name][place] for name in names} for row in rows for place in range(len(self.labels))]
        padded = tokenizer.pad(flat, return_tensors="pt")
        return {
            "inputs": {name: tensor.unflatten(0, (len(rows), -1)) for name, tensor in padded.items()},
            "labels": torch.tensor([row["label"] for row in rows]),
            "index": torch.tensor([row["index"] for row in rows]),
        }

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.logits.float(), batch["labels"])

    def answers(self, model: Any, outputs: Any, batch: Batch) -> Tensor:
        """Logits [rows, answers]."""
        logits: Tensor = outputs.logits
        return logits.float().cpu()

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        best = answers.softmax(dim=-1).max(dim=-1)
        return Predicted([self.labels[place] for place in best.indices.tolist()], best.values.tolist())

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        right = [said == label for said, label in zip(predicted.values, rows["label"][:], strict=True)]
        return {"accuracy": sum(right) / len(right) if right else math.nan}

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """`majority`: the place that is right most often; `tfidf`: the answer that, with its question, looks most like
        right ones do, by logistic regression on TF-IDF."""
        counts = Counter(train["label"][:])
        most = max(self.labels, key=lambda name: counts[name])
        judged = [RIGHT if name == label else WRONG for label in train["label"][:] for name in self.labels]
        by_pair = floors.classification_floors(
            list(zip(*_pairs(train[:]), strict=True)), judged, list(zip(*_pairs(test[:]), strict=True)), [RIGHT, WRONG]
        )["tfidf"]
        assert by_pair.scores is not None
        sure = [
            score if said == RIGHT else 1 - score
            for said, score in zip(by_pair.predictions, by_pair.scores, strict=True)
        ]
        size = len(self.labels)
        best = [max(range(size), key=lambda place: sure[i + place]) for i in range(0, len(sure), size)]
        return {"majority": [most] * len(test), "tfidf": [self.labels[place] for place in best]}


def _pairs(columns: dict[str, list[Any]]) -> tuple[list[str], list[str]]:
    """First and second text of every answer of every row."""
    rows = list(zip(columns["text"], columns.get("text_pair", columns["text"]), columns["choices"], strict=True))
    continued = "text_pair" in columns
    firsts = [first for first, _, choices in rows for _ in choices]
    seconds = [f"{second} {choice}" if continued else choice for _, second, choices in rows for choice in choices]
    return firsts, seconds
