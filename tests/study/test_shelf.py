"""The predictions of many runs in one file: the same numbers, and never those of a run that has changed."""

from pathlib import Path

import pytest

from tests.running import cli
from transfer.study import predictions, shelf
from transfer.study.compare import compare


@pytest.fixture
def kept(study, monkeypatch):
    """A study of four runs whose predictions are on the shelf, and its comparison."""
    monkeypatch.setattr(shelf, "LEAST_RUNS", 2)
    for seed in range(2):
        study.add("transfer", seed)
        study.add("scratch", seed, shuffle=True)
    comparison = compare(study.records)
    predictions.keep(comparison.predictions())
    return study, comparison


def parquet_files(study):
    return [Path(record["_folder"]) / predictions.FILE for record in study.records]


def test_from_the_shelf_come_the_same_gains(kept):
    study, before = kept
    assert all(found.from_shelf for found in map(predictions.load, map(Path, (r["_folder"] for r in study.records))))
    after = compare(study.records)
    assert [contrast.gain for _, contrast in after.gains] == [contrast.gain for _, contrast in before.gains]
    assert [row.over_floor.gain for row in after.rows if row.over_floor], "columns that are not on it are read"


def test_a_run_that_has_been_done_again_is_read_again(kept):
    study, _ = kept
    folder = Path(study.records[0]["_folder"])
    (folder / "record.json").write_text((folder / "record.json").read_text() + " ")
    assert [predictions.load(r["_folder"]).from_shelf for r in study.records] == [False, True, True, True]


def test_a_shelf_that_cannot_be_read_is_left_alone(kept):
    study, before = kept
    file = parquet_files(study)[0].parents[1] / shelf.FILE
    for content in (file.read_bytes()[:100], b"", b"{}"):
        file.write_bytes(content)
        assert compare(study.records).gains[0][1].gain == before.gains[0][1].gain


def test_few_runs_are_not_worth_a_shelf(study, tmp_path):
    for arm in ("transfer", "scratch"):
        study.add(arm)
    outputs = study.folder
    assert cli("compare", "movies_to_shops", "--output-dir", outputs, "--to", tmp_path / "page").code == 0
    assert not list(outputs.rglob(shelf.FILE))


def test_the_command_fills_it(study, tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "LEAST_RUNS", 2)
    for arm in ("transfer", "scratch"):
        study.add(arm)
    calls = [cli("compare", "movies_to_shops", "--output-dir", study.folder, "--to", tmp_path / "page") for _ in "ab"]
    assert [call.code for call in calls] == [0, 0], calls[0].err
    assert calls[0].out == calls[1].out
    assert len(list(study.folder.rglob(shelf.FILE))) == 1
