"""A class, or several, for a text, a pair of texts or a row of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as tm

from transfer import config, floors
from transfer.data.mapped import array, blocks
from transfer.errors import Problem
from transfer.tasks import class_weights, text
from transfer.tasks.base import BaseTask, Batch, Predicted

METRICS = ("accuracy", "precision", "recall", "f1", "mcc")


class Matthews(tm.MulticlassMatthewsCorrCoef):
    """Matthews correlation, 0 where all labels or all answers are of one class.

    Of two classes, torchmetrics would then give a number that depends on how many examples there are: 0.18 for five.
    """

    def compute(self) -> Tensor:
        classes = [int((self.confmat.sum(dim) > 0).sum()) for dim in (0, 1)]
        return torch.zeros((), device=self.confmat.device) if min(classes) < 2 else super().compute()


class Task(BaseTask):
    """Cross-entropy over one class a row; with `multi_label`, binary cross-entropy over every class."""

    auto_class = "AutoModelForSequenceClassification"
    metric_names: tuple[str, ...] = METRICS
    pipeline = "text-classification"

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        self.multi_label = task.multi_label
        self.index = {label: i for i, label in enumerate(labels)}
        if task.multi_label:
            self.problem_type, self.metric_names = "multi_label", METRICS[:-1]
        super().__init__(task, labels, key=key)
        self.class_weights = class_weights.listed(task.class_weights)

    @classmethod
    def kind_of_labels(cls, task: config.Task) -> str:
        return "multi_label" if task.multi_label else "single_label"

    def problems(self, key: str) -> list[Problem]:
        return class_weights.problems(self.task.class_weights, self.labels, key)

    def model_settings(self) -> dict[str, Any]:
        """What the model's config has to know."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": self.index,
            "problem_type": "multi_label_classification" if self.multi_label else "single_label_classification",
        }

    def encode_labels(self, labels: Sequence[Any]) -> list[Any]:
        """Class names -> class numbers; with several classes a row, a 0/1 row over all classes."""
        if not self.multi_label:
            return [self.index[label] for label in labels]
        return [[float(name in row) for name in self.labels] for row in labels]

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        return {**text.encode(columns, tokenizer, max_length), "label": self.encode_labels(columns["label"])}

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        return {**text.collate(rows, tokenizer), "labels": self.label_tensor([row["label"] for row in rows])}

    def fit(self, rows: Dataset) -> None:
        """Weights inverse to the class frequencies of the training labels, with mean 1 over the examples."""
        if self.task.class_weights == class_weights.BALANCED:
            self.balance(torch.cat([self.label_tensor(self.encode_labels(block)) for block in blocks(rows, "label")]))

    def balance(self, labels: Tensor) -> None:
        """Class weights from encoded labels, [rows] or [rows, classes]."""
        counts = labels.sum(0) if self.multi_label else torch.bincount(labels, minlength=len(self.labels))
        if self.multi_label:
            # Positives of a rare class count as much as its negatives together.
            self.class_weights = (len(labels) - counts).clamp(min=1) / counts.clamp(min=1)
        else:
            self.class_weights = class_weights.balanced(counts)

    def label_tensor(self, labels: Sequence[Any]) -> Tensor:
        """[batch] class numbers, or [batch, classes] zeros and ones."""
        return torch.tensor(labels, dtype=torch.float32 if self.multi_label else torch.long)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Mean loss of logits [batch, classes]."""
        logits, labels = outputs.logits, batch["labels"]
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weights)
        return F.cross_entropy(logits.float(), labels, weight=weights)

    def example_weights(self, encoded: Dataset) -> np.ndarray:
        if self.class_weights is None or self.multi_label:
            return np.ones(len(encoded))
        return self.class_weights.double().numpy()[array(encoded, "label").astype(np.int64)]

    def answers(self, model: Any, outputs: Any, batch: Batch) -> Tensor:
        """Logits [rows, classes]."""
        logits: Tensor = outputs.logits
        return logits.float().cpu()

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        names, scores = self.decode(answers)
        return Predicted(names, list(scores))

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        metrics = self.metrics(per_class=per_class)
        labels = torch.cat([self.label_tensor(self.encode_labels(block)) for block in blocks(rows, "label")])
        self.update(metrics, self._as_logits(predicted.values), labels)
        return self.named(metrics.compute())

    def _as_logits(self, names: list[Any]) -> Tensor:
        """Logits [rows, classes] that decode to these class names."""
        encoded = self.label_tensor(self.encode_labels(names))
        one_hot = encoded if self.multi_label else F.one_hot(encoded, len(self.labels)).float()
        return (one_hot * 2 - 1) * 10

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        found = floors.classification_floors(
            text.inputs(train), train["label"][:], text.inputs(test), self.labels, multi_label=self.multi_label
        )
        return {name: list(floor.predictions) for name, floor in found.items()}

    def metrics(self, *, per_class: bool) -> MetricCollection:
        """Macro averages; `per_class` adds precision, recall and F1 of every class by its name."""
        n = len(self.labels)
        made: dict[str, Metric | MetricCollection] = {}
        if self.multi_label:
            made = {
                "accuracy": tm.MultilabelExactMatch(n),
                "precision": tm.MultilabelPrecision(n, average="macro"),
                "recall": tm.MultilabelRecall(n, average="macro"),
                "f1": tm.MultilabelF1Score(n, average="macro"),
            }
        else:
            made = {
                "accuracy": tm.MulticlassAccuracy(n, average="micro"),
                "precision": tm.MulticlassPrecision(n, average="macro"),
                "recall": tm.MulticlassRecall(n, average="macro"),
                "f1": tm.MulticlassF1Score(n, average="macro"),
                "mcc": Matthews(n),
            }
        if per_class:
            kinds = (
                (tm.MultilabelPrecision, tm.MultilabelRecall, tm.MultilabelF1Score)
                if self.multi_label
                else (tm.MulticlassPrecision, tm.MulticlassRecall, tm.MulticlassF1Score)
            )
            for name, kind in zip(("precision", "recall", "f1"), kinds, strict=True):
                made[f"{name}_per_class"] = kind(n, average=None)
        return MetricCollection(made)

    def named(self, computed: dict[str, Tensor]) -> dict[str, float]:
        """Computed metrics as numbers, one for each class where there is one: f1/<label>."""
        flat: dict[str, float] = {}
        for name, value in computed.items():
            if name.endswith("_per_class"):
                flat |= {
                    f"{name.removesuffix('_per_class')}/{label}": float(v)
                    for label, v in zip(self.labels, value, strict=True)
                }
            else:
                flat[name] = float(value)
        return flat

    def update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        metrics.update(logits.float().sigmoid() if self.multi_label else logits.float(), labels.int())

    def decode(self, logits: Tensor) -> tuple[list[Any], list[float]]:
        """Predicted class names, and their probability (of the least sure decision where there are several)."""
        if self.multi_label:
            probabilities = logits.float().sigmoid()
            chosen = probabilities > 0.5
            names = [[self.labels[i] for i in row.nonzero().flatten().tolist()] for row in chosen]
            sure = torch.where(chosen, probabilities, 1 - probabilities).min(dim=1).values
            return names, sure.tolist()
        best = logits.float().softmax(dim=-1).max(dim=-1)
        return [self.labels[i] for i in best.indices.tolist()], best.values.tolist()
