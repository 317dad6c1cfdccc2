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
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tests.running import cli, files_below, start
from transfer import records
from transfer.compose import compose
from transfer.errors import UserError
from transfer.sweep import space, storage, trials
from transfer.sweep.settings import Settings

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


# --- the space


SPACES = {
    "optimizer.lr=interval(0.1,2)": FloatDistribution(0.1, 2.0),
    "optimizer.lr=tag(log,interval(1e-5,1e-2))": FloatDistribution(1e-5, 1e-2, log=True),
    "target.budget.batch_size=int(interval(4,64))": IntDistribution(4, 64),
    "target.budget.batch_size=int(tag(log,interval(4,64)))": IntDistribution(4, 64, log=True),
    "freezing.k=range(1,8,2)": IntDistribution(1, 7, step=2),
    "weights.min_fraction_loaded=range(0.1,0.5,0.1)": FloatDistribution(0.1, 0.4, step=0.1),
    "optimizer=adamw,sgd": CategoricalDistribution(("adamw", "sgd")),
    "scratch.lr=choice(0.1,2)": CategoricalDistribution(("0.1", "2")),
    "freezing.patterns=shuffle(['a.*'],['b','c'])": CategoricalDistribution(("['a.*']", "['b','c']")),
    "++model.config.hidden_size=8,16": CategoricalDistribution(("8", "16")),
}


@pytest.mark.parametrize("typed", SPACES)
def test_sweep_syntax_is_the_space(typed):
    key, _, syntax = typed.partition("=")
    found = space.read(OverridesParser.create(), {}, [typed, "arm=scratch"], "seed")
    assert found.distributions == {key.lstrip("+"): SPACES[typed]}
    assert found.fixed == ("arm=scratch",)
    from_file = space.read(OverridesParser.create(), {key.lstrip("+"): syntax}, ["arm=scratch"], "seed")
    assert from_file == found


def test_the_command_line_comes_before_the_file():
    file = {"scratch.lr": "interval(0,1)", "scratch.patience": "3,5", "scratch.max_epochs": 7}
    found = space.read(OverridesParser.create(), file, ["scratch.lr=0.5", "seed=0,1"], "seed")
    assert [*found.axes] == ["scratch.patience"]
    assert found.fixed == ("scratch.max_epochs=7", "scratch.lr=0.5")
    assert found.seeds == (0, 1)
    assert found.overrides({"scratch.patience": "5"}) == ["scratch.patience=5"]


def test_steps_leave_no_dust_on_a_number():
    found = space.read(OverridesParser.create(), {}, ["scratch.lr=range(0.1,0.5,0.1)"], "seed")
    assert found.overrides({"scratch.lr": 0.1 + 2 * 0.1}) == ["scratch.lr=0.3"]


