"""`transfer compare` on 5,000 records with predictions: where its time goes.

    python benchmarks/many_records.py [--folder FOLDER]

Writes the records of 50 strategies (8 sources x 6 freezing policies, direct, scratch) x 5 label budgets x 20 seeds,
each as large as a real one, then runs the whole command twice: with nothing kept from an earlier call, and again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

SOURCES = [f"source_{index}" for index in range(8)]
FREEZINGS = ["none", "head_only", "first_k", "gradual", "regex", "all"]
BUDGETS = [50, 100, 200, 400, 800]
NUM_SEEDS, NUM_TEST = 20, 300
CLASSES = np.array(["neg", "pos"])
TENSORS = [
    f"bert.encoder.layer.{layer}.{part}.{kind}"
    for layer in range(6)
    for part in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
    for kind in ("weight", "bias")
]


def frame() -> dict[str, Any]:
    """A record as large as that of a real run: the config of a shipped experiment, the tensors of MiniLM."""
    from transfer.compose import compose
    from transfer.config import OF_THE_CALL, to_plain

    config = to_plain(compose(["experiment=movies_to_products"]))
    return {
        "schema": 1,
        "task": "sequence_classification",
        "model": "minilm",
        "target": "products",
        "experiment": "big",
        "status": "complete",
        "monitor": {"name": "val/accuracy", "mode": "max", "best": 0.7},
        "weights": {
            "loaded": TENSORS,
            "reinitialised": ["classifier.weight", "classifier.bias"],
            "dropped": ["pooler.dense.weight", "pooler.dense.bias"],
            "fraction_loaded": 1.0,
        },
        "parameters": {"total": 22_713_986, "trainable": 22_713_986},
        "time": {"started": "", "wall_s": 60.0, "train_s": 40.0},
        "throughput": {"examples_per_s": 50.0, "tokens_per_s": 6400.0},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "lightning": "2.6.6", "transformers": "5.23.0"},
        "git": {"commit": "0" * 40, "dirty": False},
        "hardware": {"device": "a processor", "accelerator": "cpu", "num_devices": 1, "precision": "32-true"},
        "config": {name: value for name, value in config.items() if name not in OF_THE_CALL},
    }


def write(folder: Path) -> int:
    """The records, their predictions and their learning curves; how many there are."""
    rng = np.random.default_rng(0)
    labels = CLASSES[rng.integers(2, size=NUM_TEST)]
    ids = [f"example-{index:05d}" for index in range(NUM_TEST)]
    arms = [("scratch", None, "none"), ("direct", None, "none")]
    arms += [("transfer", source, freezing) for source in SOURCES for freezing in FREEZINGS]
    base, number = frame(), 0
    for place, (arm, source, freezing) in enumerate(arms):
        for size in BUDGETS:
            for seed in range(NUM_SEEDS):
                number += 1
                same = np.random.default_rng([size, seed])  # floors depend on the labels alone
                floors = {name: answers(labels, quality, same) for name, quality in (("majority", 0.5), ("tfidf", 0.6))}
                record = copy.deepcopy(base)
                quality = 0.6 + 0.03 * BUDGETS.index(size) + (0.004 * place if arm != "scratch" else 0.0)
                columns = {"prediction": answers(labels, quality, rng)}
                if arm == "scratch":
                    columns["prediction_equal_steps"] = answers(labels, quality - 0.05, rng)
                describe(record, number, arm, source, freezing, size, seed)
                record["metrics"] = scores(columns, labels) | {
                    f"floor_{name}/accuracy": float((found == labels).mean()) for name, found in floors.items()
                }
                columns |= {f"prediction_{name}": found for name, found in floors.items()}
                one(folder, record, {"id": ids, "label": labels, "score": rng.random(NUM_TEST), **columns})
    return number


def answers(labels: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    right = rng.random(len(labels)) < quality
    return np.where(right, labels, np.where(labels == "pos", "neg", "pos"))


def describe(record: dict[str, Any], number: int, arm: str, source: Any, freezing: str, size: int, seed: int) -> None:
    stage = "scratch" if arm == "scratch" else "finetune"
    fingerprint = f"{number * 7919:010x}" + "0" * 30
    record |= {"run_id": f"{stage}-{fingerprint[:10]}", "fingerprint": fingerprint, "stage": stage, "arm": arm}
    record |= {"seed": seed, "freezing": freezing, "source": source, "train_size": size, "parents": []}
    record["time"]["started"] = f"2025-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000Z"
    record["data"] = {"fingerprint": "f" * 32, "num_train": size, "num_val": 100, "num_test": NUM_TEST}
    record["data"]["subset_hash"] = f"{seed:05d}{size:011d}"
    record["overrides"] = [f"arm={arm}", f"seed={seed}", f"target.data.train_size={size}", f"freezing={freezing}"]
    config = record["config"]
    config |= {"arm": arm, "seed": seed, "subset_seed": seed, "init_seed": seed, "order_seed": seed}
    config["target"]["data"]["train_size"] = size
    config["freezing"]["policy"] = freezing
    config["source"]["data"]["name"] = source


def scores(columns: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    found = {"val/accuracy": 0.7, "val/loss": 0.6, "num_steps": 60.0}
    for name, predicted in columns.items():
        prefix = "test" if name == "prediction" else "test_equal_steps"
        found |= {f"{prefix}/accuracy": float((predicted == labels).mean()), f"{prefix}/loss": 0.5}
        for label in CLASSES:
            own = labels == label
            for metric in ("precision", "recall", "f1"):
                found[f"{prefix}/{metric}/{label}"] = float((predicted[own] == label).mean())
    return found


def one(folder: Path, record: dict[str, Any], columns: dict[str, Any]) -> None:
    run = folder / "big" / record["run_id"]
    run.mkdir(parents=True)
    (run / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = ["epoch,step,train/loss,val/accuracy,val/loss"]
    lines += [f"{epoch},{7 * epoch + 6},,{0.5 + 0.02 * epoch},0.4" for epoch in range(10)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    parquet.write_table(pa.table(columns), run / "predictions.parquet")


# Run in a process of its own: the parts of the command, with what each takes.
PARTS = """
import sys, time
clock = time.perf_counter()
def part(name):
    global clock
    print(f"  {name:34} {time.perf_counter() - clock:6.2f} s")
    clock = time.perf_counter()
from pathlib import Path
from transfer.listing import require_records
from transfer.study import report
from transfer.study.compare import compare
part("imports")
found = require_records(sys.argv[1], "big")
part("reading the records")
comparison = compare(found)
part("pairs, intervals, verdicts")
report.write_all(comparison, Path(sys.argv[2]))
part("page, pictures and tables")
"""


def measure(folder: Path, words: str) -> None:
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "transfer", "compare", "big", "--output-dir", str(folder)]
    subprocess.run([*command, "--to", str(folder / "page")], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{words}: {time.monotonic() - clock:.2f} s, {cpu:.2f} s of processor time, {after.ru_maxrss / 1e3:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the records are kept (default: a new temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="many-records-"))
    if not (folder / "big").is_dir():
        print(f"{write(folder):,} records in {folder}")
    for name in ("first call", "second call"):
        measure(folder, f"transfer compare, {name}")
    print("its parts, in one more process:")
    subprocess.run([sys.executable, "-c", PARTS, str(folder), str(folder / "page")], check=True, env=os.environ)


if __name__ == "__main__":
    main()
