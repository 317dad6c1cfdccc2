"""What every task is asked for, and what a task need not say itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from transfer import config
from transfer.errors import Problem, UserError, nearest

Batch = dict[str, Any]


@dataclass
class Predicted:
    """What was said of the rows of a split, in their order.

    Attributes:
        values: one prediction a row, of the kind of the label column.
        scores: how sure each is; None where nothing says so.
        terms: numbers a row of which a metric of the whole split is made (`transfer.study.terms`), so that
            its uncertainty can be had without the model.
    """

    values: list[Any]
    scores: list[float | None] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scores = self.scores or [None] * len(self.values)


class BaseTask(ABC):
    """One kind of question to a model: rows -> inputs -> loss, and outputs -> predictions -> metrics.

    `transfer/tasks/NAME.py` holds a class `Task` that derives from this; its name in the config is NAME.

    Attributes:
        auto_class: the class of transformers that builds the model.
        problem_type: how the label column is read: single_label, multi_label, regression, tags, spans, text or none.
        metric_names: what can be monitored, the loss aside.
        pipeline: the pipeline of transformers that opens its models, where there is one.
        reads_images: whether the inputs are images; an image processor is then what a tokenizer is elsewhere.
        default_options: the task's own settings (`task.options`) with their defaults.
        special_tokens: what a word vocabulary built for this task needs beside padding, unknown words and a separator,
            in the words of transformers.
        tokenizer: the model's, there when there are answers; None for numbers and images.
        testing: whether what is answered now is final; not so on the split that chooses the weights.
    """

    auto_class: str
    problem_type: str = "single_label"
    metric_names: tuple[str, ...]
    pipeline: ClassVar[str | None] = None
    reads_images: ClassVar[bool] = False
    default_options: ClassVar[dict[str, Any]] = {}
    special_tokens: ClassVar[dict[str, str]] = {}
    tokenizer: Any = None
    testing: bool = True

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        """Take the settings.

        Args:
            task: its settings.
            labels: the class names in their order; none where there are no classes.
            key: the prefix of messages.

        Raises:
            UserError: settings that the task does not have, or that do not fit it.
        """
        self.task = task
        self.labels = labels
        self.options = self.default_options | dict(task.options)
        problems = []
        monitored = (*self.metric_names, "loss")
        if task.monitor not in monitored:
            problems.append(_unknown(f"{key}.monitor", task.monitor, monitored))
        for name in task.options:
            if name not in self.default_options:
                problems.append(_unknown(f"{key}.options", name, tuple(self.default_options)))
        problems += self.problems(key)
        if problems:
            raise UserError(problems)

    @classmethod
    def kind_of_labels(cls, task: config.Task) -> str:
        """The problem type with these settings."""
        return cls.problem_type

    @classmethod
    def load_tokenizer(cls, folder: Path) -> Any:
        """What was saved beside a model of this task: its tokenizer or image processor."""
        import transformers

        auto: Any = transformers.AutoImageProcessor if cls.reads_images else transformers.AutoTokenizer
        return auto.from_pretrained(folder)

    def problems(self, key: str) -> list[Problem]:
        """What is wrong with the settings beyond their names."""
        if self.task.class_weights is not None:
            allowed = "null: this task has no classes to weigh"
            return [Problem(f"{key}.class_weights", self.task.class_weights, allowed, "leave it out")]
        return []

    @abstractmethod
    def model_settings(self) -> dict[str, Any]:
        """What the model's config has to know."""

    @abstractmethod
    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """Rows of the split -> encoded rows: the model's inputs, `label`, `row` and `length`.

        Args:
            columns: the inputs, `label`, and `row`, the number of each row in its split. A row may become several
                encoded ones, which then share its number.
            tokenizer: of the model; its image processor for images, None for numbers.
            max_length: in tokens.
        """

    def encode_training(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """As `encode`, for the training split, whose rows may also be joined: nobody asks what is predicted of each."""
        return self.encode(columns, tokenizer, max_length)

    @property
    def texts_per_row(self) -> int:
        """How many texts of `length` tokens the model reads of an encoded row."""
        return 1

    @abstractmethod
    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """`inputs` as the model's forward takes them, `labels`, and `index` [rows], which the rows have.

        A row in training also has `draw`, numbers to seed what is drawn at random for it in this epoch.
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Mean loss of a batch, each row counting as `example_weights` says."""

    @abstractmethod
    def answers(self, model: Any, outputs: Any, batch: Batch) -> Tensor | list[Any]:
        """What is kept of the model's outputs, one a row, on the CPU: a tensor [rows, ...] or a list."""

    @abstractmethod
    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        """The answers to all encoded rows -> the predictions for the rows of the split."""

    @abstractmethod
    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        """Metric -> value over these rows; with `per_class` also METRIC/CLASS, where there are classes."""

    def same_head(self, config: Any) -> bool:
        """Whether weights with this config of a transformers model have a head that predicts what this task predicts.

        Published weights and those of a source keep their head then; otherwise it is new.
        """
        own = self.model_settings()
        kinds = {self.auto_class.removeprefix("AutoModel")}
        named = any(name.endswith(tuple(kinds)) for name in config.architectures or [])
        if not named or config.num_labels != own["num_labels"]:
            return False
        # A problem type is not always written down; where it is, it has to be the same.
        if config.problem_type not in (None, own["problem_type"]):
            return False
        return list((config.id2label or {}).values()) == list(own["id2label"].values())

    def meet(self, model: Any, tokenizer: Any, key: str) -> None:  # noqa: B027
        """Find out what the task has to know of the model, once it has its initial weights.

        Args:
            key: the prefix of messages.

        Raises:
            UserError: the model cannot do what the settings ask for.
        """

    def fit(self, rows: Dataset) -> None:  # noqa: B027 (nothing to take, by default)
        """Take from the training rows what the loss depends on."""

    def start_head(self, layer: torch.nn.Linear) -> None:  # noqa: B027
        """A new head begins as the model's own initialisation has it."""

    def example_weights(self, encoded: Dataset) -> np.ndarray:
        """What each encoded row counts in the mean of the loss [encoded rows]."""
        return np.ones(len(encoded))

    def draws_inputs(self) -> bool:
        """Whether the inputs of a row in training differ from epoch to epoch."""
        return False

    def notes(self, encoded: Dataset) -> list[str]:
        """What the user should know of these encoded rows."""
        return []

    def encoding_options(self) -> dict[str, Any]:
        """The settings that `encode` depends on, besides the class names."""
        return self.options

    def predicted(self, values: list[Any], rows: Dataset) -> Predicted:
        """Predictions from elsewhere (a floor), with their terms."""
        return Predicted(values)

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """Name -> predictions for the test rows by means that anyone has without a model; none here."""
        return {}

    def shown(self, values: Sequence[Any]) -> Sequence[Any]:
        """Labels or predictions as they stand in predictions.parquet: text, numbers, or lists of class names."""
        return values


def _unknown(key: str, received: str, allowed: tuple[str, ...]) -> Problem:
    meant = nearest(received, allowed)
    return Problem(key, received, ", ".join(allowed) or "nothing", f"did you mean {meant}?" if meant else "")
