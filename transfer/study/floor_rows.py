"""The floors of a study: what a constant or TF-IDF makes of the same labels."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.study.pairing import Side, contrast
from transfer.study.results import Contrast, FloorRow
from transfer.study.statistics import spread
from transfer.study.strategies import Budget, Run, Strategy


def floors(run: Run, metric: str) -> dict[str, float]:
    """Name of each floor that the run recorded -> its metric."""
    found = {}
    for name in run.record.get("metrics") or {}:
        prefix, _, last = name.partition("/")
        value = run.metric(name) if prefix.startswith("floor_") and last == metric else None
        if value is not None:
            found[prefix.removeprefix("floor_")] = value
    return found


def over_floor(sides: Sequence[Side], metric: str, higher: bool) -> Contrast | None:
    """The gain over the floor that is best on the test data, None where not all runs have one in common."""
    each = [floors(side.run, metric) for side in sides]
    names = set.intersection(*(set(found) for found in each))
    if not names:
        return None
    sign = 1 if higher else -1
    best = max(sorted(names), key=lambda name: sign * sum(found[name] for found in each))
    control = [Side(side.run, f"floor_{best}", f"prediction_{best}") for side in sides]
    return Contrast(best, *contrast(sides, control, metric, not higher), treated=sides, control=control)


def floor_rows(strategies: Sequence[Strategy], metric: str) -> list[FloorRow]:
    """Every floor on every budget, each label subset once."""
    values: dict[tuple[Budget, str], dict[object, tuple[int, float]]] = {}
    for strategy in strategies:
        for run in strategy.runs:
            for name, value in floors(run, metric).items():
                subset = (run.data.get("fingerprint"), run.data.get("subset_hash"))
                values.setdefault((strategy.budget, name), {})[subset] = (run.num_labels, value)
    return [
        FloorRow(budget, next(iter(found.values()))[0], name, spread([value for _, value in found.values()]))
        for (budget, name), found in sorted(values.items(), key=lambda item: (item[0][0].sort_key, item[0][1]))
    ]
