"""Whole runs on every kind of data: other people's columns, numbers, several labels, pairs."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.running import BAD, GOOD, LSTM, run, write_csv


def test_somebody_elses_file(tmp_path):
    """Other names of columns, other words for the labels, another extension, through overrides alone."""
    rows = [
        {"Nr": i, "Kommentar": f"{('schlecht', 'gut')[i % 2]} Wort{i % 7}", "Note": ("1", "5")[i % 2]}
        for i in range(60)
    ]
    file = write_csv(tmp_path / "kommentare.dat", rows)
    columns = ["target.data.columns.text=Kommentar", "target.data.columns.label=Note", "target.data.columns.id=Nr"]
    labels = ["target.data.label_map.1=bad", "target.data.label_map.5=good", "target.data.labels=[good,bad]"]
    record = run(
        *["model=word_mean", "model.config.embedding_size=16", f"target.data.path={file}", "target.data.format=csv"],
        *[*columns, *labels, "stage=scratch", "scratch.max_epochs=20", f"output_dir={tmp_path / 'outputs'}"],
    )
    predictions = pd.read_parquet(Path(record["_folder"]) / "predictions.parquet")
    assert set(predictions["label"]) == {"good", "bad"}
    assert set(predictions["id"]) <= {str(i) for i in range(60)}
    assert record["metrics"]["test/accuracy"] == 1.0, "one word tells it"
    model = json.loads((Path(record["_folder"]) / "model" / "config.json").read_text())
    assert model["id2label"] == {"0": "good", "1": "bad"}


def test_regression_on_features(tmp_path):
    rows = [{"a": i % 9, "b": i % 7, "y": 3 * (i % 9) - 2 * (i % 7) + 5} for i in range(90)]
    file = write_csv(tmp_path / "numbers.csv", rows)
    record = run(
        *["model=linear", "task@target.task=regression", f"target.data.path={file}", "stage=scratch"],
        *["target.data.columns.features=[a,b]", "target.data.columns.text=null", "target.data.columns.label=y"],
        *["scratch.max_epochs=60", "optimizer=adam", f"output_dir={tmp_path / 'outputs'}"],
    )
    assert record["metrics"]["test/mse"] < 0.5
    assert record["metrics"]["test/pearson"] > 0.99
    assert record["monitor"]["mode"] == "min"
    predictions = pd.read_parquet(Path(record["_folder"]) / "predictions.parquet")
    assert ((predictions["label"] - predictions["prediction"]) ** 2).mean() == pytest.approx(
        record["metrics"]["test/mse"]
    )


def test_regression_on_texts(tmp_path):
    rows = [{"text": f"{('bad', 'so so', 'good')[i % 3]} word{i % 5}", "label": i % 3 - 1.0} for i in range(60)]
    file = write_csv(tmp_path / "texts.csv", rows)
    record = run(
        *["model=word_mean", "task@target.task=regression", f"target.data.path={file}", "stage=scratch"],
        *["scratch.max_epochs=30", f"output_dir={tmp_path / 'outputs'}", "floors=true"],
    )
    assert record["metrics"]["test/mse"] < 0.9 * record["metrics"]["floor_mean/mse"]


def test_several_labels_a_row(tmp_path):
    topics = ["film", "music", "film|music", ""]
    rows = [{"text": f"{topics[i % 4].replace('|', ' ')} word{i % 5}", "label": topics[i % 4]} for i in range(80)]
    file = write_csv(tmp_path / "topics.csv", rows)
    record = run(
        *["model=word_mean", f"target.data.path={file}", "target.task.multi_label=true", "target.task.monitor=f1"],
        *["target.data.label_separator='|'", "stage=scratch", "scratch.max_epochs=40", "scratch.warmup_steps=0"],
        *["model.scratch_lr=0.02", f"output_dir={tmp_path / 'outputs'}"],
    )
    predictions = pd.read_parquet(Path(record["_folder"]) / "predictions.parquet")
    assert {len(labels) for labels in predictions["label"]} == {0, 1, 2}
    assert record["metrics"]["test/f1"] > 0.9


def test_pairs_of_texts(tmp_path):
    rows = [{"text": f"is it {w} word{i}", "other": w, "label": "yes"} for i, w in enumerate(GOOD * 6)]
    rows += [{"text": f"is it {w} word{i}", "other": "no", "label": "no"} for i, w in enumerate(BAD * 6)]
    file = write_csv(tmp_path / "pairs.csv", rows)
    record = run(
        *["model=word_mean", f"target.data.path={file}", "target.data.columns.text_pair=other", "stage=scratch"],
        *["scratch.max_epochs=15", f"output_dir={tmp_path / 'outputs'}"],
    )
    assert record["metrics"]["test/accuracy"] > 0.9


def test_what_source_and_target_share_is_told_and_recorded(tmp_path, caplog):
    source = write_csv(
        tmp_path / "source.csv",
        [{"text": f"good film {i} here", "label": "pos"} for i in range(20)]
        + [{"text": f"bad plot {i} here", "label": "neg"} for i in range(20)],
    )
    target = write_csv(
        tmp_path / "target.csv",
        [{"text": f"good film {i} unseen", "label": "pos"} for i in reversed(range(20))]
        + [{"text": f"bad plot {i} here", "label": "neg"} for i in reversed(range(20))],
    )
    overrides = [
        "data@source.data=csv",
        f"source.data.path={source}",
        f"target.data.path={target}",
        f"output_dir={tmp_path}/out",
    ]
    with caplog.at_level("INFO", logger="transfer"):
        record = run(*LSTM, *overrides)
    assert "are also in the source's training split" in caplog.text
    # Half of the test texts have one word of four that the source does not know.
    assert record["data"]["vocabulary_overlap"] == pytest.approx(0.875, abs=0.08)
    assert "vocabulary_overlap" not in run(*LSTM, *overrides, "arm=scratch")["data"]
