"""A run on two machines, here two groups of processes on one, each started as srun starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import cli, record_of, start
from transfer import records

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


@pytest.mark.cluster
def test_torchrun_starts_it_once_on_each_node(tmp_path):
    """Two nodes of torchrun's on one machine, with a port for each pair of agents."""
    from torch.distributed.elastic.utils.distributed import get_free_port

    port, out = get_free_port(), f"output_dir={tmp_path / 'two'}"
    command = ["--nnodes=2", "--nproc-per-node=1", f"--master-port={port}", "-m", "transfer", *LINE, *SHORT, *TWO, out]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--node-rank={number}", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 0)
    ]
    texts = [process.communicate(timeout=400) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    (found,) = {text.split()[-1] for text, _ in texts}
    record = records.read(Path(found))
    assert len(record["hardware"]["rank_checksums"]) == 2
    assert sum(err.count("best weights: ") for _, err in texts) == 2


def test_torchrun_does_not_start_the_ranks(tmp_path, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    outcome = cli(*LINE, *SHORT, f"output_dir={tmp_path / 'outputs'}")
    assert outcome.code == 2
    assert "--nproc-per-node=1" in outcome.err
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("GROUP_RANK", "0")
    outcome = cli(*LINE, *SHORT, *TWO, "trainer.num_nodes=3", f"output_dir={tmp_path / 'outputs'}")
    assert outcome.code == 2
    assert "torchrun has started 2 machines" in outcome.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("tasks", [None, "8"])
def test_it_has_to_be_started_once_on_each(tasks, tmp_path, monkeypatch):
    if tasks:
        for name, value in {**SRUN, "SLURM_NTASKS": tasks, "SLURM_NODEID": "0"}.items():
            monkeypatch.setenv(name, value)
    outcome = cli(*LINE, *SHORT, *TWO, f"output_dir={tmp_path / 'outputs'}")
    assert outcome.code == 2
    assert "srun --nodes=2 --ntasks-per-node=1 transfer run" in outcome.err
    assert not (tmp_path / "outputs").exists()
