"""Peak memory of training on a JSONL file of 2,000,000 rows, and on one of 20,000."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import ours

WORDS = [
    f"{first}{second}" for first in ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi") for second in "bcdfghklmnprst"
]
# Few steps: what grows with the file is reading, splitting, tokenizing and batching it.
TRAINING = (
    "data@target.data=csv",
    "arm=scratch",
    "model=word_mean",
    "trainer=cpu",
    "logger=none",
    "floors=false",
    "target.data.validation_size=200",
    "target.data.test_size=200",
    "target.budget.max_steps=50",
    "scratch.max_epochs=1",
    "scratch.min_steps=0",
)


def write(path: Path, rows: int, words: int = 12) -> None:
    """Rows of `words` words each, labelled by the first of them."""
    random = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for begin in range(0, rows, 50_000):
            drawn = random.integers(len(WORDS), size=(min(50_000, rows - begin), words))
            lines = (
                f'{{"text": {json.dumps(" ".join([WORDS[word] for word in row]))}, "label": "{"ab"[row[0] % 2]}"}}\n'
                for row in drawn.tolist()
            )
            file.writelines(lines)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Trains on the file `path`; the child adds the peak of its memory."""
    words = [*TRAINING, *request["words"], f"target.data.path={request['path']}"]
    return ours.measure({"words": words, "sweep": [], "num_jobs": 1, "seed": 0, "folder": request["folder"]})
