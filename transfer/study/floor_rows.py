"""The floors of a study: what a constant or TF-IDF makes of the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transfer.study.pairing import Side, contrast
from transfer.study.results import Contrast, FloorRow
from transfer.study.statistics import spread
from transfer.study.strategies import Budget, Run, Strategy


def floors(run: Run, metric: str) -> dict[str, float]:
    """Name of each floor that the run recorded -> its metric."""
    key = "floors", metric
    if key not in run.readings:
        run.readings[key] = {
            name.removeprefix("floor_").partition("/")[0]: float(value)
            for name, value in (run.record.get("metrics") or {}).items()
            if name.startswith("floor_") and value is not None and name.partition("/")[2] == metric
        }
    found: dict[str, float] = run.readings[key]
    return found


# (data, subset, column, metric, recorded value) -> what the predictions of the floor say.
Known = dict[tuple[Any, ...], Any]


def over_floor(sides: Sequence[Side], metric: str, higher: bool, known: Known) -> Contrast | None:
    """The gain over the floor that is best on the test data, None where not all runs have one in common.

    ``known`` is filled: runs on the same labels have the same floor, which is read from one of them.
    """
    each = [floors(side.run, metric) for side in sides]
    names = set.intersection(*(set(found) for found in each))
    if not names:
        return None
    sign = 1 if higher else -1
    best = max(sorted(names), key=lambda name: sign * sum(found[name] for found in each))
    control = [Side(side.run, f"floor_{best}", f"prediction_{best}") for side in sides]
    keys = [_key(side, metric) for side in control]
    for side, key in zip(control, keys, strict=True):
        if key in known:
            side.run.readings.setdefault((side.column, metric), known[key])
    gain, notes = contrast(sides, control, metric, not higher)
    for side, key in zip(control, keys, strict=True):
        if (side.column, metric) in side.run.readings:
            known.setdefault(key, side.run.readings[side.column, metric])
    return Contrast(best, gain, notes, sides, control)


def _key(side: Side, metric: str) -> tuple[Any, ...]:
    data = side.run.data
    return data.get("fingerprint"), side.run.fold, data.get("subset_hash"), side.column, metric, side.value(metric)


def floor_rows(strategies: Sequence[Strategy], metric: str) -> list[FloorRow]:
    """Every floor on every budget, each label subset once."""
    values: dict[tuple[Budget, str], dict[object, tuple[int, float]]] = {}
    for strategy in strategies:
        for run in strategy.runs:
            for name, value in floors(run, metric).items():
                subset = (run.data.get("fingerprint"), run.fold, run.data.get("subset_hash"))
                values.setdefault((strategy.budget, name), {})[subset] = (run.num_labels, value)
    return [
        FloorRow(budget, next(iter(found.values()))[0], name, spread([value for _, value in found.values()]))
        for (budget, name), found in sorted(values.items(), key=lambda item: (item[0][0].sort_key, item[0][1]))
    ]
