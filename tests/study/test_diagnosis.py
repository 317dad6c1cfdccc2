import numpy as np
import pytest

from transfer.study.compare import compare
from transfer.study.diagnosis import not_learned

TRANSFORMER = {"loaded": ["bert.encoder.layer.0.attention.self.query.weight"], "fraction_loaded": 1.0}


def harmed(study, seeds=(0, 1, 2), **changes):
    for seed in seeds:
        study.add("transfer", seed, quality=0.6, **changes)
        study.add("scratch", seed, quality=0.85)
    comparison = compare(study.records)
    contrast = next(contrast for row, contrast in comparison.gains if row.arm == "transfer")
    assert contrast.verdict == "harm"
    return comparison, contrast


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"vocabulary_overlap": 0.41}}, "only 41 % of the words of the test data occur in the source's texts"),
        ({"weights": {"fraction_loaded": 0.6}}, "only 60 % of the backbone was loaded from the source"),
        (
            {"weights": TRANSFORMER, "config": {"optimizer": {"lr": None}, "model": {"lr": 0.003}}},
            "the learning rate 0.003 is high for the weights of a trained transformer",
        ),
        (
            {"validation": [0.8, 0.7, 0.6]},
            "its validation accuracy falls from the first validation on (80.0 % to 60.0 %)",
        ),
    ],
)
def test_a_likely_reason_is_named(study, changes, words):
    comparison, contrast = harmed(study, **changes)
    assert len(contrast.reasons) == 1
    assert contrast.reasons[0].startswith(words)
    assert (
        f"negative transfer, it is worse than training from scratch by {-100 * contrast.gain.estimate:.1f}"
        in (comparison.sentences[0])
    )
    assert f"Likely reason: {words}" in comparison.sentences[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": {"vocabulary_overlap": 0.9}, "weights": {**TRANSFORMER, "fraction_loaded": 0.95}},
        {"weights": {"loaded": ["recurrent.weight"]}, "config": {"optimizer": {"lr": 0.01}}},  # not a transformer
        {"validation": [0.8, 0.82, 0.6]},
    ],
)
def test_where_nothing_is_to_be_seen_nothing_is_said(study, changes):
    comparison, contrast = harmed(study, **changes)
    assert contrast.reasons == []
    assert "The records show no likely reason." in comparison.sentences[0]


def test_a_source_that_was_not_learned_is_a_reason(study):
    source = study.add(None, 0, None, fingerprint="7" * 40, run_id="pretrain-" + "7" * 10)
    source["metrics"] = {"test/mcc": 0.02, "test/accuracy": 0.51}
    parent = [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    _, contrast = harmed(study, parents=parent)
    assert contrast.reasons == ["the source was hardly learned (pretrain-7777777777: test MCC 0.02)"]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"test/mcc": 0.6, "test/f1": 0.1}, None),
        ({"test/pearson": 0.05}, "test Pearson correlation 0.05"),
        ({"test/f1": 0.36, "test/f1/a": 0.0, "test/f1/b": 0.1, "test/f1/c": 1.0}, "test F1 36.0 %"),
        ({"test/f1": 0.6, "test/f1/a": 0.5, "test/f1/b": 0.7}, None),
        ({"test/loss": 3.0}, None),
    ],
)
def test_what_counts_as_not_learned(metrics, expected):
    assert not_learned({"metrics": metrics}) == expected


def test_of_entities_a_fifth_is_no_chance():
    metrics = {"test/f1": 0.2, "test/f1/PER": 0.3, "test/f1/LOC": 0.1}
    assert not_learned({"metrics": metrics, "task": "token_classification"}) is None
    assert not_learned({"metrics": metrics, "task": "sequence_classification"}) == "test F1 20.0 %"


def test_a_gain_has_no_reasons(study):
    for seed in (0, 1):
        study.add("transfer", seed, data={"vocabulary_overlap": 0.1})
        study.add("scratch", seed)
    assert compare(study.records).gains[0][1].reasons == []


def test_a_seed_that_answers_one_class_is_named(study):
    for seed in (0, 1, 2):
        study.add("transfer", seed, answers=np.full(study.num_test, "pos") if seed == 1 else None)
        study.add("scratch", seed)
    comparison = compare(study.records)
    assert comparison.rows[0].collapsed == ["seed 1 collapsed: it answers pos to every test example"]
    assert "With 100 labels, seed 1 collapsed" in comparison.sentences[0]


def test_a_seed_at_the_floor_beside_others_above_it_is_named(study):
    for seed in (0, 1, 2):
        study.add("transfer", seed)
        study.add("scratch", seed, quality=0.3 if seed == 2 else 0.8)
    rows = {row.label: row for row in compare(study.records).rows}
    assert [line.split(":")[0] for line in rows["scratch"].collapsed] == ["seed 2 collapsed"]
    assert rows["transfer from movies"].collapsed == []


def test_an_arm_that_is_all_at_the_floor_has_not_collapsed(study):
    for seed in (0, 1, 2):
        study.add("transfer", seed)
        study.add("scratch", seed, quality=0.45)
    rows = {row.label: row for row in compare(study.records).rows}
    assert rows["scratch"].collapsed == []
