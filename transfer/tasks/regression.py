"""A number for a text, a pair of texts or a row of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from transfer import config
from transfer.errors import Problem, UserError, nearest
from transfer.tasks.text import collate, encode

METRICS = ("mse", "pearson", "spearman", "loss")


class Task:
    """Mean squared error; the metric `mse` is in the units of the label column, the loss in those of its variance."""

    auto_class = "AutoModelForSequenceClassification"
    encode = staticmethod(encode)
    collate = staticmethod(collate)

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        self.task = task
        self.labels = labels
        self.mean, self.variance = 0.0, 1.0
        if task.monitor not in METRICS:
            meant = nearest(task.monitor, METRICS)
            raise UserError(
                Problem(f"{key}.monitor", task.monitor, ", ".join(METRICS), f"did you mean {meant}?" if meant else "")
            )
        if task.class_weights is not None:
            raise UserError(
                Problem(f"{key}.class_weights", task.class_weights, "null: a regression has no classes", "leave it out")
            )

    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": 1, "id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}

    def encode_labels(self, labels: Sequence[Any]) -> list[float]:
        return [float(label) for label in labels]

    def fit(self, labels: Tensor) -> None:
        """Mean and variance of the training labels: where a new head begins, and the unit of the loss."""
        self.mean = float(labels.mean())
        self.variance = float(labels.var(unbiased=False)) or 1.0

    @torch.no_grad()
    def start_head(self, layer: torch.nn.Linear) -> None:
        """A new head predicts the mean; small steps of its bias would take long to get there."""
        if layer.bias is not None:
            layer.bias.fill_(self.mean)

    def label_tensor(self, labels: Sequence[Any]) -> Tensor:
        """[batch] numbers."""
        return torch.tensor(labels, dtype=torch.float32)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The squared error over the training labels' variance, so that rates and clipping do not depend on units."""
        return F.mse_loss(logits.float().squeeze(-1), labels) / self.variance

    def metrics(self, *, per_class: bool) -> MetricCollection:
        return MetricCollection(
            {"mse": MeanSquaredError(), "pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef()}
        )

    def named(self, computed: dict[str, Tensor]) -> dict[str, float]:
        return {name: float(value) for name, value in computed.items()}

    def update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        metrics.update(logits.float().squeeze(-1), labels)

    def decode(self, logits: Tensor) -> tuple[list[float], list[float | None]]:
        predicted = logits.float().squeeze(-1).tolist()
        return predicted, [None] * len(predicted)
