"""What is wrong with the settings of a meta run, as far as can be seen without its data."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.config import Config, Meta, Source, Stage
from transfer.errors import Problem, nearest

GRADIENT = ("maml", "fomaml", "anil", "reptile")
METRIC = ("prototypes", "matching")
ALGORITHMS = (*GRADIENT, *METRIC)
BASELINES = ("finetuning", "linear_probe", *METRIC)
# Task -> what is measured on an episode.
MEASURED = {"sequence_classification": "accuracy", "image_classification": "accuracy", "regression": "mse"}


def problems(config: Config) -> Iterable[Problem]:
    """Of `source.meta` with all else."""
    meta, source, stage = config.source.meta, config.source, config.stage
    if meta.algorithm not in ("none", *ALGORITHMS):
        meant = nearest(meta.algorithm, ALGORITHMS)
        allowed = ", ".join(("none", *ALGORITHMS))
        yield Problem("source.meta.algorithm", meta.algorithm, allowed, f"did you mean {meant}?" if meant else "")
    elif stage.is_source and stage is not source.stage:
        if stage is Stage.meta:
            allowed = f"{', '.join(ALGORITHMS)}, for stage=meta"
            yield Problem("source.meta.algorithm", "none", allowed, "choose one, or stage=pretrain")
        else:
            yield Problem("stage", stage.value, f"meta, with source.meta.algorithm={meta.algorithm}", "stage=meta")
    if meta.algorithm == "none":
        return
    yield from _numbers(meta)
    yield from _steps(meta)
    yield from _source(source)
    if stage is Stage.meta and not config.test:
        yield Problem("test", False, "true, with stage=meta", "there is no search over meta runs: leave it out")


def _numbers(meta: Meta) -> Iterable[Problem]:
    least = {"ways": 2, "num_validation_episodes": 1, "num_test_episodes": 2}
    least |= dict.fromkeys(("shots", "queries", "inner_steps", "tasks_per_step", "steps_per_epoch"), 1)
    for name, bound in least.items():
        if getattr(meta, name) < bound:
            yield Problem(f"source.meta.{name}", getattr(meta, name), f"a whole number of at least {bound}", "")
    if not meta.inner_lr > 0:
        yield Problem("source.meta.inner_lr", meta.inner_lr, "a number above 0", "")
    fractions = {name: getattr(meta, name) for name in ("validation_fraction", "test_fraction")}
    for name, value in fractions.items():
        if not 0 < value < 1:
            yield Problem(f"source.meta.{name}", value, "a fraction of the classes, between 0 and 1", "")
    if max(fractions.values()) < 1 <= sum(fractions.values()):
        keys = " + ".join(f"source.meta.{name}" for name in fractions)
        yield Problem(keys, sum(fractions.values()), "together below 1", "leave classes to train on")


def _steps(meta: Meta) -> Iterable[Problem]:
    if not meta.test_steps or min(meta.test_steps) < 0 or sorted({*meta.test_steps}) != [*meta.test_steps]:
        yield Problem("source.meta.test_steps", meta.test_steps, "numbers of steps from 0 on that ascend", "[0, 1, 5]")
    elif meta.algorithm in GRADIENT and meta.inner_steps not in meta.test_steps:
        allowed = f"inner_steps={meta.inner_steps} among them: what it was trained for is tested"
        yield Problem("source.meta.test_steps", meta.test_steps, allowed, "")
    if meta.algorithm == "reptile" and meta.inner_steps < 2:
        allowed = "at least 2 for reptile: with one it would learn all tasks together, and nothing of their adaptation"
        yield Problem("source.meta.inner_steps", meta.inner_steps, allowed, "")
    if meta.learn_inner_lr and meta.algorithm not in ("maml", "fomaml", "anil"):
        allowed = f"false for {meta.algorithm}, whose outer gradient says nothing of inner rates"
        yield Problem("source.meta.learn_inner_lr", True, allowed, "choose maml, fomaml or anil")
    for name in meta.baselines:
        if name not in BASELINES:
            meant = nearest(name, BASELINES)
            action = f"did you mean {meant}?" if meant else ""
            yield Problem("source.meta.baselines", name, ", ".join(BASELINES), action)


def _source(source: Source) -> Iterable[Problem]:
    task, data, meta = source.task, source.data, source.meta
    if task.name not in MEASURED:
        allowed = f"{', '.join(MEASURED)}, for source.meta.algorithm={meta.algorithm}"
        yield Problem("source.task.name", task.name, allowed, "choose another task, or source.meta.algorithm=none")
        return
    measured = MEASURED[task.name]
    if task.monitor not in (measured, "loss"):
        yield Problem("source.task.monitor", task.monitor, f"{measured} or loss: what is measured on episodes", "")
    if task.multi_label:
        yield Problem("source.task.multi_label", True, "false: an episode's rows have one class each", "")
    if task.class_weights is not None:
        allowed = "null: the classes of an episode have equally many rows"
        yield Problem("source.task.class_weights", task.class_weights, allowed, "leave it out")
    if task.name == "regression":
        if meta.algorithm in METRIC:
            allowed = f"{', '.join(GRADIENT)}: a regression has no classes to compare with"
            yield Problem("source.meta.algorithm", meta.algorithm, allowed, "")
        if data.columns.group is None:
            allowed = "the column that names the domain of each row: an episode is of one domain"
            yield Problem("source.data.columns.group", None, allowed, "")
    if data.columns.label is None:
        yield Problem("source.data.columns.label", None, "a column with labels, for episodes", "")
    if data.train_size is not None:
        allowed = "null with a meta run, which takes the rows of all classes and divides the classes"
        yield Problem(
            "source.data.train_size", data.train_size, allowed, "source.meta.shots says how many are labelled"
        )
    if data.streaming:
        yield Problem("source.data.streaming", True, "false: an episode draws from all rows", "")
    if source.also:
        yield Problem("source.also", ", ".join(source.also), "none with a meta run", "leave one of the two out")
