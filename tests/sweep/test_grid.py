"""Sweeps: every combination once, frozen at the start, gone on with after anything, with a ledger that says it all."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.running import cli, start
from transfer import records
from transfer.sweep import ledger as ledgers

LINE = ["experiment=linear_drift", "trainer=cpu", "trainer.precision=32", "logger=none", "floors=false"]
SHORT = ["scratch.max_epochs=3", "target.budget.max_epochs=2", "source.budget.max_epochs=2"]


def sweep(folder, *overrides):
    return cli("run", *LINE, *SHORT, f"output_dir={folder}", *overrides)


def metrics(folder):
    """Run folder's name -> test metrics of every complete record."""
    found = records.find(folder)
    return {Path(r["_folder"]).name: r["metrics"] for r in found if r["status"] == "complete"}


def started(folder):
    return {Path(r["_folder"]).name: r["time"]["started"] for r in records.find(folder)}


def test_axes_compose_and_the_command_line_has_the_last_word(tmp_path):
    outcome = sweep(tmp_path, "sweep=[arms,seeds]", "seed=0,1", "arm=transfer,scratch")
    assert outcome.code == 0, outcome.err
    arms = sorted((r["arm"], r["seed"]) for r in records.find(tmp_path) if r["arm"])
    assert arms == [("scratch", 0), ("scratch", 1), ("transfer", 0), ("transfer", 1)]
    (name,) = ledgers.names(tmp_path)
    ledger = ledgers.read(tmp_path, name)
    assert ledger.counts() == {"complete": 4}
    shown = cli("runs", "--output-dir", tmp_path, "--sweep", "linear")
    assert shown.code == 0
    assert shown.out.count("complete") == 5  # four jobs and the count


def test_again_trains_nothing_and_makes_no_second_ledger(tmp_path):
    assert sweep(tmp_path, "-m", "arm=scratch", "seed=0,1").code == 0
    before = started(tmp_path)
    outcome = sweep(tmp_path, "-m", "arm=scratch", "seed=0,1")
    assert outcome.code == 0
    assert "all 2 jobs are complete" in outcome.err
    assert started(tmp_path) == before
    assert len(ledgers.names(tmp_path)) == 1


def test_a_job_that_is_wrong_does_not_stop_the_others(tmp_path):
    outcome = sweep(tmp_path, "-m", "arm=scratch,direct", "target.data.train_size=8,100000")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "1 of 4 jobs are complete, 3 are not" in outcome.err
    assert "target.data.train_size" in outcome.err
    ledger = ledgers.read(tmp_path, ledgers.names(tmp_path)[0])
    assert ledger.counts() == {"complete": 1, "failed": 3}
    errors = {" ".join(job.overrides): ledger.error(job) for job in ledger.jobs}
    assert sum("published weights" in error for error in errors.values()) == 2


def test_where_every_job_is_the_users_mistake_the_code_is_2(tmp_path):
    outcome = sweep(tmp_path, "-m", "arm=scratch", "target.data.train_size=100000,200000")
    assert outcome.code == 2
    assert outcome.err.count("received:") == 2


def test_a_failure_in_training_is_recorded_and_tried_again(tmp_path, monkeypatch):
    from transfer.module import TransferModule

    step = TransferModule.training_step
    with monkeypatch.context() as patch:

        def broken(self, batch, batch_idx):
            if self.plan.seed == 1:
                raise RuntimeError("the machine is on fire")
            return step(self, batch, batch_idx)

        patch.setattr(TransferModule, "training_step", broken)
        outcome = sweep(tmp_path, "-m", "arm=scratch", "seed=0,1,2")
    assert outcome.code == 1
    assert "the machine is on fire" in outcome.err
    (failed,) = [r for r in records.find(tmp_path) if r["status"] == "failed"]
    assert failed["seed"] == 1
    assert "on fire" in failed["error"]
    before = started(tmp_path)
    assert sweep(tmp_path, "-m", "arm=scratch", "seed=0,1,2").code == 0
    again = {name for name, moment in started(tmp_path).items() if before[name] != moment}
    assert again == {Path(failed["_folder"]).name}


