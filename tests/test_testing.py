"""A run that left its test split alone, asked for again: tested without being trained."""

from pathlib import Path

import pandas as pd
import pytest

from tests.running import cli
from transfer import plan, records
from transfer.compose import compose

LINE = ["experiment=linear_drift", "arm=scratch", "scratch.max_epochs=2", "scratch.warmup_steps=0", "floors=false"]
QUIET = ["trainer=cpu", "trainer.precision=32", "logger=none"]


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
    first = plan.make(compose([*LINE, *QUIET]))
    assert plan.make(compose([*LINE, *QUIET, "test=false"])).fingerprint == first.fingerprint


def test_equal_steps_are_those_that_the_other_arms_take(tmp_path):
    """Where an epoch has been cut short, too."""
    cut = [
        "target.data.train_size=32",
        "trainer.limit_train_batches=1",
        "target.budget.max_epochs=2",
        "scratch.lr=0.02",
        "scratch.scheduler=constant",
    ]
    found = {}
    for epochs in (2, 6):
        words = ["experiment=linear_drift", "arm=scratch", f"scratch.max_epochs={epochs}", "scratch.warmup_steps=0"]
        assert cli("run", *words, "floors=false", *QUIET, *cut, f"output_dir={tmp_path / str(epochs)}").code == 0
        (record,) = records.find(tmp_path / str(epochs))
        found[epochs] = record["metrics"]
    assert found[2]["num_steps"] <= 2 < found[6]["num_steps"]
    assert found[6]["test_equal_steps/mse"] == pytest.approx(found[2]["test/mse"])
    assert found[6]["test_equal_steps/mse"] > 1.01 * found[6]["test/mse"]
