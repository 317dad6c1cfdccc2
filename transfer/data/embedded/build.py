"""Rebuild the embedded data sets: ``python build.py FOLDER``.

FOLDER is the unpacked ``hutto_ICWSM_2014`` of the source distribution vaderSentiment 3.3.2.
The linear sets are drawn from fixed seeds and need no input.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# our name -> (the study's file, whether "12_3" means snippet 3 of document 12)
STUDY = {
    "movies": ("movieReviewSnippets_GroundTruth.txt", False),
    "products": ("amazonReviewSnippets_GroundTruth.txt", True),
    "tweets": ("tweets_GroundTruth.txt", False),
    "editorials": ("nytEditorialSnippets_GroundTruth.txt", True),
}


def sentiment(text: str, has_documents: bool) -> bytes:
    """One file of the study as JSON lines."""
    lines = []
    for line in text.split("\r\n"):
        if not line:
            continue
        row_id, mean, snippet = line.split("\t")
        valence = float(mean)
        row = {
            "id": row_id,
            "text": snippet.strip(),
            "valence": valence,
            "label": None if valence == 0 else "positive" if valence > 0 else "negative",
            "document": row_id.split("_")[0] if has_documents else None,
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def linear(rows: int, *, weight: float, bias: float, low: float, high: float, seed: int) -> bytes:
    """y = weight x + bias + N(0, 0.5^2), x uniform between ``low`` and ``high``, as CSV."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(low, high, rows)
    y = weight * x + bias + generator.normal(0.0, 0.5, rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["x", "y"])
    writer.writerows((f"{a:.6f}", f"{b:.6f}") for a, b in zip(x, y, strict=True))
    return buffer.getvalue().encode()


def sinusoids(domains: int, rows: int, *, seed: int) -> bytes:
    """y = a sin(x - b) for each domain, a from 0.1 to 5, b from 0 to pi, x from -5 to 5, all uniform, as CSV.

    The regressions of Finn, Abbeel & Levine 2017, section 5.1.
    """
    generator = np.random.default_rng(seed)
    amplitude, phase = generator.uniform(0.1, 5.0, (domains, 1)), generator.uniform(0.0, np.pi, (domains, 1))
    x = generator.uniform(-5.0, 5.0, (domains, rows))
    y = amplitude * np.sin(x - phase)
    lines = [f"{a:.3f},{b:.3f},{i}\n" for i in range(domains) for a, b in zip(x[i], y[i], strict=True)]
    return "".join(["x,y,wave\n", *lines]).encode()


def main(folder: Path) -> None:
    for name, (file_name, has_documents) in STUDY.items():
        text = (folder / file_name).read_bytes().decode("utf-8")
        # mtime=0: the bytes must not depend on when this ran
        packed = gzip.compress(sentiment(text, has_documents), compresslevel=9, mtime=0)
        (HERE / f"{name}.jsonl.gz").write_bytes(packed)
    source = linear(500, weight=2.0, bias=1.0, low=-3.0, high=3.0, seed=1)
    target = linear(400, weight=2.3, bias=0.6, low=-2.5, high=3.5, seed=2)
    (HERE / "linear_source.csv").write_bytes(source)
    (HERE / "linear_target.csv").write_bytes(target)
    waves = gzip.compress(sinusoids(1500, 40, seed=3), compresslevel=9, mtime=0)
    (HERE / "sinusoids.csv.gz").write_bytes(waves)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
