"""Stopped at any moment and started again, a run ends with exactly what it would have come to undisturbed."""

import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.running import QUICK, TINY_BERT, cli, files_below, record_of, reviews, start
from transfer import evaluation, records
from transfer.checkpoints import LAST

STEPS_PER_EPOCH, EPOCHS = 35, 3
# Many short steps, each followed by a checkpoint.
STEADY = [
    "trainer.checkpoint_every_s=0",
    "trainer.log_every_n_steps=1",
    "scheduler=cosine",
    "target.budget.batch_size=4",
]
SCRATCH = ["stage=scratch", f"scratch.max_epochs={EPOCHS}", "scratch.min_steps=0", "scratch.scheduler=cosine"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    source, target = reviews(folder / "source.csv", seed=1), reviews(folder / "target.csv", num=200, seed=2)
    return ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]


def stop_in_the_second_epoch(arguments, outputs, how):
    """Start a process, stop it by this signal in the middle of its second epoch; its folder, exit code, and output.

    On a busy machine the signal may come when all is over: then it is started anew.
    """
    for _ in range(3):
        folder, code, output = stop_at_the_first_sight_of_the_second_epoch(arguments, outputs, how)
        if code != 0:
            break
        shutil.rmtree(folder)
    return folder, code, output


def stop_at_the_first_sight_of_the_second_epoch(arguments, outputs, how):
    process = start("run", *arguments, f"output_dir={outputs}", env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        found = [path for path in outputs.glob("*/*/metrics.csv") if not path.parent.name.startswith("pretrain")]
        if found and last_step(found[0]) > 1.5 * STEPS_PER_EPOCH:
            break
        time.sleep(0.005)
    process.send_signal(how)
    output = process.communicate(timeout=60)[1]
    return found[0].parent, process.returncode, output


def last_step(file):
    """Of a table that another process is writing."""
    header, *rows = file.read_text().splitlines() or [""]
    cells = rows[-2].split(",") if len(rows) > 1 else []
    column = header.split(",").index("step") if cells else 0
    return int(cells[column]) if len(cells) > column and cells[column] else 0


def csv(folder, name):
    return pd.read_csv(folder / "metrics.csv")[["step", name]].dropna()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(arguments) -> the record of the run that nothing stopped."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    kept = {}

    def train(arguments):
        key = tuple(arguments)
        if key not in kept:
            kept[key] = record_of(cli("run", *arguments, f"output_dir={outputs}").out)
        return kept[key]

    return train


def resumes_exactly(arguments, outputs, folder, undisturbed):
    """Start the same command again; compare all that it leaves with its undisturbed twin."""
    last = folder / LAST
    step = torch.load(last, weights_only=False)["global_step"]
    assert STEPS_PER_EPOCH < step < 2 * STEPS_PER_EPOCH, "stopped in the middle of an epoch"
    record = records.read(folder)
    assert record is None or record["status"] == "interrupted"
    before = pd.read_csv(folder / "metrics.csv")
    before.loc[before["train/loss"].first_valid_index(), "train/loss"] = 123.0
    before.to_csv(folder / "metrics.csv", index=False)
    again = cli("run", *arguments, f"output_dir={outputs}")
    assert again.code == 0, again.err
    assert f"going on from {last}" in again.err
    resumed = record_of(again.out)
    assert not last.exists()

    expected = undisturbed(arguments)
    assert resumed["fingerprint"] == expected["fingerprint"]
    assert resumed["metrics"] == expected["metrics"]
    assert resumed["monitor"] == expected["monitor"]
    twin_folder = Path(expected["_folder"])
    tables = [pd.read_parquet(place / "predictions.parquet") for place in (folder, twin_folder)]
    pd.testing.assert_frame_equal(*tables)
    ours, theirs = csv(folder, "train/loss"), csv(twin_folder, "train/loss")
    assert sorted({*ours["step"]}) == list(range(EPOCHS * STEPS_PER_EPOCH))
    assert ours["step"].tolist() == theirs["step"].tolist(), "no step is there twice"
    assert ours["train/loss"].iloc[0] == 123.0, "the first step was not done again"
    assert ours["train/loss"].tolist()[1:] == theirs["train/loss"].tolist()[1:]
    assert csv(folder, "val/loss")["val/loss"].tolist() == csv(twin_folder, "val/loss")["val/loss"].tolist()
    return again


def test_killed_in_the_target_leg_the_source_is_not_trained_again(data, undisturbed, tmp_path):
    """With gradual unfreezing and accumulated gradients, which have a state of their own."""
    settings = [
        "arm=transfer",
        "freezing=gradual",
        f"target.budget.max_epochs={EPOCHS}",
        "trainer.accumulate_grad_batches=2",
    ]
    settings += ["optimizer=momentum", "scheduler=cosine", "target.budget.patience=null"]
    arguments, outputs = [*QUICK, *TINY_BERT, *data, *STEADY, *settings], tmp_path / "killed"
    folder, code, _ = stop_in_the_second_epoch(arguments, outputs, signal.SIGKILL)
    assert code == -signal.SIGKILL
    (source,) = outputs.glob("*/pretrain-*")
    before = files_below(source)
    again = resumes_exactly(arguments, outputs, folder, undisturbed)
    assert files_below(source) == before
    assert f"{source} is complete: nothing to train" in again.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_the_user_or_the_system(data, undisturbed, tmp_path, how):
    arguments, outputs = [*QUICK, *TINY_BERT, *data, *STEADY, *SCRATCH], tmp_path / "interrupted"
    folder, code, output = stop_in_the_second_epoch(arguments, outputs, how)
    assert code == 130
    assert output.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in output
    resumes_exactly(arguments, outputs, folder, undisturbed)


def test_interrupted_after_its_training(data, undisturbed, tmp_path, monkeypatch):
    """Nothing is trained again when only the test was missing."""
    arguments, outputs = [*QUICK, *TINY_BERT, *data, *STEADY, *SCRATCH], tmp_path / "interrupted"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_predictions", interrupt)
        assert cli("run", *arguments, f"output_dir={outputs}").code == 130
    (last,) = outputs.glob(f"*/*/{LAST}")
    before = csv(last.parent.parent, "train/loss")
    again = cli("run", *arguments, f"output_dir={outputs}")
    assert f"going on from {last}" in again.err
    resumed, expected = record_of(again.out), undisturbed(arguments)
    assert resumed["metrics"] == expected["metrics"]
    assert csv(Path(resumed["_folder"]), "train/loss").equals(before)
