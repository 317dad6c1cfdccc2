"""`transfer sync` against a stand-in for the W&B server."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import TINY_BERT, cli, reviews, run
from tests.study.conftest import Study
from tests.test_tracking_study import WANDB
from tests.wandb_files import wandb_file, wandb_run
from tests.wandb_server import WandbServer
from transfer import records

EXPERIMENT = "movies_to_shops"


@dataclass
class Kept:
    """A study whose runs were kept offline."""

    study: Study

    @property
    def outputs(self):
        return self.study.folder

    def add(self, arm, seed, **changes):
        """A run with a record and an offline W&B file of two rows."""
        import wandb

        record = self.study.add(arm, seed, config=WANDB, **changes)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_save_requirements=False)
        tracked = wandb.init(
            dir=record["_folder"], project="labels", id=record["fingerprint"], mode="offline", settings=settings
        )
        for loss in (0.5, 0.25):
            tracked.log({"train/loss": loss})
        tracked.finish()
        return Path(record["_folder"])

    def sync(self, *arguments):
        return cli("sync", *arguments, "--output-dir", self.outputs)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    return Kept(Study(tmp_path / "outputs"))


@pytest.fixture
def server(monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield server


def test_what_is_finished_is_uploaded_once(kept, server):
    first, second = kept.add("transfer", 0), kept.add("scratch", 0)
    pruned = kept.add("scratch", 1, status="interrupted", error="pruned at epoch 2")
    stopped = kept.add("scratch", 2, status="interrupted")
    killed = kept.add("scratch", 3)
    (killed / records.RECORD).unlink()
    trained = kept.add("scratch", 4)
    with records.lock(kept.outputs, "0000000005"):
        outcome = kept.sync()
    assert outcome.code == 0, outcome.err
    assert {*server.runs} == {wandb_file(folder).stem.removeprefix("run-") for folder in (first, second, pruned)}
    sent = server.runs["0000000000"]
    assert [row["train/loss"] for row in sent["history"].values()] == [0.5, 0.25]
    assert (sent["summary"]["train/loss"], sent["exit_code"], sent["project"]) == (0.25, 0, "labels")
    for folder in (stopped, killed):
        assert f"left     {folder}: it is unfinished" in outcome.out
    assert f"left     {trained}: it is being trained" in outcome.out
    assert outcome.out.endswith("3 runs uploaded, 3 left\n")

    server.runs.clear()
    again = kept.sync(EXPERIMENT)
    assert again.out.endswith(f"uploaded {trained}\n1 run uploaded, 2 left, 3 uploaded before\n")
    assert {*server.runs} == {"0000000005"}


def test_a_dry_run_uploads_nothing_and_needs_no_key(kept):
    folder = kept.add("transfer", 0)
    other = kept.add("scratch", 0)
    outcome = kept.sync("0000000000", "--dry-run")
    assert (outcome.code, outcome.out) == (0, f"would upload  {folder}\n1 run to upload\n")
    assert f"would upload  {other}\n2 runs to upload" in kept.sync("--dry-run").out
    assert not list(kept.outputs.glob("**/*.synced"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((), ["W&B key", "received: none for https://api.wandb.ai, and 1 run to upload", "`wandb login`"]),
     (("moovies", "1234"), ["received: moovies", "received: 1234", "2 problems"])],
)  # fmt: skip
def test_the_users_mistakes(kept, arguments, says):
    kept.add("transfer", 0)
    outcome = kept.sync(*arguments)
    assert outcome.code == 2
    assert all(words in outcome.err for words in says)


def test_nothing_to_upload(kept):
    kept.study.add("transfer", 0)
    outcome = kept.sync()
    assert (outcome.code, outcome.out) == (0, "nothing to upload: no offline W&B runs here\n")


def test_an_upload_that_fails_is_said_and_tried_again(kept, server, monkeypatch):
    folder = kept.add("transfer", 0)
    monkeypatch.setenv("WANDB_API_KEY", "short")
    outcome = kept.sync()
    assert (outcome.code, outcome.out) == (1, f"FAILED   {folder}\n0 runs uploaded, 1 failed\n")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert kept.sync().out == f"uploaded {folder}\n1 run uploaded\n"


def test_a_pair_arrives_with_its_lineage_and_its_study(tmp_path, monkeypatch, server):
    source, target = reviews(tmp_path / "source.csv", seed=1), reviews(tmp_path / "target.csv", seed=2)
    data = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]
    outputs = tmp_path / "outputs"
    short = ["source.budget.max_epochs=1", "target.budget.max_epochs=1", f"output_dir={outputs}", "logger=wandb"]
    options = [*TINY_BERT, *data, *short, "logger.offline=true"]
    pair = [run(*options, f"arm={arm}") for arm in ("transfer", "scratch")]
    assert cli("compare", "source_to_target", "--output-dir", outputs).code == 0
    kept_offline = wandb_run(pair[0]["_folder"])
    outcome = cli("sync", "--output-dir", outputs)
    assert outcome.out.endswith("4 runs uploaded\n"), outcome.err
    by_type = {sent["job_type"]: sent for sent in server.runs.values()}
    assert {*by_type} == {"pretrain", "finetune", "scratch", "study"}
    assert {sent["group"] for sent in server.runs.values()} == {"source_to_target"}
    assert by_type["finetune"]["config"]["run/pair_id"] == by_type["scratch"]["config"]["run/pair_id"]
    assert len(by_type["finetune"]["history"]) == len(kept_offline[2])
    parent = f"model-{pair[0]['parents'][0]['fingerprint'][:10]}"
    assert server.used == [(pair[0]["fingerprint"], parent)]
    made = [artifact["name"] for artifact in server.artifacts.values()]
    assert made.count(parent) == 1, "the weights of the source are there once"
    stored = json.loads(next(body for path, body in server.stored.items() if "comparison" in path))
    assert "gain_over_scratch" in stored["columns"]
