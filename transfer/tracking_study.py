"""A comparison as one W&B run: its table and pictures, its gains as values to sort and chart by."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer import records, tracking_start
from transfer.config import Logger
from transfer.records import Record
from transfer.wandb_environment import link

if TYPE_CHECKING:
    from transfer.study.results import Comparison, Contrast, Row

TABLES = ("comparison", "pairs")
# What was logged last, and where it is.
LOGGED = "study.json"


def study_id(experiment: str) -> str:
    """The W&B id of an experiment's study run: the next comparison writes into the same one."""
    return records.fingerprint({"study": experiment})


def log_study(comparison: Comparison, experiment: str, files: Sequence[Path], folder: Path, settings: Logger) -> str:
    """Write the study run of an experiment, unless it says all of this already; where it is.

    Args:
        comparison: what was found.
        experiment: the group of the compared runs.
        files: what `report.write_all` has written.
        folder: the experiment's folder; in its `study`, an offline run waits for `transfer sync`.
        settings: where the compared runs went.
    """
    tables = {path.stem: path for path in files if path.suffix == ".csv" and path.stem in TABLES}
    content = [comparison.headline, *(path.read_text(encoding="utf-8") for path in tables.values())]
    state = records.fingerprint({"content": content, "to": [settings.project, settings.entity, settings.offline]})
    home = folder / "study"
    note = home / LOGGED
    if note.is_file() and (last := json.loads(note.read_text(encoding="utf-8")))["state"] == state:
        return f"{last['place']} (as before)"
    home.mkdir(parents=True, exist_ok=True)
    place = _log(comparison, experiment, tables, [path for path in files if path.suffix == ".png"], home, settings)
    records.write_atomically(note, json.dumps({"state": state, "place": place}) + "\n")
    return place


def _log(
    comparison: Comparison,
    experiment: str,
    tables: dict[str, Path],
    pictures: Sequence[Path],
    home: Path,
    settings: Logger,
) -> str:
    import wandb

    run_id = study_id(experiment)
    for earlier in home.glob(f"wandb/offline-run-*-{run_id}"):
        shutil.rmtree(earlier)  # this one takes its place
    run = tracking_start.start(
        settings,
        home,
        quick=True,
        name=f"study-{experiment}",
        id=run_id,
        group=experiment,
        job_type="study",
        tags=["study", *(f"target:{target}"[:64] for target in _targets(comparison))],
        notes=comparison.headline,
        config={
            "run/experiment": experiment,
            "run/stage": "study",
            "study/question": comparison.question,
            "study/metric": comparison.metric,
            "study/baseline": comparison.baseline,
            "study/num_runs": sum(len(strategy.runs) for strategy in comparison.strategies),
        },
    )
    kept = Path(run.dir).parent
    place = os.path.relpath(kept) if run.offline else str(run.url)
    try:
        logged: dict[str, Any] = {f"study/{path.stem}": wandb.Image(str(path)) for path in pictures}
        for name, path in tables.items():
            columns, rows = read_table(path)
            logged[f"study/{name}"] = wandb.Table(columns=[*columns], data=rows)
        run.log(logged)
        run.summary.update(gains(comparison))
    finally:
        run.finish()
        link(kept, home.parent, "study")
    return place


def _targets(comparison: Comparison) -> list[str]:
    return sorted({row.budget.target for row in comparison.rows})


def gains(comparison: Comparison) -> dict[str, Any]:
    """Every gain over scratch with its interval and verdict, named by strategy and label budget, and their counts."""
    found: dict[str, Any] = {"headline": comparison.headline}
    several = _several(comparison)
    for row, contrast in comparison.gains:
        name = _name(row, contrast, several, first=contrast is row.over_scratch[0])
        values = {"": contrast.gain.estimate, "_low": contrast.gain.low, "_high": contrast.gain.high}
        found |= {f"gain{end}/{name}": value for end, value in values.items() if math.isfinite(value)}
        found[f"verdict/{name}"] = contrast.verdict
    for verdict in ("gain", "harm", "undecided"):
        found[f"num_{verdict}"] = sum(contrast.verdict == verdict for _, contrast in comparison.gains)
    return found


def _several(comparison: Comparison) -> list[str]:
    budgets = [row.budget for row in comparison.rows]
    return [field for field in ("target", "model") if len({getattr(budget, field) for budget in budgets}) > 1]


def _name(row: Row, contrast: Contrast, several: Sequence[str], *, first: bool) -> str:
    parts = [row.label, *(getattr(row.budget, field) for field in several), f"n{row.num_labels}"]
    return ", ".join(parts if first else [*parts, f"against {contrast.against}"])


def read_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows) of a CSV file; a column is numbers only where every filled cell of it is one."""
    with open(path, newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    converted: list[list[Any]] = [[_number(cell) for cell in column] for column in zip(*rows, strict=True)]
    for index, column in enumerate(converted):
        if any(value is None and row[index] for value, row in zip(column, rows, strict=True)):
            converted[index] = [row[index] or None for row in rows]
    return columns, [list(row) for row in zip(*converted, strict=True)]


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def logger_of(found: Sequence[Record]) -> Logger | None:
    """Where the newest of these runs that W&B tracks went; None where it tracks none."""
    for record in found:
        settings = (record.get("config") or {}).get("logger") or {}
        if settings.get("name") == "wandb":
            return Logger(**{name: settings[name] for name in Logger.__dataclass_fields__ if name in settings})
    return None
