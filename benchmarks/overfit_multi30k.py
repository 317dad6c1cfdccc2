"""Can an encoder-decoder learn 200 sentence pairs by heart? BLEU on the pairs that it was trained on.

    TRANSFER_DATA=... python benchmarks/overfit_multi30k.py [model=lstm_seq2seq ...]

A model, a loss or a decoding that is wrong somewhere stays far below a BLEU of 60 here. Measured on one CPU core:
BLEU 100.0 after 546 steps, 128 s, with the default model.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path

from transfer.compose import compose
from transfer.paths import local_data
from transfer.run import run

PAIRS = 200
LEAST = 60.0
DEFAULT = ["model=lstm_seq2seq", "model.config.dropout=0.0"]


def main() -> None:
    folder = local_data()
    if folder is None:
        sys.exit("TRANSFER_DATA names no folder with multi30k_en_de")
    with gzip.open(folder / "multi30k_en_de" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for _, line in zip(range(PAIRS), file, strict=False)]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "pairs.jsonl"
        path.write_text("\n".join(json.dumps(pair) for pair in pairs), encoding="utf-8")
        same = [f"target.data.files.{split}={path}" for split in ("train", "validation", "test")]
        begun = time.monotonic()
        record = run(
            compose(
                [
                    *same,
                    *["target.data.columns.text=source", "target.data.columns.label=target"],
                    *["task@target.task=translation", "target.task.options.num_beams=1", "stage=scratch"],
                    *["target.task.options.max_target_length=60", "scratch.max_epochs=60", "scratch.patience=10"],
                    *["model.scratch_lr=3e-3", "logger=none", "floors=false", "trainer=cpu"],
                    f"output_dir={temporary}/outputs",
                    *(sys.argv[1:] or DEFAULT),
                ]
            )
        )
    bleu = record["metrics"]["test/bleu"]
    print(f"BLEU {bleu:.1f} on {PAIRS} pairs after {record['metrics']['num_steps']:.0f} steps, ", end="")
    print(f"{time.monotonic() - begun:.0f} s")
    sys.exit(bleu <= LEAST)


if __name__ == "__main__":
    main()
