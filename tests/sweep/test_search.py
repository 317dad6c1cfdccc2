"""`sweep=optuna`: spaces, samplers, pruning, storages, several processes; only the winner is tested."""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from tests.running import cli, files_below, start
from transfer import records
from transfer.sweep import storage, trials

LINE = ["experiment=linear_drift", "arm=scratch", "scratch.max_epochs=2", "scratch.warmup_steps=0", "floors=false"]
QUIET = ["trainer=cpu", "trainer.precision=32", "logger=none"]
LR = "scratch.lr=tag(log,interval(1e-3,10))"


@pytest.fixture
def search(tmp_path):
    """(overrides) -> what came of `transfer run sweep=optuna` on a line, in this process."""

    def run(*overrides, code=0, out=tmp_path / "outputs"):
        outcome = cli("run", "sweep=optuna", *LINE, *QUIET, f"output_dir={out}", *overrides)
        assert outcome.code == code, outcome.out + outcome.err
        return outcome

    return run


def study_of(outputs):
    """The one search below these outputs."""
    (folder,) = (outputs / ".sweeps").iterdir()
    return optuna.load_study(study_name=folder.name, storage=storage.open_storage(folder)), folder


def value(record):
    return record["monitor"]["best"]


def test_mistakes_of_the_command_line_are_told_before_anything_is_written(search, tmp_path):
    outcome = search(LR, "hydra.sweeper.sampler=grid", "hydra.sweeper.num_trials=0", code=2)
    for words in ("scratch.lr\n    received: FloatDistribution", "hydra.sweeper.num_trials\n    received: 0"):
        assert words in outcome.err
    assert "at least one KEY" in search(code=2).err
    assert not (tmp_path / "outputs").exists()


# --- a search


SAMPLERS = {
    "tpe": [LR, "hydra.sweeper.sampler_options.n_startup_trials=1", "hydra.sweeper.num_trials=3"],
    "random": [LR, "hydra.sweeper.num_trials=2"],
    "grid": ["scratch.lr=0.1,5", "scratch.weight_decay=range(0,0.3,0.2)"],
    "cmaes": [LR, "scratch.weight_decay=interval(0,0.1)", "hydra.sweeper.num_trials=3"],
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler, search, tmp_path):
    if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        pytest.skip("the package cmaes is not installed")
    options = [f"hydra.sweeper.sampler={sampler}", *SAMPLERS[sampler]]
    outcome = search(*options)
    study, folder = study_of(tmp_path / "outputs")
    found = records.find(tmp_path / "outputs")
    wanted = {"grid": 4, "random": 2, "cmaes": 3, "tpe": 3}[sampler]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * wanted
    assert len({json.dumps(trial.params) for trial in study.trials}) == wanted
    assert sorted(trial.value for trial in study.trials) == sorted(value(record) for record in found)

    winner = min(found, key=value)
    assert study.best_value == value(winner)
    assert [record["run_id"] for record in found if records.tested(record)] == [winner["run_id"]]
    assert [path.parent.name for path in folder.parents[1].glob("*/*/predictions.parquet")] == [winner["run_id"]]
    assert winner["config"]["scratch"]["lr"] == float(study.best_params["scratch.lr"])
    assert not any(
        name.startswith(("test", "floor")) for record in found if record != winner for name in record["metrics"]
    )

    test_mse = winner["metrics"]["test/mse"]
    assert f"val/mse       {study.best_value:.6g}\n  test/mse      {test_mse:.6g}\n" in outcome.out
    (again,) = re.findall(r"again +transfer run (.*)", outcome.out)
    assert "sweep" not in again
    assert f"scratch.lr={study.best_params['scratch.lr']} " in again
    if sampler == "grid":
        rerun = cli("run", *again.split())
        assert f"test/mse {test_mse:.4f}" in rerun.out
        assert "nothing to train" in rerun.err
        combinations = {(t.params["scratch.lr"], t.params["scratch.weight_decay"]) for t in study.trials}
        assert combinations == {*itertools.product(("0.1", "5"), (0.0, 0.2))}


