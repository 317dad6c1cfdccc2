"""What the records say of sources: how much each one has gained on a target, over its from-scratch twins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from transfer.choose.candidates import key_of
from transfer.data import files
from transfer.plan import Plan, data_name
from transfer.records import Record


@dataclass(frozen=True)
class Target:
    """What a gain is a gain on: rows, task and budget of labels, and with how much of the model training.

    Attributes:
        data: the fingerprint of its files.
        train_size: the label budget; None is all.
        metric: by which the best weights are chosen, which is the one that is tested.
        mode: max or min.
    """

    name: str
    data: str
    task: str
    train_size: int | None
    metric: str
    mode: str
    freezing: str
    adaptation: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Gain:
    """Mean over seeds of a run's test metric less that of the scratch run of the same seed; above 0 is better."""

    mean: float
    num_seeds: int


def target_of(plan: Plan) -> Target:
    """The target of a run that is planned."""
    return Target(
        data_name(plan.data),
        files.fingerprint(plan.data, key="target.data"),
        plan.task.name,
        plan.data.train_size,
        plan.task.monitor,
        plan.task.mode,
        plan.freezing.policy,
        plan.adaptation.name,
    )


def gains(found: Sequence[Record], target: Target) -> dict[str, Gain]:
    """Measured gains by what the runs started from (`candidates.key_of`); of runs without a scratch twin none."""
    runs = [each for each in found if each["status"] == "complete" and _is_on(each, target)]
    scratch: dict[int, list[float]] = defaultdict(list)
    for record in runs:
        if record["arm"] == "scratch" and (value := _value(record, target)) is not None:
            scratch[record["seed"]].append(value)
    differences: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in runs:
        value, seed = _value(record, target), record["seed"]
        if record["arm"] == "scratch" or value is None or seed not in scratch or not _is_trained_so(record, target):
            continue
        differences[key_of(record)][seed].append(value - fmean(scratch[seed]))
    return {
        key: Gain(fmean(fmean(values) for values in by_seed.values()), len(by_seed))
        for key, by_seed in differences.items()
    }


def _is_on(record: Record, target: Target) -> bool:
    return (
        record["arm"] is not None
        and record["data"].get("fingerprint") == target.data
        and record["data"].get("fold") is None
        and record["task"] == target.task
        and record["train_size"] == target.train_size
    )


def _is_trained_so(record: Record, target: Target) -> bool:
    adaptation = (record["config"].get("adaptation") or {}).get("name", "none")
    return record["freezing"] == target.freezing and adaptation == target.adaptation


def _value(record: Record, target: Target) -> float | None:
    """Turned so that more is better."""
    value = record["metrics"].get(f"test/{target.metric}")
    return None if value is None else -value if target.mode == "min" else value
