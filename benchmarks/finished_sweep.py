"""A sweep of 1,000 jobs that are all finished, started once more; and what a small job costs beside its training.

    python benchmarks/finished_sweep.py [--jobs 1000] [--folder FOLDER]

Of the 1,000 runs one is trained; the records of the others are copies of its record under their own fingerprints.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

RUN = ["experiment=linear_drift", "trainer=cpu", "trainer.precision=32", "logger=none", "floors=false"]
SMALL = {
    "linear": [*RUN, "scratch.max_epochs=3", "arm=scratch"],
    "tiny_bert": [
        "experiment=movies_to_products",
        *RUN[1:],
        "model=tiny_bert",
        "scratch.max_epochs=1",
        "target.data.train_size=50",
        "target.data.validation_size=50",
        "target.data.test_size=100",
        "arm=scratch",
    ],
}


def start(*arguments: str) -> tuple[float, str]:
    """Seconds and the log of `transfer ARGUMENTS`."""
    clock = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "transfer", *arguments], capture_output=True, text=True)
    seconds = time.monotonic() - clock
    assert done.returncode == 0, done.stderr
    return seconds, done.stderr


def fill(folder: Path, num_jobs: int) -> None:
    """The records of the sweep, each where the sweep looks for it."""
    from transfer import records
    from transfer.compose import compose
    from transfer.plan import make
    from transfer.run import run

    words = [*SMALL["linear"], f"output_dir={folder}"]
    config = compose([*words, "seed=0"])
    done = run(config)
    text = (Path(done["_folder"]) / records.RECORD).read_text()
    for seed in range(1, num_jobs):
        plan = make(replace(config, seed=seed, subset_seed=seed, init_seed=seed, order_seed=seed))
        plan.folder.mkdir(parents=True, exist_ok=True)
        (plan.folder / records.RECORD).write_text(text.replace(done["fingerprint"], plan.fingerprint))


def finished(folder: Path, num_jobs: int) -> None:
    sweep = ["run", "-m", *SMALL["linear"], f"output_dir={folder}"]
    for jobs in (1, num_jobs):
        for name in ("first start", "again", "again"):
            seconds, log = start(*sweep, f"seed=range(0,{jobs})")
            assert f"all {jobs} jobs are complete" in log, log
            print(f"{jobs:5} finished jobs, {name:11}: {seconds:.2f} s", flush=True)


# A sweep of six in this process: the wall clock of each job is the time between the records' ends.
JOBS = """
import sys, time
from transfer import cli, run
execute, walls = run.execute, []
def timed(plan, **options):
    clock = time.perf_counter()
    record = execute(plan, **options)
    walls.append((time.perf_counter() - clock, record["time"]["train_s"]))
    return record
run.execute = timed
sweeping = time.perf_counter()
try:
    cli.main(["run", "-m", *sys.argv[1:]])
except SystemExit:
    pass
took = time.perf_counter() - sweeping
for number, (wall, train) in enumerate(walls):
    print(f"    job {number}: {wall:.2f} s, of these {wall - train:.2f} s beside its training", file=sys.stderr)
print(f"    beside the jobs, for the whole sweep: {took - sum(wall for wall, _ in walls):.2f} s", file=sys.stderr)
"""


def overhead(folder: Path) -> None:
    for name, words in SMALL.items():
        print(f"a sweep of 6 small jobs, {name}:", flush=True)
        command = [sys.executable, "-c", JOBS, *words, "seed=range(0,6)", f"output_dir={folder / name}"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        print("\n".join(line for line in done.stderr.splitlines() if line.startswith("    ")), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the records are kept (default: a new temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="finished-sweep-"))
    if not (folder / "sweep").is_dir():
        fill(folder / "sweep", options.jobs)
    print(json.dumps({"folder": str(folder)}))
    finished(folder / "sweep", options.jobs)
    overhead(Path(tempfile.mkdtemp(prefix="small-jobs-", dir=folder)))


if __name__ == "__main__":
    main()
