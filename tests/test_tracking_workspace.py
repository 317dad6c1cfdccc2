"""The workspace of an experiment: what it is made of, and how it is saved on a stand-in for the W&B server."""

import json

import pytest

from tests.running import cli
from tests.study.conftest import Study
from tests.test_tracking_study import EXPERIMENT, WANDB
from tests.wandb_server import WandbServer

pytest.importorskip("wandb_workspaces", reason="needs transfer[workspace]")


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path / "outputs")
    for arm in ("transfer", "scratch"):
        study.add(arm, config=WANDB)
    return study


def panels(section):
    return [panel["config"] for panel in section["panels"]]


def test_a_workspace_is_saved_once_and_then_changed(study, monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        first = cli("workspace", EXPERIMENT, "--output-dir", study.folder)
        assert first.code == 0, first.err
        study.add("transfer", 1, config=WANDB, monitor={"name": "val/f1", "mode": "max", "best": 0.5})
        second = cli("workspace", EXPERIMENT, "--output-dir", study.folder)
        assert second.out == first.out, "the same address"
        (view,) = server.views.values()
        server.views.clear()
        third = cli("workspace", EXPERIMENT, "--output-dir", study.folder)
        assert third.code == 0, "deleted on the server: made again"
        assert len(server.views) == 1
    assert first.out.startswith(f"{server.url}/someone/labels?nw=")
    assert (view["displayName"], view["projectName"]) == (f"transfer: {EXPERIMENT}", "labels")
    whole = json.loads(view["spec"])["section"]
    (runs,) = whole["runSets"]
    filters = [(item["key"]["name"], item["op"], item["value"]) for item in runs["filters"]["filters"]]
    sources = [("jobType", "!=", stage) for stage in ("pretrain", "meta")]
    assert filters == [("group", "=", EXPERIMENT), *sources]
    assert [key["name"] for key in runs["grouping"]] == ["run/arm.value", "run/budget.value"]
    assert "config:run/pair_id" in runs["runFeed"]["columnOrder"]
    sections = {section["name"]: section for section in whole["panelBankConfig"]["sections"]}
    assert "study/comparison" in json.dumps(panels(sections["The answer"]))
    curves = [(panel["metrics"], panel["xAxis"]) for panel in panels(sections["Learning curves by arm"])]
    axes = ["trainer/global_step", "epoch", "trainer/examples"]
    assert curves == [([f"val/{metric}"], axis) for metric in ("accuracy", "f1") for axis in axes]
    assert {panel["groupBy"] for panel in panels(sections["Learning curves by arm"])} == {"run/arm.value"}


def test_the_users_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    untracked = Study(tmp_path / "others")
    untracked.add("scratch")
    outcome = cli("workspace", EXPERIMENT, "--output-dir", untracked.folder)
    assert outcome.code == 2
    assert "2 problems" in outcome.err
    assert "received: none for https://api.wandb.ai" in outcome.err
    assert "runs that W&B tracks" in outcome.err
