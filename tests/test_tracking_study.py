"""A comparison as a W&B run, read back from its offline file."""

import json

import pytest

from tests.running import cli
from tests.study.conftest import Study
from tests.wandb_files import wandb_file, wandb_records, wandb_run
from transfer.tracking_study import read_table, study_id

WANDB = {"logger": {"name": "wandb", "project": "labels", "entity": None, "offline": True, "log_model": True}}
EXPERIMENT = "movies_to_shops"


@pytest.fixture
def paired(tmp_path):
    """Two pairs of runs that W&B tracked, and a function that compares them."""
    study = Study(tmp_path / "outputs")
    for seed in (0, 1):
        for arm in ("transfer", "scratch"):
            study.add(arm, seed, config=WANDB)

    def compare(*options):
        outcome = cli("compare", EXPERIMENT, "--output-dir", study.folder, *options)
        assert outcome.code == 0, outcome.err
        return outcome.out

    study.compare, study.home = compare, study.folder / EXPERIMENT / "study"
    return study


def test_the_study_is_a_run_in_the_group_of_its_experiment(paired):
    said = paired.compare()
    about, config, (row,), summary, _, code = wandb_run(paired.home)
    assert wandb_file(paired.home).parent.name in said
    assert (about.run_id, about.project, about.run_group) == (study_id(EXPERIMENT), "labels", EXPERIMENT)
    assert (about.job_type, about.display_name, set(about.tags)) == (
        "study",
        f"study-{EXPERIMENT}",
        {"study", "target:shops"},
    )
    assert (config["study/metric"], config["study/num_runs"], config["run/experiment"]) == ("accuracy", 4, EXPERIMENT)
    assert code == 0

    (table,) = (paired.home / "wandb").glob("offline-run-*/files/media/table/study/comparison_*.json")
    logged = json.loads(table.read_text())
    columns, rows = read_table(paired.home.parent / "comparison.csv")
    assert (logged["columns"], logged["data"]) == (columns, rows)
    transfer = dict(zip(columns, next(row for row in rows if row[columns.index("arm")] == "transfer"), strict=True))
    assert summary["gain/transfer from movies, n100"] == pytest.approx(transfer["gain_over_scratch"])
    assert summary["verdict/transfer from movies, n100"] == transfer["verdict"] == "gain"
    assert (summary["num_gain"], summary["num_harm"]) == (1, 0)
    assert summary["headline"] == about.notes
    for name in ("gains", "curves", "comparison", "pairs"):
        assert (wandb_file(paired.home).parent / "files" / row[f"study/{name}/path"]).is_file()


def test_a_second_comparison_takes_the_place_of_the_first(paired):
    paired.compare()
    first = wandb_file(paired.home).parent
    assert "(as before)" in paired.compare(), "nothing new"
    assert wandb_file(paired.home).parent == first
    for arm in ("transfer", "scratch"):
        paired.add(arm, 2, config=WANDB)
    assert "(as before)" not in paired.compare()
    assert (paired.home.parent / "wandb" / "run-study").resolve() == wandb_file(paired.home).parent, "for wandb leet"
    about, config, *_ = wandb_run(paired.home)
    assert (about.run_id, config["study/num_runs"]) == (study_id(EXPERIMENT), 6)
    assert len([1 for part in wandb_records(wandb_file(paired.home)) if part.HasField("history")]) == 1


def test_no_study_where_nobody_wants_one(paired, tmp_path):
    paired.compare("--no-wandb")
    assert not paired.home.exists()
    untracked = Study(tmp_path / "others")
    for arm in ("transfer", "scratch"):
        untracked.add(arm)
    assert cli("compare", EXPERIMENT, "--output-dir", untracked.folder).code == 0
    assert not (untracked.folder / EXPERIMENT / "study").exists()


def test_a_column_is_numbers_only_where_every_cell_is_one(tmp_path):
    (tmp_path / "table.csv").write_text("seed,seeds,low,verdict\n1,0; 1,,gain\n2,0,-inf,\n,7,0.5,3\n")
    assert read_table(tmp_path / "table.csv") == (
        ["seed", "seeds", "low", "verdict"],
        [[1.0, "0; 1", None, "gain"], [2.0, "0", "-inf", None], [None, "7", "0.5", "3"]],
    )
