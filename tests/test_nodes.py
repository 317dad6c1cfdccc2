"""A run on two machines, here two groups of processes on one, each started as srun starts it."""

import os

import pytest

from tests.running import cli, record_of, start

LINE = ["run", "experiment=linear_drift", "trainer=cpu", "trainer.precision=32", "logger=none", "floors=false"]
SHORT = ["arm=transfer", "source.budget.max_epochs=2", "target.budget.max_epochs=2"]
TWO = ["trainer=ddp_cpu", "trainer.precision=32", "trainer.devices=1", "trainer.num_nodes=2"]
SRUN = {"SLURM_JOB_ID": "1", "SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_NODELIST": "localhost"}


@pytest.mark.cluster
def test_two_nodes_come_to_what_one_comes_to(tmp_path):
    """Source and target; the second node comes first."""
    environments = [{**os.environ, **SRUN, "SLURM_NODEID": number, "SLURM_PROCID": number} for number in "10"]
    both = [start(*LINE, *SHORT, *TWO, f"output_dir={tmp_path / 'two'}", env=each, fresh=True) for each in environments]
    texts = [process.communicate(timeout=400) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    found = [record_of(out) for out, _ in texts]
    assert found[0] == found[1]
    assert sum(err.count("best weights: ") for _, err in texts) == 2, "one rank writes, once for each leg"
    alone = record_of(cli(*LINE, *SHORT, f"output_dir={tmp_path / 'one'}").out)
    assert found[0]["fingerprint"] == alone["fingerprint"]
    assert found[0]["metrics"]["test/mse"] == pytest.approx(alone["metrics"]["test/mse"], rel=1e-4)


@pytest.mark.parametrize("tasks", [None, "8"])
def test_it_has_to_be_started_once_on_each(tasks, tmp_path, monkeypatch):
    if tasks:
        for name, value in {**SRUN, "SLURM_NTASKS": tasks, "SLURM_NODEID": "0"}.items():
            monkeypatch.setenv(name, value)
    outcome = cli(*LINE, *SHORT, *TWO, f"output_dir={tmp_path / 'outputs'}")
    assert outcome.code == 2
    assert "srun --nodes=2 --ntasks-per-node=1 transfer run" in outcome.err
    assert not (tmp_path / "outputs").exists()
