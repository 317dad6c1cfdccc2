"""Synthetic studies: run folders with records and predictions whose true qualities are known."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

QUALITY = {"transfer": 0.85, "direct": 0.8, "scratch": 0.65, "equal_steps": 0.55, "majority": 0.5, "tfidf": 0.6}
CLASSES = np.array(["neg", "pos"])


class Study:
    """Writes run folders and hands back their records, as the reader of the outputs folder does."""

    def __init__(self, folder: Path, num_test: int = 300) -> None:
        self.folder, self.num_test, self.records = folder, num_test, []
        rng = np.random.default_rng(7)
        self.labels = CLASSES[rng.integers(2, size=num_test)]
        self.ids = np.array([f"example-{i:05d}" for i in range(num_test)])

    def answers(self, quality: float, rng: np.random.Generator) -> np.ndarray:
        right = rng.random(self.num_test) < quality
        return np.where(right, self.labels, np.where(self.labels == "pos", "neg", "pos"))

    def _record(self, arm, seed, train_size, metrics, config):
        number = len(self.records)
        return {
            "run_id": f"run-{number:03d}",
            "fingerprint": f"{number:010d}",
            "experiment": "movies_to_shops",
            "stage": {None: "pretrain", "scratch": "scratch"}.get(arm, "finetune"),
            "arm": arm,
            "status": "complete",
            "seed": seed,
            "model": "tiny-bert",
            "freezing": "none",
            "task": "sequence_classification",
            "source": "movies",
            "target": "shops",
            "train_size": train_size,
            "metrics": metrics,
            "monitor": {"name": "val/accuracy", "mode": "max", "best": 0.7},
            "data": {
                "fingerprint": "data-1",
                "num_train": train_size or 1200,
                "num_val": 100,
                "num_test": self.num_test,
                "subset_hash": f"subset-{seed}-{train_size}",
            },
            "time": {"started": f"2025-01-01T00:{number:02d}:00", "wall_s": 10.0 + seed, "train_s": 8.0 + seed},
            "throughput": {"examples_per_s": 50.0, "train_flops": 3e12, "model_flops_utilisation": 0.25},
            "memory": {"peak_rss_bytes": 700_000_000, "peak_gpu_bytes": None},
            "config": {
                "seed": seed,
                "data_seed": 0,
                "subset_seed": seed,
                "init_seed": seed,
                "order_seed": seed,
                "arm": arm,
                "experiment_name": "movies_to_shops",
                "optimizer": {"lr": 5e-5},
                "scratch": {"lr": 5e-4},
                "target": {"budget": {"max_epochs": 4}},
                **config,
            },
        }

    def add(
        self,
        arm: str | None,
        seed: int = 0,
        train_size: int | None = 100,
        quality: float | None = None,
        write: bool = True,
        config: dict | None = None,
        floors: bool = True,
        shuffle: bool = False,
        validation: list[float] | None = None,
        answers: np.ndarray | None = None,
        texts: bool = False,
        **changes,
    ) -> dict:
        rng = np.random.default_rng([seed, train_size or 0, sum(map(ord, f"{arm}{config}{changes.get('source')}"))])
        columns = {"prediction": self.answers(QUALITY.get(str(arm), 0.5) if quality is None else quality, rng)}
        if answers is not None:
            columns["prediction"] = answers
        metrics = {"val/accuracy": 0.7, "test/loss": 0.5}
        if arm == "scratch":
            columns["prediction_equal_steps"] = self.answers(QUALITY["equal_steps"], rng)
        if floors:
            subset = np.random.default_rng([seed, train_size or 0])
            for name in ("majority", "tfidf"):
                columns[f"prediction_{name}"] = self.answers(QUALITY[name], subset)
        prefixes = {"prediction": "test", "prediction_equal_steps": "test_equal_steps"}
        for name, answers in columns.items():
            prefix = prefixes.get(name, name.replace("prediction", "floor"))
            metrics[f"{prefix}/accuracy"] = float((answers == self.labels).mean())
            if prefix.startswith("test"):
                for label in CLASSES:
                    own = self.labels == label
                    metrics[f"{prefix}/recall/{label}"] = float((answers[own] == label).mean())
        record = self._record(arm, seed, train_size, metrics, config or {})
        data = changes.pop("data", {})
        record |= changes
        record["data"] |= data
        folder = self.folder / record["experiment"] / f"{record['stage']}-{record['fingerprint'][:10]}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
        if validation is not None:
            # As Lightning writes it: sparse rows, steps from 0, a row of training between two of validation.
            lines = ["epoch,step,train/loss,val/accuracy,val/loss"]
            for epoch, value in enumerate(validation):
                lines += [f"{epoch},{7 * epoch + 3},0.5,,", f"{epoch},{7 * epoch + 6},,{value},0.4"]
            (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        if write:
            order = rng.permutation(self.num_test) if shuffle else np.arange(self.num_test)
            table = {"id": self.ids, "label": self.labels, "score": np.ones(self.num_test), **columns}
            if texts:
                table["text"] = np.array([f"<b>text</b> of {id}, long enough to fill a line" for id in self.ids])
            parquet.write_table(
                pa.table({name: list(v[order]) for name, v in table.items()}), folder / "predictions.parquet"
            )
        self.records.append(record | {"_folder": str(folder)})
        return self.records[-1]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")