def test_again_more_and_something_else(search, tmp_path):
    """The same call trains nothing; a larger number of trials goes on; another space gets a search of its own."""
    outputs = tmp_path / "outputs"
    first = search(LR, "hydra.sweeper.num_trials=2", "sweep_name=mine")
    before = {name: text for name, text in files_below(outputs).items() if not name.startswith(".")}
    for picture in ("history.png", "importance.png"):
        assert (outputs / ".sweeps" / "mine" / picture).read_bytes().startswith(b"\x89PNG")
    again = search(LR, "hydra.sweeper.num_trials=2", "sweep_name=mine")
    assert {name: text for name, text in files_below(outputs).items() if not name.startswith(".")} == before
    assert again.out == first.out[first.out.index("mine: ") :]
    assert "best weights" not in again.err

    search(LR, "hydra.sweeper.num_trials=3", "sweep_name=mine")
    study, _ = study_of(outputs)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    tested = [record for record in records.find(outputs) if records.tested(record)]
    assert min(map(value, records.find(outputs))) in map(value, tested)

    other = search("scratch.lr=interval(1,2)", "sweep_name=mine", code=2)
    assert "sweep_name\n    received: mine" in other.err
    assert "force\n    received: True" in search(LR, "sweep_name=mine", "force=true", code=2).err
    listed = cli("runs", "--sweep", "mine", "--output-dir", outputs)
    assert "3 complete" in listed.out


def test_hopeless_runs_are_pruned(search, tmp_path):
    options = ["scratch.max_epochs=5", "hydra.sweeper.sampler=grid", "scratch.lr=1,0.5,1e-6"]
    outcome = search(*options, "hydra.sweeper.pruner_options.n_startup_trials=2", "seed=0,1")
    study, folder = study_of(tmp_path / "outputs")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    assert [*study.trials[0].intermediate_values] == [1, 2, 3, 4, 5], "steps are epochs"
    hopeless = study.trials[2]
    assert len(hopeless.intermediate_values) < 5
    (pruned,) = (record for record in records.find(tmp_path / "outputs") if record["status"] != "complete")
    assert pruned["status"] == "interrupted"
    assert re.fullmatch(r"pruned after epoch \d, at step \d", pruned["error"])
    assert pruned["seed"] == 0
    assert len(records.find(tmp_path / "outputs")) == 5, "its other replicate was never begun"
    assert not list(folder.parents[1].glob("*/*/checkpoints"))
    assert "2 complete, 1 pruned" in outcome.out

    for trial, first in zip(study.trials[:2], (0, 2), strict=True):
        jobs = json.loads((folder / "sweep.json").read_text())["jobs"][first : first + 2]
        values = [value(records.lookup(tmp_path / "outputs", job["fingerprint"])[0]) for job in jobs]
        assert values[0] != values[1]
        assert trial.value == pytest.approx(sum(values) / 2)
    assert "(mean over seeds; 0: " in outcome.out
    assert sum(records.tested(record) for record in records.find(tmp_path / "outputs")) == 2, "the winner's replicates"
    compared = cli("compare", "linear_drift", "--output-dir", tmp_path / "outputs")
    assert compared.code == 2, "runs of one arm only; those of the search do not stand in the way"


def test_a_failing_trial_does_not_stop_the_others(search, tmp_path):
    options = [
        "scratch.lr=-1,0.1,lots,1e30",
        "hydra.sweeper.sampler=grid",
        "optimizer=sgd",
        "trainer.gradient_clip_val=null",
    ]
    outcome = search(*options, code=1)
    study, _ = study_of(tmp_path / "outputs")
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert "is trial 1\n  scratch.lr=0.1\n" in outcome.out
    assert "1 of 4 trials are complete, 3 failed" in outcome.err
    assert "scratch.lr received: -1.0 allowed: a number above 0" in outcome.err
    assert "scratch.lr received: lots" in outcome.err
    assert "val/mse is not a number" in outcome.err
    assert "best weights" not in search(*options, code=1).err


def test_when_everything_is_wrong_it_is_the_users_mistake(search):
    outcome = search("scratch.lr=-1,-2", "hydra.sweeper.sampler=grid", code=2)
    assert outcome.err.count("allowed:  a number above 0") == 2


# --- several processes


