"""What `transfer rank` takes for ten sources and a target of 2,000 labels, beside fine-tuning from one of them.

    python benchmarks/rank_time.py [--folder outputs] [--rows 2000]

The ten sources are trained first, briefly: it does not matter here how well. Then the ranking is made by the command,
once with nothing kept and twice more, and the first source is fine-tuned. Whatever is trained is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENT = "rank_sources_sentiment"
SOURCES = ["movies", "tweets", "editorials", "imdb", "sst2", "chn_hotel", "waimai"]
SOURCES += ["clinc150", "ohsumed", "pubmedqa"]
SMALL = ["source.data.train_size=400", "source.data.validation_size=100", "source.data.test_size=100"]


def start(*arguments: str) -> float:
    """Seconds of `transfer ARGUMENTS`, with Python's start and imports."""
    clock = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "transfer", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="outputs")
    parser.add_argument("--rows", type=int, default=2000)
    args = parser.parse_args()
    cache = tempfile.mkdtemp()
    words = [*SMALL, f"target.data.train_size={args.rows}", "logger=none", f"cache_dir={cache}"]
    kept = [f"output_dir={args.folder}"]
    try:
        run = ["run", "-m", f"experiment={EXPERIMENT}", *words, *kept]
        start(*run, "stage=pretrain", f"data@source.data={','.join(SOURCES)}")
        ranking = ["rank", EXPERIMENT, *words, "--sources", *SOURCES, "--output-dir", args.folder]
        cold, warm, again = (start(*ranking) for _ in range(3))
        tuning = start(*run, f"data@source.data={SOURCES[0]}", "arm=transfer", "test=false", "force=true")
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    best = min(warm, again)
    about = {"sources": len(SOURCES), "rows": args.rows, "cold_s": cold, "warm_s": [warm, again], "tuning_s": tuning}
    print(json.dumps(about, indent=1))
    print(
        f"ranking {len(SOURCES)} sources: {best:.1f} s; fine-tuning from one: {tuning:.1f} s; {best / tuning:.3f} of it"
    )
    file = Path(args.folder) / EXPERIMENT / "rank_time.json"
    file.write_text(json.dumps(about | {"ratio": best / tuning}, indent=1) + "\n", encoding="utf-8")
    print(file)


if __name__ == "__main__":
    main()
