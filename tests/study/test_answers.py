import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.metrics import confusion_matrix

from transfer.study.answers import changed, class_metric, confusion, per_class
from transfer.study.compare import compare


def test_the_confusion_matrix_is_summed_over_the_seeds(study):
    for seed in (0, 1):
        study.add("transfer", seed, shuffle=True)
        study.add("scratch", seed)
    row = compare(study.records).rows[0]
    found = confusion(row.sides)
    expected = sum(
        confusion_matrix(side.run.predictions.labels, side.answers(), labels=["neg", "pos"]) for side in row.sides
    )
    assert found.classes == ("neg", "pos")
    assert found.counts.tolist() == expected.tolist()
    assert found.worst[0][2] == max(expected[0, 1], expected[1, 0])


def test_class_by_class_with_the_gain_of_each(study):
    for seed in (0, 1):
        study.add("transfer", seed)
        study.add("scratch", seed)
    comparison = compare(study.records)
    assert class_metric(comparison) == "recall"
    found = {(score.label, score.name): score for score in per_class(comparison, "recall")}
    records = {(r["arm"], r["seed"]): r["metrics"]["test/recall/pos"] for r in study.records}
    gain = np.mean([records["transfer", seed] - records["scratch", seed] for seed in (0, 1)])
    assert found["transfer from movies", "pos"].gain == pytest.approx(gain)
    assert found["transfer from movies", "pos"].score.num == 2
    # Read at equal steps, the scratch arm's other numbers are those of its other reading.
    other = {(score.label, score.name): score for score in per_class(compare(study.records, "equal_steps"), "recall")}
    assert other["scratch", "pos"].score.mean != found["scratch", "pos"].score.mean


def test_examples_that_most_seeds_changed(study):
    labels = study.labels
    wrong = np.where(labels == "pos", "neg", "pos")
    first, rest = np.arange(len(labels)) < 3, np.arange(len(labels)) >= 297
    for seed in range(3):
        ours = np.where(rest & (seed < 2), wrong, labels)  # two of three seeds break the last three
        study.add("transfer", seed, answers=ours, texts=True)
        study.add("scratch", seed, answers=np.where(first, wrong, labels))
    found = changed(compare(study.records).gains[0][1], "accuracy")
    assert (found.num_fixed, found.num_broken, found.num_test) == (3, 3, 300)
    assert [example.id for example in found.fixed] == ["example-00000", "example-00001", "example-00002"]
    assert found.fixed[0].text.startswith("<b>text</b> of example-00000")
    assert found.broken[0].treated == (wrong[297], wrong[297], labels[297])


def test_of_numbers_those_with_the_smaller_error_are_fixed(study):
    labels = np.linspace(-1, 1, 300)
    for arm, error in (("transfer", 0.1), ("scratch", 0.3)):
        record = study.add(arm, monitor={"name": "val/mse", "mode": "min", "best": 1.0}, task="regression")
        guess = labels + error
        guess[0] = labels[0] + (2.0 if arm == "transfer" else 0.0)
        record["metrics"] = {"test/mse": float(((guess - labels) ** 2).mean())}
        parquet.write_table(
            pa.table({"id": study.ids, "label": labels, "prediction": guess}),
            f"{record['_folder']}/predictions.parquet",
        )
    comparison = compare(study.records)
    found = changed(comparison.gains[0][1], "mse", higher_is_better=False)
    assert (found.num_fixed, found.num_broken) == (299, 1)
    assert found.broken[0].id == "example-00000"
    assert confusion(comparison.rows[0].sides) is None


def test_label_sets_are_compared_as_sets(study):
    sets = [["a", "b"] if i % 2 else ["b"] for i in range(300)]
    for arm in ("transfer", "scratch"):
        answers = [list(reversed(labels)) for labels in sets] if arm == "transfer" else [["c"]] * 300
        record = study.add(arm, task="sequence_classification")
        record["metrics"] = {"test/accuracy": 1.0 if arm == "transfer" else 0.0}
        parquet.write_table(
            pa.table({"id": study.ids, "label": sets, "prediction": answers}),
            f"{record['_folder']}/predictions.parquet",
        )
    comparison = compare(study.records)
    found = changed(comparison.gains[0][1], "accuracy")
    assert (found.num_fixed, found.num_broken) == (300, 0)
    assert found.fixed[0].control == ("c",)
    assert confusion(comparison.rows[0].sides) is None
