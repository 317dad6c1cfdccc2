"""The test split, looked at once: metrics, predictions for every example, and the floors."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from lightning.pytorch import Trainer

from transfer import records
from transfer.data.module import TransferData
from transfer.module import TransferModule
from transfer.paths import cache_folder
from transfer.plan import Plan

log = logging.getLogger(__name__)

EQUAL = "_equal_steps"
PREDICTIONS = "predictions.parquet"
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
    module.model.load_state_dict(weights)
    results = trainer.test(module, datamodule=data, verbose=False)[0]
    index, logits = _gathered(trainer, module)
    order = torch.argsort(index)
    full = trainer.limit_test_batches in (None, 1.0)
    assert not full or index[order].tolist() == list(range(len(data.encoded["test"]))), (
        "every test row counts exactly once"
    )
    predicted, scores = module.task.decode(logits[order])
    into.columns["row"] = index[order].tolist()
    into.columns[f"prediction{suffix}"] = predicted
    into.columns[f"score{suffix}"] = scores
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


def _gathered(trainer: Trainer, module: TransferModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers [n] and logits [n, classes] of all ranks."""
    index = torch.cat([part for part, _ in module.predictions])
    logits = torch.cat([part for _, part in module.predictions])
    if trainer.world_size == 1:
        return index, logits
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, (index, logits))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def fill_equal_steps(metrics: dict[str, float], predictions: Predictions) -> None:
    """Where the best weights lie within the equal steps, the two baselines are one and are tested once."""
    if f"prediction{EQUAL}" in predictions.columns:
        return
    for name in [name for name in metrics if name.startswith("test/")]:
        metrics[name.replace("test/", f"test{EQUAL}/", 1)] = metrics[name]
    for name in ("prediction", "score"):
        predictions.columns[f"{name}{EQUAL}"] = predictions.columns[name]


def write_predictions(folder: Path, test_rows: Dataset, predictions: Predictions, floors: dict[str, Any]) -> None:
    """predictions.parquet: id, label, prediction, score, and what the other baselines say of the same rows."""
    chosen = predictions.columns["row"]
    rows = test_rows.select(chosen)
    columns = {"id": rows["id"][:], "label": rows["label"][:]}
    if "text" in rows.column_names:
        columns["text"] = [text[:SHOWN_TEXT] for text in rows["text"][:]]
    columns |= {name: values for name, values in predictions.columns.items() if name != "row"}
    columns |= {f"prediction_{name}": [floor[i] for i in chosen] for name, floor in floors.items()}
    temporary = folder / ".predictions.parquet"
    pq.write_table(pa.table(columns), temporary)
    temporary.replace(folder / PREDICTIONS)


def floors(plan: Plan, task: Any, splits: dict[str, Dataset], subset_hash: str) -> dict[str, list[Any]]:
    """Floor name -> its predictions on the test rows, from the same labels; kept on disk, since all arms share them."""
    from transfer import floors as baselines

    key = records.fingerprint(
        {"data": [_content(splits[s]) for s in ("train", "test")], "labels": task.labels, "version": 1}
    )
    cache = cache_folder(plan.config.cache_dir) / "floors" / f"{key}.json"
    if cache.is_file():
        kept: dict[str, list[Any]] = json.loads(cache.read_text())
        return kept
    train, test_rows = splits["train"], splits["test"]
    inputs = [_inputs(rows) for rows in (train, test_rows)]
    if task.labels:
        found = baselines.classification_floors(
            inputs[0], train["label"][:], inputs[1], task.labels, multi_label=plan.task.multi_label
        )
    else:
        found = baselines.regression_floors(inputs[0], train["label"][:], inputs[1])
    predictions = {name: list(floor.predictions) for name, floor in found.items()}
    cache.parent.mkdir(parents=True, exist_ok=True)
    records.write_atomically(cache, json.dumps(predictions))
    return predictions


def _inputs(rows: Dataset) -> Any:
    if "features" in rows.column_names:
        import numpy as np

        return np.asarray(rows["features"][:], dtype=float)
    if "text_pair" in rows.column_names:
        return list(zip(rows["text"][:], rows["text_pair"][:], strict=True))
    return rows["text"][:]


def _content(rows: Dataset) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(rows.column_names):
        digest.update(json.dumps([name, rows[name][:]], ensure_ascii=True).encode())
    return digest.hexdigest()


def add_floor_metrics(record: dict[str, Any], task: Any, floors: dict[str, list[Any]], test_rows: Dataset) -> None:
    """floor_<name>/<metric>, by the same metrics as the model's own."""
    labels = task.label_tensor(task.encode_labels(test_rows["label"][:]))
    for name, predicted in floors.items():
        metrics = task.metrics(per_class=False)
        task.update(metrics, _as_logits(task, predicted), labels)
        values = task.named(metrics.compute())
        record["metrics"] |= {f"floor_{name}/{metric}": value for metric, value in values.items()}


def _as_logits(task: Any, predicted: list[Any]) -> torch.Tensor:
    """Logits that decode to these predictions."""
    encoded = torch.tensor(task.encode_labels(predicted))
    if not task.labels:
        return encoded.unsqueeze(-1)
    one_hot = encoded if encoded.ndim == 2 else torch.nn.functional.one_hot(encoded, len(task.labels))
    return (one_hot.float() * 2 - 1) * 10