# overrides -> key, part of what is allowed
MISTAKES = {
    "": ("hydra.sweeper.params", "at least one KEY=interval(LOW,HIGH)"),
    "scratch.lr=interval(2,1)": ("scratch.lr", "LOW below HIGH"),
    "scratch.lr=tag(log,interval(0,1))": ("scratch.lr", "begins above 0"),
    "scratch.lr=tag(lgo,interval(1,2))": ("scratch.lr", "the tag log"),
    "scratch.lr=tag(log,range(1,9,2))": ("scratch.lr", "step 1"),
    "scratch.lr=range(3,3)": ("scratch.lr", "at least one value"),
    "optimizer=tag(log,choice(adam,sgd))": ("optimizer", "around interval(..)"),
    "scratch.lr=1,2 seed=interval(0,3)": ("seed", "whole numbers"),
    "scratch.lr=1,2 seed=0.5,1": ("seed", "whole numbers"),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_spaces_that_cannot_be_searched(typed):
    with pytest.raises(UserError) as caught:
        space.read(OverridesParser.create(), {}, typed.split(), "seed")
    (problem,) = caught.value.problems
    key, allowed = MISTAKES[typed]
    assert problem.key == key
    assert allowed in problem.allowed


SETTINGS = [
    (LR, {"sampler": "tpee"}, "hydra.sweeper.sampler", "did you mean tpe?"),
    (LR, {"sampler": "grid"}, "scratch.lr", "scratch.lr=range(FROM,TO,STEP)"),
    (LR, {"sampler": "cmaes"}, "hydra.sweeper.sampler", "tpe searches any space"),
    (LR, {"sampler_options": {"n_startup": 1}}, "hydra.sweeper.sampler_options.n_startup", "did you mean n_startup_tr"),
    (LR, {"pruner": "medain"}, "hydra.sweeper.pruner", "did you mean median?"),
    (LR, {"pruner_options": {"n_startup_trials": -1}}, "hydra.sweeper.pruner_options", "negative"),
    (LR, {"pruner": "none", "pruner_options": {"x": 1}}, "hydra.sweeper.pruner_options.x", ""),
    (LR, {"num_trials": 0}, "hydra.sweeper.num_trials", ""),
    (LR, {"num_trials": "many"}, "hydra.sweeper.num_trials", ""),
    (LR, {"parallel": 0.5}, "hydra.sweeper.parallel", ""),
    (LR, {"sampler_seed": -1}, "hydra.sweeper.sampler_seed", ""),
    (LR, {"seeds": []}, "hydra.sweeper.seeds", "[0,1,2]"),
    (LR, {"seeds": [0, 0]}, "hydra.sweeper.seeds", ""),
    (LR, {"storage": "nothing"}, "hydra.sweeper.storage", ""),
    (f"{LR} seed=0,1", {"seeds": [2]}, "hydra.sweeper.seeds", "leave one out"),
]


@pytest.mark.parametrize(("typed", "settings", "key", "action"), SETTINGS)
def test_wrong_settings(typed, settings, key, action):
    found = space.read(OverridesParser.create(), {}, typed.split(), "seed")
    Settings().check(found)
    with pytest.raises(UserError) as caught:
        Settings(**settings).check(found)
    mine = [problem for problem in caught.value.problems if problem.key == key]
    assert mine, caught.value
    assert any(action in problem.action for problem in mine)


def test_mistakes_of_the_command_line_are_told_before_anything_is_written(search, tmp_path):
    outcome = search(LR, "hydra.sweeper.sampler=grid", "hydra.sweeper.num_trials=0", code=2)
    for words in ("scratch.lr\n    received: FloatDistribution", "hydra.sweeper.num_trials\n    received: 0"):
        assert words in outcome.err
    assert "at least one KEY" in search(code=2).err
    assert not (tmp_path / "outputs").exists()


# --- a search


SAMPLERS = {
    "tpe": [LR, "hydra.sweeper.sampler_options.n_startup_trials=1", "hydra.sweeper.num_trials=3"],
    "random": [LR, "hydra.sweeper.num_trials=2", "hydra.sweeper.storage=sqlite:///{}/search.db"],
    "grid": ["scratch.lr=0.1,5", "scratch.weight_decay=range(0,0.3,0.2)"],
    "cmaes": [LR, "scratch.weight_decay=interval(0,0.1)", "hydra.sweeper.num_trials=3"],
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler, search, tmp_path):
    if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        pytest.skip("the package cmaes is not installed")
    options = [f"hydra.sweeper.sampler={sampler}", *(option.format(tmp_path) for option in SAMPLERS[sampler])]
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
    if sampler == "random":
        assert (tmp_path / "search.db").is_file()
        assert not (folder / "journal.log").exists()


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
    moved = search(LR, "sweep_name=mine", f"hydra.sweeper.storage=sqlite:///{tmp_path}/x.db", code=2)
    assert "where this search was begun" in moved.err
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


def test_hyperband_knows_how_long_a_run_is():
    found = space.read(OverridesParser.create(), {}, [LR], "seed")
    settings = Settings(pruner="hyperband", pruner_options={"reduction_factor": 2})
    settings.check(found)
    settings.sampling(found, 9)
    assert settings.pruner_options == {"reduction_factor": 2, "max_resource": 9}, "what the jobs are told"


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


def test_a_killed_worker_loses_nothing(tmp_path):
    """Two processes on one database; one is killed in the middle of a trial, then the command is given once more."""
    outputs, database = tmp_path / "outputs", tmp_path / "search.db"
    command = ["sweep=optuna", *LINE, *QUIET, LR, "scratch.max_epochs=20", "hydra.sweeper.num_trials=4"]
    command += ["hydra.sweeper.pruner_options.n_startup_trials=100", "hydra.sweeper.sampler=random"]
    command += [f"output_dir={outputs}", f"hydra.sweeper.storage=sqlite:///{database}"]
    victim = start("run", *command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _wait(lambda: _reports(database, 0) > 0, victim)

    def in_mid_trial():
        """The number of a trial of the victim that has reported, while this process is at another one."""
        holders = {int(lock.stem): _holders(lock) for lock in outputs.glob(".sweeps/*/trials/*.lock")}
        mine = any(str(os.getpid()) in pids for pids in holders.values())
        of_victim = [number for number, pids in holders.items() if str(victim.pid) in pids]
        return of_victim if mine and of_victim and 2 < _reports(database, of_victim[0]) < 18 else None

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
    assert ": the best of 4 trials (4 complete)" in again.out

    study, _ = study_of(outputs)
    counted = trials.begun(study.trials)
    assert [trial.state for trial in counted] == [TrialState.COMPLETE] * 4
    assert len({trial.params["scratch.lr"] for trial in counted}) == 4
    assert study.trials[left].state is TrialState.FAIL
    (successor,) = (trial for trial in counted if trial.user_attrs.get(trials.REPLACES) == left)
    assert successor.params == study.trials[left].params
    assert len(study.trials) == 5
    found = records.find(outputs)
    assert [record["status"] for record in found] == ["complete"] * 4
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


def test_the_password_of_a_database_stays_in_the_sweeps_folder(tmp_path):
    storage.choose(tmp_path, "postgresql://me:secret@nowhere.invalid/db")
    assert (tmp_path / storage.URL).stat().st_mode & 0o077 == 0
    storage.choose(tmp_path, "postgresql://me:changed@nowhere.invalid/db")
    with pytest.raises(UserError) as caught:
        storage.open_storage(tmp_path)
    assert "secret" not in str(caught.value)
    assert "changed" not in str(caught.value)


# --- the test split, later


@pytest.mark.parametrize("arm", ["scratch", "transfer"])
def test_tested_later_is_tested_as_at_once(arm, tmp_path):
    budget = ["source.budget.max_epochs=1", "target.budget.max_epochs=2", "scratch.max_epochs=5"]
    run = ["run", "experiment=linear_drift", f"arm={arm}", *budget, *QUIET, "scratch.lr=0.5"]
    at_once = cli(*run, f"output_dir={tmp_path / 'once'}")
    later = [*run, f"output_dir={tmp_path / 'later'}"]
    cli(*later, "test=false")
    (untested,) = records.find(tmp_path / "later", "linear_drift")[: 1 if arm == "scratch" else None][:1]
    assert not records.tested(untested)
    assert not list((tmp_path / "later").glob("*/*/predictions.parquet"))
    weights = Path(untested["_folder"]) / "model" / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    cli(*later, "test=false")
    assert not records.tested(records.read(Path(untested["_folder"])))
    cli(*later)
    (expected,) = (r for r in records.find(tmp_path / "once") if r["arm"] == arm)
    (found,) = (r for r in records.find(tmp_path / "later") if r["arm"] == arm)
    assert at_once.code == 0
    assert found["metrics"] == expected["metrics"]
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["config"] | {"output_dir": ""} == expected["config"] | {"output_dir": ""}
    tables = [pd.read_parquet(Path(r["_folder"]) / "predictions.parquet") for r in (found, expected)]
    pd.testing.assert_frame_equal(*tables)
    assert weights.stat().st_mtime_ns == stamp
    names = [sorted(path.name for path in Path(r["_folder"]).iterdir()) for r in (found, expected)]
    assert names[0] == names[1]
    if arm == "scratch":
        assert found["metrics"]["test_equal_steps/mse"] != found["metrics"]["test/mse"]
        assert any(name.startswith("floor_") for name in found["metrics"])


def test_without_its_weights_a_run_cannot_be_tested_later(tmp_path):
    run = ["run", *LINE, *QUIET, f"output_dir={tmp_path / 'outputs'}"]
    cli(*run, "test=false")
    (record,) = records.find(tmp_path / "outputs")
    (Path(record["_folder"]) / "model" / "model.safetensors").unlink()
    outcome = cli(*run)
    assert outcome.code == 2
    assert "force=true trains it again" in outcome.err
    assert cli(*run, "force=true").code == 0


def test_what_belongs_to_the_call_is_not_in_the_identity(tmp_path):
    from transfer import plan

    first = plan.make(compose([*LINE, *QUIET]))
    assert plan.make(compose([*LINE, *QUIET, "test=false"])).fingerprint == first.fingerprint
