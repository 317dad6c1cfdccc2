"""One module a task: `transfer/tasks/<name>.py` holds a class `Task`, found by the task's name in the config."""

from __future__ import annotations

import importlib
from typing import Any

from transfer import config


def make(task: config.Task, labels: list[str], *, key: str) -> Any:
    """The task of a leg over these class names (none for regression)."""
    return importlib.import_module(f"transfer.tasks.{task.name}").Task(task, labels, key=key)


def problem_type(task: config.Task) -> str:
    """single_label, multi_label or regression: how the label column is read."""
    if task.name == "regression":
        return "regression"
    return "multi_label" if task.multi_label else "single_label"