@pytest.mark.cluster
def test_a_killed_worker_loses_nothing(tmp_path):
    """Two processes on one database; one is killed in the middle of a trial, then the command is given once more."""
    outputs, database = tmp_path / "outputs", tmp_path / "search.db"
    command = ["sweep=optuna", *LINE, *QUIET, LR, "scratch.max_epochs=60", "hydra.sweeper.num_trials=6"]
    command += ["hydra.sweeper.pruner_options.n_startup_trials=100", "hydra.sweeper.sampler=random"]
    command += [f"output_dir={outputs}", f"hydra.sweeper.storage=sqlite:///{database}"]
    victim = start("run", *command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _wait(lambda: _reports(database, 0) > 0, victim)

    def in_mid_trial():
        """The number of a trial of the victim that has reported, while this process is at another one."""
        holders = {int(lock.stem): _holders(lock) for lock in outputs.glob(".sweeps/*/trials/*.lock")}
        mine = any(str(os.getpid()) in pids for pids in holders.values())
        of_victim = [number for number, pids in holders.items() if str(victim.pid) in pids]
        return of_victim if mine and of_victim and 2 < _reports(database, of_victim[0]) < 50 else None

    with ThreadPoolExecutor(1) as watcher:
        killed = watcher.submit(lambda: (_wait(in_mid_trial, victim), victim.kill())[0])
        survivor = cli("run", *command)
        (left,) = killed.result(timeout=60)
    assert victim.wait(timeout=60) == -signal.SIGKILL
    victim.communicate()
    again = cli("run", *command)
    assert (survivor.code, again.code) == (0, 0), survivor.err
    assert "best weights" not in again.err
    assert survivor.out.endswith(again.out)
    assert ": the best of 6 trials (6 complete)" in again.out

    study, folder = study_of(outputs)
    told = [file.read_text() for file in folder.glob("jobs/*.yaml")]
    assert told
    assert not any("sqlite" in text for text in told), "a URL may hold a password"
    assert not (folder / "journal.log").exists()
    counted = trials.begun(study.trials)
    assert [trial.state for trial in counted] == [TrialState.COMPLETE] * 6
    assert len({trial.params["scratch.lr"] for trial in counted}) == 6
    assert study.trials[left].state is TrialState.FAIL
    (successor,) = (trial for trial in counted if trial.user_attrs.get(trials.REPLACES) == left)
    assert successor.params == study.trials[left].params
    assert len(study.trials) == 7
    found = records.find(outputs)
    assert [record["status"] for record in found] == ["complete"] * 6
    assert sum(records.tested(record) for record in found) == 1


def _wait(condition, process):
    """What the condition gives, as soon as it is anything."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _reports(database, number):
    """How many epochs of a trial are in the database."""
    if not database.is_file():
        return 0
    query = "select count(*) from trial_intermediate_values join trials using (trial_id) where number = ?"
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        try:
            return connection.execute(query, [number]).fetchone()[0]
        except sqlite3.OperationalError:  # the tables are being made
            return 0


def _holders(lock):
    """Process ids that have a lock on this file, as the kernel lists them."""
    inode = lock.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return [fields[4] for line in lines if (fields := line.split()) and fields[5].endswith(f":{inode}")]


def test_left_trials_are_taken_up_once_and_those_of_others_never(tmp_path):
    def opened(name):
        (tmp_path / name).mkdir(exist_ok=True)
        study = optuna.create_study(
            study_name="s", storage=f"sqlite:///{tmp_path}/s.db", load_if_exists=True, direction="minimize"
        )
        sampling = trials.Sampling("random", {}, 0, optuna.pruners.NopPruner())
        return trials.Trials(study, tmp_path / name, {"x": FloatDistribution(0, 1)}, sampling)

    ours, elsewhere = opened("here"), opened("there")
    first, second = ours.ask(2, num_trials=5)
    (third,) = elsewhere.ask(1, num_trials=5)
    assert len({first.params["x"], second.params["x"], third.params["x"]}) == 3, "no two draw the same"
    ours.tell(second, values=[1.0, 3.0])
    ours.release()
    elsewhere.release()

    heirs = [opened("here") for _ in range(2)]
    with heirs[0].turn:
        heirs[0].reclaim()
    with heirs[1].turn:
        heirs[1].reclaim()
    states = [trial.state for trial in ours.study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING]
    assert heirs[0].running_elsewhere() == ([], [2])
    asked = [*heirs[0].ask(1, num_trials=5), *heirs[1].ask(9, num_trials=5)]
    assert [trial.number for trial in asked] == [3, 4, 5], "five are begun: 1 to 5, for 3 is in the place of 0"
    assert asked[0].params == first.params
    assert ours.study.best_value == 2.0