def test_the_sweep_is_frozen_at_its_start(tmp_path, monkeypatch):
    """A YAML that changes while the first job runs changes nothing for the second."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    shipped = Path(__file__).parents[2] / "experiments" / "linear_drift.yaml"
    own = tmp_path / "experiments" / "linear_drift.yaml"
    shutil.copy(shipped, own)
    from transfer import run as running

    execute, seen = running.execute, []

    def edits(plan, **options):
        own.write_text(own.read_text().replace("train_size: 8", "train_size: 16"))
        seen.append(plan.data.train_size)
        return execute(plan, **options)

    monkeypatch.setattr(running, "execute", edits)
    assert sweep(tmp_path / "out", "-m", "arm=scratch", "seed=0,1").code == 0
    assert seen == [8, 8]
    assert {r["train_size"] for r in records.find(tmp_path / "out")} == {8}


@pytest.mark.cluster
@pytest.mark.parametrize("times", [3])
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(tmp_path, times):
    axes = ["-m", "arm=transfer,scratch", "seed=0,1,2", "target.data.train_size=8,16"]
    assert sweep(tmp_path / "calm", *axes).code == 0
    chance = random.Random(0)
    arguments = ["run", *LINE, *SHORT, f"output_dir={tmp_path / 'killed'}", "trainer.checkpoint_every_s=0.05", *axes]
    for _ in range(times):
        going = start(*arguments)
        deadline = time.monotonic() + 120
        had = len(metrics(tmp_path / "killed"))
        while len(metrics(tmp_path / "killed")) < had + 2 and going.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.random() * 0.5)
        going.send_signal(signal.SIGKILL)
        going.communicate()
    assert sweep(tmp_path / "killed", "trainer.checkpoint_every_s=0.05", *axes).code == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "calm")
    folders = {path.name for path in (tmp_path / "killed" / "linear_drift").iterdir()}
    assert folders == {path.name for path in (tmp_path / "calm" / "linear_drift").iterdir()}
    assert not list((tmp_path / "killed").rglob("*.ckpt"))


@pytest.mark.cluster
def test_two_identical_sweeps_at_once_train_nothing_twice(tmp_path):
    arguments = ["run", *LINE, *SHORT, f"output_dir={tmp_path}", "-m", "arm=transfer,scratch", "seed=0,1"]
    both = [start(*arguments) for _ in range(2)]
    texts = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    trained = [line for _, err in texts for line in err.splitlines() if line.startswith("best weights")]
    assert len(trained) == 5  # four targets and their one source
    assert len(metrics(tmp_path)) == 5


def test_the_ledger_holds_each_jobs_config(tmp_path):
    assert sweep(tmp_path, "-m", "arm=scratch", "seed=3,4", "sweep_name=mine").code == 0
    folder = tmp_path / ".sweeps" / "mine"
    plain = json.loads((folder / "sweep.json").read_text())
    assert [job["number"] for job in plain["jobs"]] == [0, 1]
    assert "seed: 4" in (folder / "jobs" / "0001.yaml").read_text()
    again = ledgers.Ledger("mine2", tmp_path, ["seed=5"], "9", [])
    again.write({})
    newest = cli("runs", "--output-dir", tmp_path, "--sweep", "min")
    assert (newest.code, newest.out.split()[0]) == (0, "mine2")
    assert newest.out.endswith("Earlier: mine\n")
    assert cli("runs", "--output-dir", tmp_path, "--sweep", "mine").out.startswith("mine  started")
    unknown = cli("runs", "--output-dir", tmp_path, "--sweep", "mein")
    assert unknown.code == 2
    assert "did you mean mine?" in unknown.err
