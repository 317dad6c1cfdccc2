"""Thousands of records: nothing is read twice, and nothing that is not needed."""

import copy
from collections import Counter
from pathlib import Path

import pytest

from transfer.study import predictions, resampling
from transfer.study.compare import compare
from transfer.study.details import MOST_SHOWN
from transfer.study.report import write_all

SEEDS = 20


def many(study, strategies, **changes):
    """Records of so many strategies with 20 seeds, all made from one pair of runs."""
    pair = [study.add(arm, **changes) for arm in ("transfer", "scratch")]
    found = []
    for index in range(strategies):
        for seed in range(SEEDS):
            first = index == 0
            record = copy.copy(pair[1 if first else 0])
            record |= {"seed": seed, "fingerprint": f"{index:05d}{seed:05d}", "source": f"source-{index}"}
            record["config"] = {**record["config"], "seed": seed, "subset_seed": seed}
            found.append(record)
    return found


@pytest.fixture
def read(monkeypatch):
    """How often each folder's predictions were read."""
    counts = Counter()
    load = predictions.load

    def counted(folder):
        counts[str(folder)] += 1
        return load(folder)

    monkeypatch.setattr(predictions, "load", counted)
    return counts


def test_5000_records_are_read_once_each(study, read):
    records = many(study, 250)
    comparison = compare(records)
    assert len(comparison.gains) == 249
    assert sum(read.values()) == len(records) == 5000
    assert comparison.gains[0][1].family == 249


def test_a_metric_that_needs_no_predictions_reads_none(study, read):
    records = many(study, 10, write=False)
    for record in records:
        record["metrics"] = {"test/loss": 0.5 + record["seed"] / 100 - 0.1 * (record["arm"] == "transfer")}
        record["task"] = "regression"
    assert len(compare(records, metric="loss").gains) == 9
    assert not read


def test_runs_that_are_not_compared_are_not_read(study, read):
    study.add("transfer")
    study.add("scratch")
    study.add("transfer", 1, status="failed")
    study.add(None)
    compare(study.records)
    assert sorted(read) == sorted(record["_folder"] for record in study.records[:2])


def test_a_page_of_many_gains_stays_readable(study, tmp_path):
    records = [record for record in many(study, 60) if record["seed"] < 2]
    comparison = compare(records)
    assert comparison.headline.startswith("Transfer helps in 59, harms in 0 and is undecided in 0 of 59 comparisons")
    page = write_all(comparison, tmp_path)[0]
    assert page.stat().st_size < 2_500_000
    assert f"Not shown: {59 - MOST_SHOWN} more gains." in page.read_text(encoding="utf-8")


def test_the_draws_are_shared_by_the_gains_of_a_study():
    resampling._weights.cache_clear()
    first = resampling._weights(50, 100, 0)
    assert resampling._weights(50, 100, 0) is first
    assert first.sum(axis=1).tolist() == [50] * 100


def test_columns_are_read_when_they_are_asked_for(study):
    record = study.add("scratch", texts=True)
    found = predictions.load(record["_folder"])
    path = Path(record["_folder"]) / predictions.FILE
    assert {"text", "prediction_tfidf", "prediction_equal_steps"} <= found.names
    path.rename(path.with_suffix(".gone"))
    assert len(found.column("prediction")) == 300
    with pytest.raises(FileNotFoundError):
        found.column("text")
