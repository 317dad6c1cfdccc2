"""What the loggers are left with: a real offline W&B run read back from its file, TensorBoard events, metrics.csv."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.running import QUICK, TINY_BERT, cli, reviews, run
from tests.wandb_files import wandb_file, wandb_records, wandb_run
from transfer import identity, plan, wandb_environment
from transfer.compose import compose


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    source, target = reviews(tmp_path / "source.csv", seed=1), reviews(tmp_path / "target.csv", seed=2)
    data = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]
    short = ["source.budget.max_epochs=1", "target.budget.max_epochs=2", "trainer.log_every_n_steps=1"]
    return [*TINY_BERT, *data, *short, f"output_dir={tmp_path / 'outputs'}"]


def test_a_wandb_run_holds_the_whole_story(arguments, tmp_path):
    options = [
        "arm=transfer",
        "logger=wandb",
        "freezing=first_k",
        "freezing.k=1",
        "target.data.train_size=30",
        "seed=3",
    ]
    record = run(*arguments, *options)
    about, config, history, summary, artifacts, code = wandb_run(record["_folder"])
    assert code == 0
    assert about.run_id == record["fingerprint"]
    assert about.project == "transfer"
    assert about.run_group == "source_to_target"
    assert about.job_type == "finetune"
    assert about.display_name == "transfer-target-n30-first_k-seed3"
    assert set(about.tags) == {"source:source", "target:target", "freezing:first_k", "arm:transfer"}
    assert config["target"]["data"]["train_size"] == 30
    assert config["model"]["config"]["hidden_size"] == 16
    flat = {"arm": "transfer", "seed": 3, "budget": "30 labels", "train_size": 30, "freezing": "first_k"}
    assert {name: config[f"run/{name}"] for name in flat} == flat
    assert config["run/parents"] == [record["parents"][0]["fingerprint"]]

    steps = [row for row in history if "train/loss" in row]
    losses = pd.read_csv(Path(record["_folder"]) / "metrics.csv")["train/loss"].dropna()
    assert [row["train/loss"] for row in steps] == pytest.approx(losses.tolist())
    assert [row["trainer/global_step"] for row in steps] == list(range(len(losses)))
    assert len([row for row in history if "val/accuracy" in row]) == 2
    batches = [row["trainer/examples"] for row in steps]
    assert (batches[0], batches[-1]) == (16, 2 * 30), "two epochs over 30 examples, in batches of 16"
    assert [row["trainer/examples"] for row in history if "val/loss" in row] == [30, 60]
    assert all("epoch" in row for row in steps)
    assert any("lr-AdamW/head" in row for row in history)
    assert any("gradient_norm/depth_2" in row for row in history)
    assert not any("gradient_norm/depth_1" in row for row in history), "the first layer is frozen"
    tests = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    assert {name: summary[name] for name in tests} == pytest.approx(tests)
    assert summary["num_train"] == 30
    assert summary["fraction_loaded"] == 1.0

    start, artifact = artifacts
    assert artifact.name == f"model-{record['fingerprint'][:10]}"
    assert artifact.type == "model"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        entry.path for entry in artifact.manifest.contents
    }
    parent = record["parents"][0]["fingerprint"]
    assert json.loads(artifact.metadata)["parents"] == [f"model-{parent[:10]}"]
    source, _, _, _, (logged,), _ = wandb_run(tmp_path / "outputs" / "source_to_target" / f"pretrain-{parent[:10]}")
    assert start.use_after_commit
    assert (start.name, start.digest) == (logged.name, logged.digest), "W&B knows the weights by their digest"
    assert (source.job_type, source.display_name, list(source.tags)) == (
        "pretrain",
        "pretrain-source-seed0",
        ["source:source", "target:target", "freezing:none"],
    )


def test_every_curve_has_the_same_axes(arguments):
    record = run(*arguments, "stage=scratch", "logger=wandb", "logger.log_model=false")
    found = [part.metric for part in wandb_records(wandb_file(record["_folder"])) if part.HasField("metric")]
    assert [metric.name for metric in found if metric.name] == ["trainer/global_step", "epoch", "trainer/examples"]
    (every,) = (metric for metric in found if metric.glob_name)
    assert (every.glob_name, every.step_metric, every.options.step_sync) == ("*", "trainer/global_step", True)


def test_the_arms_of_a_pair_share_its_id(arguments, tmp_path):
    def pair_id(*options):
        return identity.pair_id(plan.make(compose([*QUICK, *arguments, *options])))

    twin = pair_id("arm=transfer", "seed=1")
    assert pair_id("arm=scratch", "seed=1") == pair_id("arm=transfer", "seed=1", "freezing=head_only") == twin
    others = ["seed=2", "target.data.train_size=20", "model.config.num_hidden_layers=1", "target.budget.batch_size=8"]
    others.append(f"target.data.path={reviews(tmp_path / 'other.csv', seed=3)}")
    assert len({twin, *(pair_id("arm=transfer", "seed=1", other) for other in others)}) == 1 + len(others)


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_a_run_that_breaks_off_ends_with_exit_code_1(arguments, tmp_path):
    options = ["stage=scratch", "logger=wandb", "scratch.lr=1e30", "trainer.gradient_clip_val=null"]
    with pytest.raises(RuntimeError, match="nan"):
        run(*arguments, *options, "trainer.detect_anomaly=true")
    (folder,) = (tmp_path / "outputs").glob("*/scratch-*")
    assert wandb_run(folder)[-1] == 1


def test_each_job_of_a_sweep_is_a_run_of_its_own(arguments, tmp_path):
    options = ["logger=wandb", "logger.log_model=false", "stage=scratch", "scratch.max_epochs=1", "seed=0,1"]
    outcome = cli("run", "-m", *QUICK, *arguments, *options)
    assert outcome.code == 0, outcome.err
    runs = [wandb_run(path.parent) for path in (tmp_path / "outputs").glob("*/*/record.json")]
    assert sorted((about.display_name, config["seed"]) for about, config, *_ in runs) == [
        ("scratch-target-seed0", 0),
        ("scratch-target-seed1", 1),
    ]
    links = {path.name[:-5]: path for path in (tmp_path / "outputs").glob("*/wandb/run-*")}
    assert {*links} == {"run-scratch-target-seed0", "run-scratch-target-seed1"}, "names for wandb leet"
    assert all(len([*path.glob("*.wandb")]) == 1 for path in links.values())
    for _, config, history, summary, artifacts, code in runs:
        assert code == 0
        assert artifacts == []
        assert len([row for row in history if "val/loss" in row]) == 1
        assert summary["val/loss"] > 0
        assert config["run/stage"] == "scratch"


def test_tensorboard(arguments):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = run(*arguments, "stage=scratch", "logger=tensorboard")
    events = event_accumulator.EventAccumulator(f"{record['_folder']}/tensorboard")
    events.Reload()
    losses = pd.read_csv(Path(record["_folder"]) / "metrics.csv")["train/loss"].dropna()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses.tolist())
    assert len(events.Scalars("val/accuracy")) == 2


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_metrics_csv_is_always_there(arguments, logger):
    record = run(*arguments, "stage=scratch", f"logger={logger}")
    folder = Path(record["_folder"])
    table = pd.read_csv(folder / "metrics.csv")
    assert {"epoch", "step", "train/loss", "val/loss", "val/accuracy", "test/accuracy"} <= {*table.columns}
    assert table["test/accuracy"].dropna().tolist() == pytest.approx([record["metrics"]["test/accuracy"]])
    assert not (folder / "wandb").exists()
    assert not (folder / "tensorboard").exists()


@pytest.mark.parametrize(
    ("requested", "environment", "offline"),
    [
        (None, {}, True),
        (None, {"WANDB_API_KEY": "0" * 40}, False),
        (None, {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}, True),
        (None, {"WANDB_MODE": "disabled"}, True),
        (None, {"WANDB_MODE": "online"}, False),
        (True, {"WANDB_MODE": "online"}, True),
        (False, {}, False),
    ],
)
def test_offline_unless_a_key_is_there(monkeypatch, tmp_path, requested, environment, offline):
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert wandb_environment.offline(requested) is offline


def test_a_key_in_the_netrc_file_counts(monkeypatch, tmp_path):
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_environment.offline(None) is False
