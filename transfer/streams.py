"""The checks of a source that streams."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.config import Config
from transfer.errors import Problem

KEY = "source.data.streaming"
TASKS = ("sequence_classification", "masked_lm", "causal_lm")


def problems(config: Config) -> Iterable[Problem]:
    """What does not go with rows that are read as they are trained on, and of which nobody knows the number."""
    if config.target.data.streaming:
        action = "only a source streams: arms, label budgets and floors are about the rows of a target"
        yield Problem("target.data.streaming", True, "false", action)
    source = config.source
    data, task, columns = source.data, source.task, source.data.columns
    if data.shuffle_buffer < 1:
        yield Problem("source.data.shuffle_buffer", data.shuffle_buffer, "a whole number of at least 1", "")
    if source.also and any(each.streaming for each in (data, *(one.data for one in source.also.values()))):
        action = "how often a set is drawn depends on its size"
        yield Problem("source.also", ", ".join(source.also), f"none with {KEY}=true", action)
    if not data.streaming:
        return
    if source.budget.max_steps is None:
        action = "set it: nobody knows how many rows a stream has; it is validated source.budget.max_epochs times"
        yield Problem("source.budget.max_steps", None, f"a number of steps, with {KEY}=true", action)
    if task.name not in TASKS or task.multi_label:
        received = f"{task.name}, multi_label=true" if task.multi_label else task.name
        yield Problem("source.task.name", received, f"{', '.join(TASKS)}, with {KEY}=true", "")
    unused = {
        "data.train_size": data.train_size,
        "data.columns.tokens": columns.tokens,
        "data.columns.image": columns.image,
        "data.columns.features": columns.features or None,
        "data.columns.choices": columns.choices or None,
        "data.columns.id": columns.id,
        "data.columns.group": columns.group,
        "budget.tokens_per_batch": source.budget.tokens_per_batch,
        "task.class_weights": task.class_weights if isinstance(task.class_weights, str) else None,
    }
    for name, value in unused.items():
        if value is not None:
            yield Problem(f"source.{name}", value, f"not set, with {KEY}=true", "")
    if config.model.vectors.train:
        action = "word2vec goes through all texts several times: name a file, model.vectors.path"
        yield Problem("model.vectors.train", True, f"false, with {KEY}=true", action)
