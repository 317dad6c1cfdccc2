"""How often the interval of `compare` holds the true gain, and how often it finds one that is not there.

    python benchmarks/coverage.py [--repetitions 1000] [--seeds 3 5 10]

Each repetition is a study of its own: synthetic records with predictions of arms whose true accuracies are known,
compared by `transfer.study.compare`. Of the interval of 95 %, 93 to 97 % should hold the gain of 10 points; without a
gain, at most 5 % should be called gain or harm.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from transfer.study.compare import compare

NUM_TEST = 300
CLASSES = np.array(["neg", "pos"])
IDS = [f"example-{index:04d}" for index in range(NUM_TEST)]


def study(folder: Path, seeds: int, gain: float, seed_sd: float, example_sd: float, rng: Any) -> list[dict[str, Any]]:
    """Records of both arms: gain = `gain` + a seed's part + a test example's part, right or wrong drawn from it."""
    labels = CLASSES[rng.integers(2, size=NUM_TEST)]
    by_example = rng.choice([-example_sd, example_sd], NUM_TEST)
    found = []
    for seed in range(seeds):
        by_seed = float(np.clip(rng.standard_normal(), -3, 3)) * seed_sd
        half = (gain + by_seed + by_example) / 2
        for arm, chance in (("transfer", 0.66 + half), ("scratch", 0.66 - half)):
            right = rng.random(NUM_TEST) < chance
            answers = np.where(right, labels, np.where(labels == "pos", "neg", "pos"))
            found.append(record(folder, arm, seed, float(right.mean())))
            parquet.write_table(
                pa.table({"id": IDS, "label": labels, "prediction": answers}),
                Path(found[-1]["_folder"]) / "predictions.parquet",
            )
    return found


def record(folder: Path, arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    run = folder / f"{arm}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    return {
        "run_id": run.name,
        "fingerprint": run.name,
        "experiment": "synthetic",
        "stage": "scratch" if arm == "scratch" else "finetune",
        "arm": arm,
        "status": "complete",
        "seed": seed,
        "model": "none",
        "freezing": "none",
        "task": "sequence_classification",
        "source": "source",
        "target": "target",
        "train_size": 100,
        "metrics": {"test/accuracy": accuracy},
        "monitor": {"name": "val/accuracy", "mode": "max", "best": accuracy},
        "data": {"fingerprint": "data", "num_train": 100, "num_test": NUM_TEST, "subset_hash": str(seed)},
        "time": {"started": "", "wall_s": 1.0, "train_s": 1.0},
        "config": {"seed": seed, "data_seed": 0, "subset_seed": seed, "init_seed": seed, "order_seed": seed},
        "_folder": str(run),
    }


def measured(repetitions: int, seeds: int, gain: float, seed_sd: float, example_sd: float) -> tuple[float, float]:
    """Share of the intervals that hold the true gain, and share of the verdicts that are not `undecided`."""
    rng = np.random.default_rng([seeds, round(1000 * gain), round(1000 * seed_sd)])
    held = decided = 0
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        for _ in range(repetitions):
            ((_, contrast),) = compare(study(Path(folder), seeds, gain, seed_sd, example_sd, rng)).gains
            held += contrast.gain.low <= gain <= contrast.gain.high
            decided += contrast.verdict != "undecided"
    return held / repetitions, decided / repetitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    options = parser.parse_args()
    error = 100 * math.sqrt(0.05 * 0.95 / options.repetitions)
    print(f"{options.repetitions} repetitions; the standard error of 95 % and of 5 % is {error:.1f} points")
    print("seeds  sd of seeds  sd of examples  holds the gain of 10 points  verdicts without a gain")
    for seeds in options.seeds:
        for seed_sd, example_sd in ((0.02, 0.2), (0.05, 0.2), (0.08, 0.0)):
            held, _ = measured(options.repetitions, seeds, 0.1, seed_sd, example_sd)
            _, decided = measured(options.repetitions, seeds, 0.0, seed_sd, example_sd)
            print(f"{seeds:5}  {seed_sd:11}  {example_sd:14}  {held:26.1%}  {decided:24.1%}", flush=True)


if __name__ == "__main__":
    main()
