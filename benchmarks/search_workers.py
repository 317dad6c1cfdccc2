"""A search with Optuna by two workers on one database, of which one is killed: is a trial lost or done twice?

    python benchmarks/search_workers.py [--storage sqlite:///FILE] [--trials 12] [--times 3]

Any database of SQLAlchemy will do, `postgresql+psycopg://USER:PASSWORD@HOST/NAME` for one; each time is a study of its
own in it. Ends with exit code 0 if after each time every trial that counts is complete, once, with a record of its own.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState

from transfer import records
from transfer.sweep import storage, trials

RUN = ["experiment=linear_drift", "arm=scratch", "scratch.max_epochs=60", "scratch.patience=60", "floors=false"]
QUIET = ["trainer=cpu", "trainer.precision=32", "logger=none", "trainer.checkpoint_every_s=0.05"]
SEARCH = ["sweep=optuna", "scratch.lr=tag(log,interval(1e-3,10))", "hydra.sweeper.sampler=random"]


def start(folder: Path, url: str, num_trials: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "transfer", "run", *SEARCH, *RUN, *QUIET, f"hydra.sweeper.num_trials={num_trials}"]
    command += ["hydra.sweeper.pruner=none", f"output_dir={folder}", f"hydra.sweeper.storage={url}"]
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen([*command, f"sweep_name={folder.name}"], stdout=log, stderr=log)


def once(folder: Path, url: str, num_trials: int, chance: random.Random) -> None:
    victim, survivor = start(folder, url, num_trials), start(folder, url, num_trials)
    while len(list(folder.glob("*/*/record.json"))) < 2:  # both are at work
        assert victim.poll() is None, folder.with_suffix(".log").read_text()[-2000:]
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1))
    victim.send_signal(signal.SIGKILL)
    killed, code = victim.wait(), survivor.wait()
    assert code == 0, folder.with_suffix(".log").read_text()[-2000:]
    assert start(folder, url, num_trials).wait() == 0, "the same command again"
    study = optuna.load_study(
        study_name=folder.name, storage=storage.open_storage(folder / ".sweeps" / folder.name), sampler=None
    )
    counted = trials.begun(study.trials)
    assert [trial.state for trial in counted] == [TrialState.COMPLETE] * num_trials, counted
    assert len({trial.params["scratch.lr"] for trial in counted}) == num_trials, "two trials with the same parameters"
    found = records.find(folder)
    assert [record["status"] for record in found] == ["complete"] * num_trials, [r["status"] for r in found]
    assert sorted(t.value for t in counted if t.value is not None) == sorted(r["monitor"]["best"] for r in found)
    left = len(study.trials) - num_trials
    print(f"  killed (exit {killed}): {num_trials} trials complete, {num_trials} records, {left} left and done over")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", help="default: a new SQLite file")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    root = Path(tempfile.mkdtemp(prefix="search-workers-"))
    url = options.storage or f"sqlite:///{root}/search.db"
    print(f"in {root}, storage {storage.masked(url)}")
    chance = random.Random(options.seed)
    for number in range(options.times):
        once(root / f"search-{root.name[-4:]}-{number}", url, options.trials, chance)


if __name__ == "__main__":
    main()
