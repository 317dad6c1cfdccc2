"""The losses of one small run of each stage, step by step, against stored ones: nothing changes a training unnoticed.

When a change is meant: TRANSFER_GOLDEN=write python -m pytest tests/test_golden.py, and say in the commit why.
"""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.running import TINY_BERT, reviews, run

GOLDEN = Path(__file__).parent / "golden"
STAGES = ("pretrain", "finetune", "scratch")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    source, target = reviews(folder / "source.csv", num=150, seed=1), reviews(folder / "target.csv", num=100, seed=2)
    return ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]


def train(data, outputs, *overrides):
    """Stage -> what is compared of it, and its folder."""
    options = ["source.budget.max_epochs=2", "target.budget.max_epochs=3", "scratch.max_epochs=3", "model.lr=5e-3"]
    options += ["floors=true", "model.scratch_lr=5e-3", "trainer.log_every_n_steps=1", f"output_dir={outputs}"]
    made = {}
    for arm in ("transfer", "scratch"):
        run(*TINY_BERT, *data, *options, f"arm={arm}", *overrides)
    for folder in outputs.glob("*/*-*"):
        record = json.loads((folder / "record.json").read_text())
        losses = pd.read_csv(folder / "metrics.csv")["train/loss"].dropna().tolist()
        made[record["stage"]] = {"train/loss": losses, "metrics": record["metrics"]}
    return made


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("first"))


@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_metrics_are_the_stored_ones(trained, stage):
    file = GOLDEN / f"{stage}.json"
    made = trained[stage]
    if os.environ.get("TRANSFER_GOLDEN") == "write":
        file.write_text(json.dumps(made, indent=1) + "\n")
    stored = json.loads(file.read_text())
    assert len(made["train/loss"]) == len(stored["train/loss"]) > 5
    assert made["train/loss"] == pytest.approx(stored["train/loss"], rel=1e-3)
    assert made["metrics"] == pytest.approx(stored["metrics"], rel=1e-3, abs=1e-6)


def test_the_same_config_gives_exactly_the_same(trained, data, tmp_path):
    assert train(data, tmp_path) == trained


def test_another_order_changes_the_losses_and_not_the_start(trained, data, tmp_path):
    other = train(data, tmp_path, "order_seed=7")
    assert other["pretrain"] == trained["pretrain"], "the source has a seed of its own"
    for stage in ("finetune", "scratch"):
        assert other[stage]["train/loss"] != trained[stage]["train/loss"]
        ours, theirs = (made[stage]["metrics"]["floor_tfidf/accuracy"] for made in (other, trained))
        assert ours == theirs, "the rows are the same"
