"""The test split, looked at once: metrics, predictions for every example, and the floors."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from lightning.pytorch import Trainer

from transfer import interruption, records, sharding, tasks
from transfer.data.encoding import column_content
from transfer.data.mapped import blocks, release
from transfer.data.module import TransferData
from transfer.data.texts import texts_in_blocks
from transfer.module import TransferModule
from transfer.paths import cache_folder
from transfer.plan import Plan
from transfer.tasks.base import Predicted

log = logging.getLogger(__name__)

EQUAL = "_equal_steps"
PREDICTIONS = "predictions.parquet"
# More training rows than these teach a floor little, and the counts of all their pairs of words fill the memory.
FLOOR_ROWS = 50_000
# Characters of each test text kept beside its prediction, to be read in the report.
SHOWN_TEXT = 300


@dataclass
class Predictions:
    """Columns over the test rows, in their order."""

    columns: dict[str, list[Any]] = field(default_factory=dict)


def test_once(
    trainer: Trainer,
    module: TransferModule,
    data: TransferData,
    weights: dict[str, torch.Tensor],
    into: Predictions,
    suffix: str,
) -> dict[str, float]:
    """Test with these weights; metrics under test<suffix>/, and prediction<suffix>, score<suffix> into `into`."""
    sharding.load(module.model, weights)
    with interruption.through_lightning():
        results = trainer.test(module, datamodule=data, verbose=False)[0]
    for encoded in data.encoded.values():
        release(encoded)
    rows, predicted = module.tested
    full = isinstance(trainer.limit_test_batches, float)  # of all, 1.0; 1 is a single batch
    assert not full or rows == list(range(len(data.rows["test"]))), "every test row counts exactly once"
    into.columns["row"] = rows
    into.columns[f"prediction{suffix}"] = list(module.task.shown(predicted.values))
    into.columns[f"score{suffix}"] = predicted.scores
    into.columns |= {f"{name}{suffix}": values for name, values in predicted.terms.items()}
    return {name.replace("test/", f"test{suffix}/", 1): float(value) for name, value in results.items()}


def test(
    trainer: Trainer,
    module: TransferModule,
    data: TransferData,
    best: dict[str, torch.Tensor],
    equal: dict[str, torch.Tensor] | None,
    into: Predictions,
) -> dict[str, float]:
    """Test the best weights and, in a scratch arm, those of the equal steps (None elsewhere; empty where the same)."""
    metrics: dict[str, float] = {}
    if equal:
        metrics |= test_once(trainer, module, data, equal, into, EQUAL)
    metrics |= test_once(trainer, module, data, best, into, "")
    if equal is not None:
        fill_equal_steps(metrics, into)
    return metrics


def fill_equal_steps(metrics: dict[str, float], predictions: Predictions) -> None:
    """Where the best weights lie within the equal steps, the two baselines are one and are tested once."""
    if f"prediction{EQUAL}" in predictions.columns:
        return
    for name in [name for name in metrics if name.startswith("test/")]:
        metrics[name.replace("test/", f"test{EQUAL}/", 1)] = metrics[name]
    for name in [name for name in predictions.columns if name != "row"]:
        predictions.columns[f"{name}{EQUAL}"] = predictions.columns[name]


def write_predictions(
    folder: Path, task: Any, test_rows: Dataset, predictions: Predictions, floors: dict[str, Predicted]
) -> None:
    """predictions.parquet: id, label, prediction, score, and what the other baselines say of the same rows."""
    chosen = predictions.columns["row"]
    rows = test_rows if len(chosen) == len(test_rows) else test_rows.select(chosen)
    columns: dict[str, Any] = {"id": _strings(blocks(rows, "id")), "label": list(task.shown(rows["label"][:]))}
    shown_texts = _strings([text[:SHOWN_TEXT] for text in block] for block in texts_in_blocks(rows))
    if len(shown_texts):
        columns["text"] = shown_texts
    columns |= {name: values for name, values in predictions.columns.items() if name != "row"}
    for name, floor in floors.items():
        shown = task.shown(floor.values)
        columns[f"prediction_{name}"] = [shown[i] for i in chosen]
        columns |= {f"{term}_{name}": [values[i] for i in chosen] for term, values in floor.terms.items()}
    temporary = folder / ".predictions.parquet"
    pq.write_table(pa.table(columns), temporary)
    temporary.replace(folder / PREDICTIONS)


def _strings(parts: Iterable[list[str]]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(part, pa.string()) for part in parts], pa.string())


def floors(plan: Plan, task: Any, splits: dict[str, Dataset], subset_hash: str) -> dict[str, Predicted]:
    """Floor name -> its predictions on the test rows, from the same labels; kept on disk, since all arms share them."""
    code = tasks.code(plan.task.name)
    about = {"labels": task.labels, "task": [plan.task.name, code] if code else plan.task.name, "version": 2}
    train, test = splits["train"], splits["test"]
    if len(train) > FLOOR_ROWS:
        drawn = train.select(np.sort(np.random.default_rng(0).permutation(len(train))[:FLOOR_ROWS]))
        columns = {name: [value for block in blocks(drawn, name) for value in block] for name in drawn.column_names}
        train = Dataset.from_dict(columns, features=drawn.features)
        log.info("floors: from %d of the %d training rows, drawn at random", FLOOR_ROWS, len(splits["train"]))
    key = records.fingerprint({"data": [_content(train), _content(test)], **about})
    cache = cache_folder(plan.config.cache_dir) / "floors" / f"{key}.json"
    if cache.is_file():
        predictions = json.loads(cache.read_text())
    else:
        predictions = task.floors(train, test)
        release(test)
        cache.parent.mkdir(parents=True, exist_ok=True)
        records.write_atomically(cache, json.dumps(predictions))
    return {name: task.predicted(values, splits["test"]) for name, values in predictions.items()}


def _content(rows: Dataset) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(rows.column_names):
        digest.update(name.encode())
        for part in column_content(rows, name):
            digest.update(part)
    return digest.hexdigest()


def add_floor_metrics(record: dict[str, Any], task: Any, floors: dict[str, Predicted], test_rows: Dataset) -> None:
    """floor_<name>/<metric>, by the same metrics as the model's own."""
    if floors and record["data"]["num_train"] > FLOOR_ROWS:
        note = f"the floors are from {FLOOR_ROWS} training rows, drawn at random"
        record["notes"] = [*record.get("notes", []), note]
    for name, predicted in floors.items():
        values = task.score(predicted, test_rows, per_class=False)
        record["metrics"] |= {f"floor_{name}/{metric}": value for metric, value in values.items()}
