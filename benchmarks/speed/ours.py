"""A training, or a sweep of them, by this project: the command as it is typed, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch


def command(*words: str) -> None:
    """`transfer WORDS`.

    Raises:
        RuntimeError: it ended with another exit code than 0.
    """
    from transfer.cli import main

    try:
        main(list(words))
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"transfer {' '.join(words)}: exit code {stop.code}") from stop


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of training, of all jobs together, and what the test says.

    Of a sweep's jobs, those with the seed of the others' run, it is asked of the one that did best in validation.

    Args:
        request: `words`, `sweep` (axes; empty for one run) and `folder`, where the records go; see `children.request`.
    """
    from transfer import records

    output_dir = Path(request["folder"]) / "outputs"
    many = ["-m"] if request["sweep"] else []
    clock = time.perf_counter()
    command("run", *many, *request["words"], *request["sweep"], f"output_dir={output_dir}")
    command_s = time.perf_counter() - clock
    found = [record for record in records.find(output_dir) if record["arm"]]
    if len(found) != request["num_jobs"]:
        raise RuntimeError(f"{len(found)} records of {request['num_jobs']} jobs")
    chosen = max((r for r in found if r["seed"] == request["seed"]), key=lambda record: record["monitor"]["best"])
    right = _right(Path(chosen["_folder"]))
    return {
        "train_s": sum(training_seconds(record) for record in found),
        "command_s": command_s,
        "accuracy": right.count("1") / len(right),
        "accuracies": [record["metrics"]["test/accuracy"] for record in found],
        "right": right,
        "trainable": chosen["parameters"]["trainable"],
        "precision": chosen["hardware"]["precision"],
        "num_train": chosen["data"]["num_train"],
    }


def training_seconds(record: dict[str, Any]) -> float:
    """What this run's training took, what was computed once for it or for its whole sweep included."""
    return float(record["time"]["train_s"])


def _right(folder: Path) -> str:
    """A digit for each test row: whether it was answered as it is labelled."""
    from pyarrow import parquet

    table = parquet.read_table(folder / "predictions.parquet", columns=["label", "prediction"]).to_pydict()
    return "".join(str(int(a == b)) for a, b in zip(table["label"], table["prediction"], strict=True))


@dataclass
class Clock:
    """The seconds of each training step, to the end of the one before; when some of them ended; the weights at the end.

    The first step of an epoch counts from the epoch's start, and the last one to the start of the validation.
    """

    steps: list[float] = field(default_factory=list)
    marks: dict[int, float] = field(default_factory=dict)
    weights: float = 0.0
    since: float | None = None

    def tick(self) -> None:
        now = time.perf_counter()
        assert self.since is not None, "within an epoch"
        self.steps.append(now - self.since)
        self.since = now

    def stop(self) -> None:
        if self.since is not None:
            self.steps[-1] += time.perf_counter() - self.since
            self.since = None


def weight_sum(model: Any) -> float:
    """The sum of the sizes of all weights: two trainings that did the same agree in it."""
    return sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())


@contextmanager
def clocked(marks: Collection[int] = (), synchronize: Callable[[], Any] | None = None) -> Iterator[Clock]:
    """A clock on every training within, from outside: the project's module has hooks where it starts and stops.

    Args:
        marks: the numbers of the steps, from 1, whose end is noted.
        synchronize: called before that, where a device works on its own.
    """
    from transfer.module import TransferModule

    clock = Clock()
    epoch_start, batch_end = TransferModule.on_train_epoch_start, TransferModule.on_train_batch_end

    def on_train_epoch_start(self: Any) -> None:
        clock.since = time.perf_counter()
        epoch_start(self)

    def on_train_batch_end(self: Any, *arguments: Any) -> None:
        batch_end(self, *arguments)
        clock.tick()
        if (number := len(clock.steps)) in marks:
            if synchronize is not None:
                synchronize()
            clock.marks[number] = time.perf_counter()

    def on_validation_start(self: Any) -> None:
        clock.stop()

    def on_train_end(self: Any) -> None:
        clock.stop()
        clock.weights = weight_sum(self.model)

    hooks = {
        "on_train_epoch_start": on_train_epoch_start,
        "on_train_batch_end": on_train_batch_end,
        "on_validation_start": on_validation_start,
        "on_train_end": on_train_end,
    }
    with patch.multiple(TransferModule, **hooks):
        yield clock
