"""Sweeps and searches over two processes a job: one folder a job, ranks that agree, the numbers of one process."""

import os
from pathlib import Path

import pandas as pd
import pytest

from tests.running import NO_DROPOUT, QUICK, TINY_BERT, cli, reviews, run
from transfer import records
from transfer.launch import RANK_VARIABLES
from transfer.sweep import ledger as ledgers

# Adam turns the rounding of a gradient of nothing into a whole step, which the line starts with.
LINE = ["experiment=linear_drift", "arm=scratch", "scratch.max_epochs=2", "scratch.warmup_steps=0", "optimizer=sgd"]
GRID = ["-m", "freezing=none,gradual", "seed=0,1", "target.budget.max_epochs=2", "scheduler=constant"]
TOKENS = [
    "-m",
    "seed=0",
    "target.budget.max_epochs=2",
    "target.task.max_length=16",
    "target.budget.tokens_per_batch=80",
]
SEARCH = ["sweep=optuna", "scratch.lr=1e-2,1e-1,0.5,1,2,5", "hydra.sweeper.sampler=grid", "hydra.sweeper.pruner=none"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two grids and a search came to, each job on two processes and again on one."""
    folder = tmp_path_factory.mktemp("devices")
    source, target = reviews(folder / "source.csv", num=60, seed=1), reviews(folder / "target.csv", num=51, seed=2)
    data = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}", *TINY_BERT]
    parent = run(*data, "stage=pretrain", "source.budget.max_epochs=1", f"output_dir={folder / 'source'}")
    grid = [*QUICK, *data, *NO_DROPOUT, f"init={parent['_folder']}", *GRID]
    search = [*QUICK, *LINE, *SEARCH]
    outputs = {}
    tokens = [*grid[: -len(GRID)], *TOKENS]
    for name, arguments in (("grid", grid), ("tokens", tokens), ("search", search)):
        for trainer in ("cpu", "ddp_cpu"):
            out = folder / f"{name}-{trainer}"
            outcome = cli("run", *arguments, f"trainer={trainer}", "trainer.precision=32", f"output_dir={out}")
            assert outcome.code == 0, outcome.err
            assert not set(RANK_VARIABLES) & set(os.environ), "a job leaves nothing behind for the next one"
            outputs[name, trainer] = out
    return outputs


def by_name(folder):
    return {Path(record["_folder"]).name: record for record in records.find(folder)}


@pytest.mark.cluster
@pytest.mark.parametrize(("name", "num_jobs"), [("grid", 4), ("tokens", 1), ("search", 6)])
def test_every_job_is_one_run_with_the_numbers_of_one_process(found, name, num_jobs):
    alone, together = (by_name(found[name, trainer]) for trainer in ("cpu", "ddp_cpu"))
    assert alone.keys() == together.keys()
    assert len(together) == num_jobs
    folder = found[name, "ddp_cpu"]
    assert {path.name for path in folder.glob("*/*") if not path.parent.name.startswith(".")} == set(together)
    (sweep,) = ledgers.names(folder)
    assert ledgers.read(folder, sweep).counts() == {"complete": num_jobs}
    for run_name, record in together.items():
        assert record["metrics"] == pytest.approx(alone[run_name]["metrics"], rel=1e-3, abs=1e-5), run_name
        checksums = record["hardware"]["rank_checksums"]
        assert len(checksums) == 2
        assert len(set(checksums)) == 1
        assert "rank_checksums" not in alone[run_name]["hardware"]
        tested = Path(record["_folder"]) / "predictions.parquet"
        assert tested.is_file() == records.tested(record)
        if tested.is_file():
            ids = pd.read_parquet(tested)["id"]
            assert len(ids) == ids.nunique() == record["data"]["num_test"] == alone[run_name]["data"]["num_test"]


@pytest.mark.cluster
def test_the_search_chooses_the_same_winner(found):
    winners = [
        [name for name, record in by_name(found["search", trainer]).items() if records.tested(record)]
        for trainer in ("cpu", "ddp_cpu")
    ]
    assert winners[0] == winners[1]
    assert len(winners[0]) == 1


def test_ranks_that_drifted_apart_are_no_result():
    from transfer.ranks import require_equal

    require_equal(["0a", "0a"])
    with pytest.raises(AssertionError, match="ended with different weights: 0a, 0b"):
        require_equal(["0a", "0b"])


def test_the_checksum_sees_one_bit():
    import torch

    from transfer.ranks import checksum

    tensors = {"a": torch.ones(3), "b": torch.tensor(2), "c": torch.ones(2, dtype=torch.bfloat16)}
    changed = tensors | {"a": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}
    assert checksum(tensors) == checksum(dict(reversed(tensors.items())))
    assert checksum(tensors) != checksum(changed)
