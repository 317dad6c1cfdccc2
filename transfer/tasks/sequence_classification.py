"""A class, or several, for a text, a pair of texts or a row of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as tm

from transfer import config
from transfer.errors import Problem, UserError, nearest
from transfer.tasks.text import collate, encode

METRICS = ("accuracy", "precision", "recall", "f1", "mcc", "loss")


class Task:
    """Cross-entropy over one class a row; with `multi_label`, binary cross-entropy over every class."""

    auto_class = "AutoModelForSequenceClassification"
    encode = staticmethod(encode)
    collate = staticmethod(collate)

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        self.task = task
        self.labels = labels
        self.multi_label = task.multi_label
        self.index = {label: i for i, label in enumerate(labels)}
        metrics = tuple(name for name in METRICS if not (name == "mcc" and task.multi_label))
        if task.monitor not in metrics:
            meant = nearest(task.monitor, metrics)
            raise UserError(
                Problem(f"{key}.monitor", task.monitor, ", ".join(metrics), f"did you mean {meant}?" if meant else "")
            )
        self.class_weights = self._listed_weights(key)

    def _listed_weights(self, key: str) -> Tensor | None:
        given = self.task.class_weights
        if given in (None, "balanced"):
            return None
        if (
            isinstance(given, Sequence)
            and len(given) == len(self.labels)
            and all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in given)
            and any(given)
        ):
            return torch.tensor([float(weight) for weight in given])
        allowed = f"null, balanced, or {len(self.labels)} numbers of at least 0 in the order {self.labels}"
        raise UserError(Problem(f"{key}.class_weights", given, allowed, ""))

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

    def fit(self, labels: Tensor) -> None:
        """Weights inverse to the class frequencies of the training labels, with mean 1 over the examples."""
        if self.task.class_weights != "balanced":
            return
        counts = labels.sum(0) if self.multi_label else torch.bincount(labels, minlength=len(self.labels))
        if self.multi_label:
            # Positives of a rare class count as much as its negatives together.
            self.class_weights = (len(labels) - counts).clamp(min=1) / counts.clamp(min=1)
        else:
            self.class_weights = len(labels) / (len(self.labels) * counts.clamp(min=1).float())

    def start_head(self, layer: torch.nn.Linear) -> None:
        """A new head begins as the model's own initialisation has it."""

    def label_tensor(self, labels: Sequence[Any]) -> Tensor:
        """[batch] class numbers, or [batch, classes] zeros and ones."""
        return torch.tensor(labels, dtype=torch.float32 if self.multi_label else torch.long)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits [batch, classes]."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weights)
        return F.cross_entropy(logits.float(), labels, weight=weights)

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
                "mcc": tm.MulticlassMatthewsCorrCoef(n),
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
