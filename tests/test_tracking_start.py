"""A W&B server that nobody answers for."""

import logging

import pytest

from tests.wandb_files import wandb_run
from transfer import tracking_start
from transfer.config import Logger


@pytest.fixture
def wandb(monkeypatch):
    """W&B with a key and a server that is not there; it reads the environment once a process."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_MODE")
    for name, value in {"BASE_URL": "http://127.0.0.1:9", "API_KEY": "0" * 40, "INIT_TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    yield wandb
    wandb.teardown()


def test_a_server_that_cannot_be_reached_stops_nothing(wandb, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transfer"), "propagate", True)
    run = tracking_start.start(Logger(), tmp_path, quick=True, id="lonely")
    run.log({"val/loss": 0.5})
    run.finish()
    assert "W&B cannot be reached" in caplog.text
    about, _, (row,), *_, code = wandb_run(tmp_path)
    assert (about.run_id, row["val/loss"], code) == ("lonely", 0.5, 0)
    with pytest.raises(wandb.errors.CommError):  # who asks for it is told
        tracking_start.start(Logger(offline=False), tmp_path, quick=True, id="lonely")
