"""What the loggers are left with: a real offline W&B run read back from its file, TensorBoard events, metrics.csv."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.running import QUICK, TINY_BERT, cli, reviews, run
from transfer import tracking

BLOCK = 32768


def wandb_records(file):
    """The messages in a .wandb file, which is laid out as a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    content = file.read_bytes()
    assert content[:4] == b":W&B"
    place, message = 7, b""
    while place + 7 <= len(content):
        room = BLOCK - place % BLOCK
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if room < 7 or kind == 0:
            place += room
            continue
        message += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole message, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def wandb_run(folder):
    """(run, config, history rows, summary, artifacts, exit code) of the one W&B run in a run's folder."""
    (file,) = Path(folder).glob("wandb/offline-run-*/*.wandb")
    found = list(wandb_records(file))
    (about,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    history, summary = [], {}
    for record in found:
        if record.WhichOneof("record_type") == "history":
            history.append({name(item): json.loads(item.value_json) for item in record.history.item})
        summary |= {name(item): json.loads(item.value_json) for item in record.summary.update}
    artifacts = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    (code,) = (record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit")
    return about, config, history, summary, artifacts, code


def name(item):
    return item.key or "/".join(item.nested_key)


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
    assert config["run/arm"] == "transfer"
    assert config["run/parents"] == [record["parents"][0]["fingerprint"]]

    steps = [row for row in history if "train/loss" in row]
    losses = pd.read_csv(Path(record["_folder"]) / "metrics.csv")["train/loss"].dropna()
    assert [row["train/loss"] for row in steps] == pytest.approx(losses.tolist())
    assert [row["trainer/global_step"] for row in steps] == list(range(len(losses)))
    assert len([row for row in history if "val/accuracy" in row]) == 2
    assert any("lr-AdamW/head" in row for row in history)
    assert any("gradient_norm/depth_2" in row for row in history)
    assert not any("gradient_norm/depth_1" in row for row in history), "the first layer is frozen"
    tests = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    assert {name: summary[name] for name in tests} == pytest.approx(tests)
    assert summary["num_train"] == 30
    assert summary["fraction_loaded"] == 1.0

    (artifact,) = artifacts
    assert artifact.name == f"model-{record['fingerprint'][:10]}"
    assert artifact.type == "model"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        entry.path for entry in artifact.manifest.contents
    }
    parent = record["parents"][0]["fingerprint"]
    assert json.loads(artifact.metadata)["parents"] == [f"model-{parent[:10]}"]
    source = wandb_run(tmp_path / "outputs" / "source_to_target" / f"pretrain-{parent[:10]}")[0]
    assert (source.job_type, source.display_name, list(source.tags)) == (
        "pretrain",
        "pretrain-source-seed0",
        ["source:source", "target:target", "freezing:none"],
    )


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
    assert tracking.offline(requested) is offline


def test_a_key_in_the_netrc_file_counts(monkeypatch, tmp_path):
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert tracking.offline(None) is False
