"""A number for a text, a pair of texts or a row of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from transfer import config, floors
from transfer.data.mapped import array
from transfer.tasks import text
from transfer.tasks.base import BaseTask, Batch, Predicted


class Task(BaseTask):
    """Mean squared error; the metric `mse` is in the units of the label column, the loss in those of its variance."""

    auto_class = "AutoModelForSequenceClassification"
    problem_type = "regression"
    pipeline = "text-classification"
    metric_names = ("mse", "pearson", "spearman")

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        super().__init__(task, labels, key=key)
        self.mean, self.variance = 0.0, 1.0

    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": 1, "id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}

    def encode_labels(self, labels: Sequence[Any]) -> list[float]:
        return [float(label) for label in labels]

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        return {**text.encode(columns, tokenizer, max_length), "label": self.encode_labels(columns["label"])}

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        return {**text.collate(rows, tokenizer), "labels": self.label_tensor([row["label"] for row in rows])}

    def fit(self, rows: Dataset) -> None:
        """Mean and variance of the training labels: where a new head begins, and the unit of the loss."""
        labels = torch.from_numpy(array(rows, "label")).float()
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

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The squared error over the training labels' variance, so that rates and clipping do not depend on units."""
        return F.mse_loss(outputs.logits.float().squeeze(-1), batch["labels"]) / self.variance

    def answers(self, model: Any, outputs: Any, batch: Batch) -> Tensor:
        """Predicted numbers [rows]."""
        numbers: Tensor = outputs.logits.float().squeeze(-1).cpu()
        return numbers

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        return Predicted(answers.tolist())

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        metrics = self.metrics(per_class=per_class)
        self.update(metrics, torch.tensor(predicted.values).unsqueeze(-1), self.label_tensor(rows["label"][:]))
        return self.named(metrics.compute())

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        found = floors.regression_floors(text.inputs(train), train["label"][:], text.inputs(test))
        return {name: list(floor.predictions) for name, floor in found.items()}

    def metrics(self, *, per_class: bool) -> MetricCollection:
        return MetricCollection(
            {"mse": MeanSquaredError(), "pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef()}
        )

    def named(self, computed: dict[str, Tensor]) -> dict[str, float]:
        return {name: float(value) for name, value in computed.items()}

    def update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        metrics.update(logits.float().squeeze(-1), labels)
