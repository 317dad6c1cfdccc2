"""A W&B sweep whose agent calls `transfer run`: the shipped example, W&B's own agent, a stand-in for its server."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.running import QUICK, TINY_BERT, cli, reviews
from tests.wandb_files import wandb_run
from tests.wandb_server import WandbServer
from transfer import records
from transfer.compose import compose

EXAMPLE = yaml.safe_load((Path(__file__).parents[1] / "docs" / "wandb_sweep.yaml").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def forgotten():
    """W&B reads the environment once a process, and would give the id of these runs to those of tests that follow."""
    yield
    import wandb

    wandb.teardown()


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """W&B's agent, on the sweep `abc`, in a folder of its own; its variables are gone afterwards."""
    for variable in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR", "WANDB_MODE"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_PROJECT", "sweeps")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "transfer").write_text(f'#!/bin/sh\nexec {sys.executable} -m transfer "$@"\n')
    (tmp_path / "bin" / "transfer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    from wandb.wandb_agent import Agent

    agent = Agent(api=None, queue=None, sweep_id="abc")
    agent._sweep_command = list(EXAMPLE["command"])
    return agent


@pytest.fixture
def parameters(tmp_path):
    """A tiny run in the words of a sweep."""
    source, target = reviews(tmp_path / "source.csv", seed=1), reviews(tmp_path / "target.csv", seed=2)
    words = [*QUICK[:2], *QUICK[3:], *TINY_BERT, "data@source.data=csv", f"source.data.path={source}"]
    words += [f"target.data.path={target}", "source.budget.max_epochs=1", "target.budget.max_epochs=2"]
    chosen = {"arm": "transfer", "optimizer.lr": 0.0003, "freezing": "head_only", "seed": 1}
    return dict(word.split("=", 1) for word in words) | chosen | {"output_dir": str(tmp_path / "outputs")}


@pytest.mark.cluster
def test_the_agent_runs_what_the_sweep_asks_for(agent, parameters, tmp_path, monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        arguments = {name: {"value": value} for name, value in parameters.items()}
        agent._command_run({"type": "run", "run_id": "run7", "args": arguments, "program": None})
        assert agent._run_processes["run7"].wait(timeout=120) == 0
    (record,) = (found for found in records.find(tmp_path / "outputs") if found["arm"])
    assert (record["seed"], record["freezing"], record["config"]["optimizer"]["lr"]) == (1, "head_only", 0.0003)
    ours = server.runs["run7"]
    assert (ours["sweep"], ours["project"], ours["job_type"], ours["exit_code"]) == ("abc", "sweeps", "finetune", 0)
    assert ours["summary"][EXAMPLE["metric"]["name"]] == pytest.approx(record["monitor"]["best"])
    curve = [row for row in ours["history"].values() if EXAMPLE["metric"]["name"] in row]
    assert len(curve) == 2
    assert (ours["config"]["optimizer.lr"], ours["config"]["run/freezing"]) == (0.0003, "head_only")
    parent = record["parents"][0]["fingerprint"]
    assert server.used == [("run7", f"model-{parent[:10]}")], "the lineage of the weights, online"
    source = server.runs[parent]
    assert (source["sweep"], source["project"], source["job_type"]) == (None, "sweeps", "pretrain")


def test_a_config_that_the_sweep_asks_for_again_is_answered_from_its_record(parameters, monkeypatch, tmp_path):
    words = [f"{name}={value}" for name, value in (parameters | {"arm": "scratch"}).items()]
    assert cli("run", *words, "logger=none").code == 0
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "run8")
    outcome = cli("run", *words)
    assert "is complete: nothing to train" in outcome.err
    (record,) = records.find(tmp_path / "outputs")
    about, _, history, summary, _, code = wandb_run(record["_folder"])
    assert (about.run_id, about.sweep_id, code, history) == ("run8", "abc", 0, [])
    assert summary["val/accuracy"] == pytest.approx(record["monitor"]["best"])


def test_a_multirun_is_not_one_run_of_a_sweep(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    outcome = cli("run", "-m", "seed=0,1")
    assert outcome.code == 2
    assert "received: -m under a W&B sweep agent" in outcome.err


def test_the_example_asks_for_keys_that_are_there():
    assert EXAMPLE["command"] == ["transfer", "run", "${args_no_hyphens}"]
    choices = {
        name: space.get("values", [space.get("value", space.get("min"))])
        for name, space in EXAMPLE["parameters"].items()
    }
    for pick in (0, -1):
        compose([f"{name}={values[pick]}" for name, values in choices.items()])
