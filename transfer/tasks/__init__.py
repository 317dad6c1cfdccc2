"""One module a task: `transfer/tasks/<name>.py` holds a class `Task`, found by the task's name in the config."""

from __future__ import annotations

import importlib
from typing import Any

from transfer import config


def make(task: config.Task, labels: list[str], *, key: str) -> Any:
    """The task of a leg over these class names (none for regression)."""
    return importlib.import_module(f"transfer.tasks.{task.name}").Task(task, labels, key=key)


def problem_type(task: config.Task) -> str:
    """How the label column is read (`transfer.tasks.base`)."""
    kind: str = importlib.import_module(f"transfer.tasks.{task.name}").Task.kind_of_labels(task)
    return kind


def pipeline(task: config.Task) -> str | None:
    """The pipeline of transformers that opens the models of this task, where there is one."""
    name: str | None = importlib.import_module(f"transfer.tasks.{task.name}").Task.pipeline
    return name
