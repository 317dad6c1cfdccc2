"""Two real processes over gloo: they come to what one process comes to, and write what one process writes."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.running import NO_DROPOUT, QUICK, TINY_BERT, cli, files_below, record_of, reviews, run


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A target that starts from a source's weights, with layers that wake one after another."""
    folder = tmp_path_factory.mktemp("launch")
    source, target = reviews(folder / "source.csv", num=150, seed=1), reviews(folder / "target.csv", num=80, seed=2)
    data = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]
    parent = run(*TINY_BERT, *data, "stage=pretrain", "source.optimizer.lr=5e-3", f"output_dir={folder}")
    settings = [f"init={parent['_folder']}", "freezing=gradual", "target.budget.max_epochs=3", "scheduler=constant"]
    settings += ["target.task.monitor=loss", "target.task.mode=min", "trainer.log_every_n_steps=1", "floors=true"]
    return [*QUICK, *TINY_BERT, *NO_DROPOUT, *data, *settings]


def predictions(record):
    return pd.read_parquet(Path(record["_folder"]) / "predictions.parquet").sort_values("id", ignore_index=True)


def losses(record):
    return pd.read_csv(Path(record["_folder"]) / "metrics.csv")["train/loss"].dropna().tolist()


def test_two_processes_come_to_what_one_comes_to(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("LOCAL_RANK", "7")  # as another launcher may have left it behind
    more = ["trainer=ddp_cpu", "trainer.num_workers=1", "logger=wandb"]
    two = cli("run", *arguments, *more, f"output_dir={tmp_path / 'two'}")
    assert two.code == 0, two.err
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    one = cli("run", *arguments, f"output_dir={tmp_path / 'one'}")
    alone, together = record_of(one.out), record_of(two.out)
    assert together["fingerprint"] == alone["fingerprint"], "where a run trains is no part of what it is"
    assert together["hardware"]["num_devices"] == 2
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-6)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)
    assert together["metrics"]["num_steps"] == 12, "all layers had woken"

    # Half of the rows were predicted by the second process, so its weights are compared as well.
    assert together["data"] == alone["data"]
    ours, theirs = predictions(together), predictions(alone)
    assert len(ours) == together["data"]["num_test"] == ours["id"].nunique()
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    weights = [load_file(Path(record["_folder"]) / "model" / "model.safetensors") for record in (together, alone)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-6)

    folder = Path(together["_folder"])
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1, "only the first process writes"
    left = {path.partition("/")[0] for path in files_below(folder)} - {"wandb"}
    assert left == {path.partition("/")[0] for path in files_below(Path(alone["_folder"]))}


def test_a_users_mistake_is_told_once_and_leaves_nothing(arguments, tmp_path):
    options = ["trainer=ddp_cpu", "weights.include=[nothing]", f"output_dir={tmp_path / 'outputs'}"]
    outcome = cli("run", *arguments, *options)
    assert outcome.code == 2, outcome.err
    assert outcome.err.count("weights that share no tensor with the model") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_rank_needs_a_row_to_evaluate(tmp_path):
    line = ["run", "experiment=linear_drift", "arm=scratch", "trainer=ddp_cpu", "logger=none", "floors=false"]
    outcome = cli(*line, "target.data.validation_size=1", f"output_dir={tmp_path / 'outputs'}")
    assert outcome.code == 2, outcome.err
    assert "allowed:  at most 1 in all, the rows of target.data's validation split" in outcome.err
    assert not (tmp_path / "outputs").exists()
