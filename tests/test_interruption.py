"""Told to stop, a run leaves a checkpoint at once; a SLURM job is queued again and goes on as if nothing had been."""

import os
import signal
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from tests.running import cli, record_of, start
from transfer import interruption, records
from transfer.checkpoints import LAST
from transfer.interruption import Interrupted

LINE = ["run", "experiment=linear_drift", "arm=scratch", "trainer=cpu", "trainer.precision=32", "floors=false"]
# Each step is in the log, which is written every hundred of them, and no checkpoint but the one that is asked for.
STEPS_PER_EPOCH = 280
STEPS = [f"target.data.train_size={STEPS_PER_EPOCH}", "target.budget.batch_size=1", "trainer.log_every_n_steps=1"]
STEPS += ["scratch.max_epochs=2", "scratch.min_steps=0", "trainer.checkpoint_every_s=3600"]


SLURM = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "sweep"}


@pytest.fixture
def scontrol(tmp_path):
    """A stand-in for SLURM's command: the environment with it, and the file where it writes its arguments."""
    folder, said = tmp_path / "bin", tmp_path / "scontrol.txt"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    (folder / "scontrol").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}, said


def stop(arguments, how, environment):
    """Start a run, tell it to stop in mid-training as SLURM does; its exit code and what it said."""
    outputs = Path(next(a for a in arguments if a.startswith("output_dir=")).partition("=")[2])
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = start(*arguments, env=env)
    deadline = time.monotonic() + 300
    while not any(path.read_text().count("\n") > 50 for path in outputs.glob("*/*/metrics.csv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    # All processes of a step are sent it: those of W&B, those from which others are forked.
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.send_signal(how)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return record_of(cli(*LINE, *STEPS, "logger=none", f"output_dir={tmp_path_factory.mktemp('undisturbed')}").out)


@pytest.mark.cluster
def test_a_slurm_job_that_is_warned_goes_on_after_it(tmp_path, scontrol, monkeypatch, undisturbed):
    environment, said = scontrol
    arguments = [*LINE, *STEPS, "logger=wandb", f"output_dir={tmp_path / 'out'}"]
    code, err = stop(arguments, signal.SIGUSR1, {**environment, **SLURM, "WANDB_MODE": "offline"})
    assert code == 130
    (last,) = (tmp_path / "out").glob(f"*/*/{LAST}")
    folder = last.parent.parent
    step = torch.load(last, weights_only=False)["global_step"]
    assert 0 < step < STEPS_PER_EPOCH, "in the middle of an epoch"
    assert f"told to stop (SIGUSR1): {last} holds step {step}" in err
    assert records.read(folder)["status"] == "interrupted"
    assert said.read_text() == "requeue 4242\n"

    monkeypatch.setenv("WANDB_MODE", "offline")
    again = cli(*arguments)
    assert f"going on from {last}" in again.err
    record = record_of(again.out)
    assert record["fingerprint"] == undisturbed["fingerprint"]
    assert record["metrics"] == undisturbed["metrics"]
    assert losses(record) == losses(undisturbed)
    assert [step for step, _ in losses(record)] == list(range(2 * STEPS_PER_EPOCH))
    tracked = sorted(path.name for path in folder.glob("wandb/offline-run-*"))
    assert len(tracked) == 2
    assert {name.rpartition("-")[2] for name in tracked} == {record["fingerprint"]}


def losses(record):
    table = pd.read_csv(Path(record["_folder"]) / "metrics.csv")[["step", "train/loss"]].dropna()
    return list(table.itertuples(index=False, name=None))


@pytest.mark.cluster
def test_all_processes_of_a_run_stop_at_one_step(tmp_path, scontrol, undisturbed):
    """After SIGTERM the job is not queued again: it was cancelled, or preempted, and then SLURM requeues by itself."""
    environment, said = scontrol
    arguments = [*LINE, *STEPS, "logger=none", f"output_dir={tmp_path / 'out'}"]
    # Each process has one example at a time, and each step two.
    two = ["trainer=ddp_cpu", "target.budget.batch_size=2", "scratch.max_epochs=4"]
    code, err = stop([*arguments, *two], signal.SIGTERM, {**environment, **SLURM})
    assert code == 130, err
    (last,) = (tmp_path / "out").glob(f"*/*/{LAST}")
    assert err.count("told to stop (SIGTERM)") == 1, "the first process says it"
    assert "Traceback" not in err
    assert records.read(last.parent.parent)["status"] == "interrupted"
    assert not said.exists()
    again = cli(*arguments, *two[1:])
    assert f"going on from {last}" in again.err
    twin = record_of(cli(*arguments, *two[1:], f"output_dir={tmp_path / 'twin'}").out)
    record = record_of(again.out)
    assert record["metrics"] == pytest.approx(twin["metrics"], rel=1e-4)
    assert [step for step, _ in losses(record)] == [step for step, _ in losses(twin)]


def test_the_task_of_an_array_is_requeued_by_its_own_number(scontrol, monkeypatch):
    environment, said = scontrol
    for name, value in {**environment, "SLURM_JOB_ID": "99", "SLURM_ARRAY_JOB_ID": "42"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    interruption.requeue(signal.SIGUSR1)
    assert said.read_text() == "requeue 42_7\n"
    monkeypatch.setenv("SLURM_PROCID", "1")
    interruption.requeue(signal.SIGUSR1)
    assert said.read_text() == "requeue 42_7\n", "of several tasks the first asks"


def test_a_scontrol_that_fails_is_told(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    interruption.requeue(signal.SIGUSR1)
    assert "SLURM job 1 is not requeued: scontrol: No such file" in caplog.text


def test_outside_of_a_training_it_stops_at_once_and_once():
    before = signal.getsignal(signal.SIGUSR1)

    def told():
        with interruption.listen():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)

    with pytest.raises(Interrupted):
        told()
    assert signal.getsignal(signal.SIGUSR1) == before
    with interruption.listen():
        interruption.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.received() == signal.SIGTERM, "the first one counts"
        with pytest.raises(Interrupted):
            interruption.resume()


class Told(LightningModule):
    def test_step(self, batch):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_in_an_evaluation_it_stops_as_in_a_training(tmp_path):
    """Lightning makes an exit code of it."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet)

    def evaluate():
        with interruption.listen(), interruption.through_lightning():
            trainer.test(Told(), dataloaders=[torch.zeros(1)])

    at_the_keyboard = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted):
            evaluate()
    finally:
        signal.signal(signal.SIGINT, at_the_keyboard)
