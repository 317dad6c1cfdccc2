"""What bfloat16 changes: `movies_to_products` in 32-true and in bf16-mixed, three seeds each, in turns.

    python benchmarks/precision.py [FOLDER]

Prints the test accuracy of both, the difference with its standard deviation over seeds, and the seconds of training.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from transfer import records

SEEDS = (0, 1, 2)
PRECISIONS = ("32-true", "bf16-mixed")
LINE = [
    "experiment=movies_to_products",
    "arm=direct",
    "target.data.train_size=576",
    "target.budget.max_epochs=3",
    "optimizer.lr=2e-4",
    "logger=none",
    "floors=false",
]


def main(folder: Path) -> None:
    for seed in SEEDS:
        for precision in PRECISIONS:
            more = [f"seed={seed}", f"trainer.precision={precision}", f"output_dir={folder / precision}"]
            subprocess.run([sys.executable, "-m", "transfer", "run", *LINE, *more], check=True)
    found = {
        precision: {record["seed"]: record for record in records.find(folder / precision)} for precision in PRECISIONS
    }
    accuracy = {p: [found[p][seed]["metrics"]["test/accuracy"] for seed in SEEDS] for p in PRECISIONS}
    for precision in PRECISIONS:
        seconds = [found[precision][seed]["throughput"]["steps_s"] for seed in SEEDS]
        mean, took = statistics.mean(accuracy[precision]), statistics.mean(seconds)
        print(f"{precision:12} accuracy {mean:.4f}  steps {took:.1f} s")
    differences = [after - before for before, after in zip(*accuracy.values(), strict=True)]
    spread = statistics.stdev(differences)
    print(f"bf16 - 32    {statistics.mean(differences):+.4f}, standard deviation over {len(SEEDS)} seeds {spread:.4f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
