import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from transfer.errors import UserError
from transfer.study.compare import compare


def rows(comparison):
    return {row.label: row for row in comparison.rows}


@pytest.fixture
def paired(study):
    for seed in (0, 1, 2):
        for arm in ("transfer", "direct", "scratch"):
            study.add(arm, seed, shuffle=True)
    return study


def test_arms_are_paired_and_the_gain_is_said(paired):
    comparison = compare(paired.records)
    transfer = rows(comparison)["transfer from movies"]
    metrics = [
        [r["metrics"]["test/accuracy"] for r in paired.records if r["arm"] == arm] for arm in ("transfer", "scratch")
    ]
    assert transfer.over_scratch[0].gain.estimate == pytest.approx(np.mean(metrics[0]) - np.mean(metrics[1]))
    assert transfer.over_scratch[0].gain.verdict == "gain"
    assert transfer.over_scratch[0].gain.covers_examples
    assert transfer.over_scratch[0].notes == []
    assert [c.against for c in transfer.over_direct] == ["direct"]
    assert (transfer.over_floor.against, transfer.beats_floor) == ("tfidf", True)
    assert comparison.metric == "accuracy"
    assert comparison.refused == []
    points = 100 * transfer.over_scratch[0].gain.estimate
    assert comparison.sentences[0].startswith(
        f"With 100 labels, transfer from movies beats training from scratch by {points:.1f} points of accuracy (95 % "
    )
    assert "3 seeds, 300 test examples; scratch trained to convergence)." in comparison.sentences[0]


def test_equal_steps_are_another_baseline_and_the_other_reading_stays_in_sight(paired):
    converged, equal = compare(paired.records), compare(paired.records, baseline="equal_steps")
    assert rows(equal)["scratch"].values == rows(converged)["scratch, equal steps"].values
    assert rows(equal)["scratch, converged"].secondary
    expected = np.mean(rows(equal)["transfer from movies"].values) - np.mean(rows(equal)["scratch"].values)
    assert rows(equal)["transfer from movies"].over_scratch[0].gain.estimate == pytest.approx(expected)
    assert "scratch stopped at equal steps" in equal.sentences[0]


def test_predictions_in_another_order_are_the_same_evidence(paired):
    before = compare(paired.records).rows[0].over_scratch[0].gain
    for record in paired.records:
        path = f"{record['_folder']}/predictions.parquet"
        table = parquet.read_table(path).sort_by("id")
        parquet.write_table(table, path)
    after = compare(paired.records).rows[0].over_scratch[0].gain
    assert (after.estimate, after.low) == pytest.approx((before.estimate, before.low))


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (0.66, "it is undecided whether transfer from movies beats training from scratch: the difference is "),
        (0.4, "transfer from movies harms: negative transfer, it is worse than training from scratch by "),
    ],
)
def test_honest_variants(study, quality, words):
    for seed in (0, 1, 2):
        study.add("transfer", seed, quality=quality)
        study.add("scratch", seed)
    comparison = compare(study.records)
    assert words in comparison.sentences[0]
    assert bool(comparison.next_commands) == (quality == 0.66)
    if comparison.next_commands:
        assert comparison.next_commands == [
            f"transfer run experiment=movies_to_shops arm={arm} target.data.train_size=100 seed=3"
            for arm in ("transfer", "scratch")
        ]


def test_a_lost_floor_is_said(study):
    for seed in (0, 1, 2):
        study.add("transfer", seed, quality=0.45)
        study.add("scratch", seed, quality=0.3)
    comparison = compare(study.records)
    assert rows(comparison)["transfer from movies"].beats_floor is False
    assert "It does not beat the TF-IDF floor: it is worse by" in comparison.sentences[0]
    assert {floor.name: floor.score.num for floor in comparison.floors} == {"majority": 3, "tfidf": 3}


def test_one_seed_says_what_its_interval_leaves_out(study):
    study.add("transfer")
    study.add("scratch")
    sentence = compare(study.records).sentences[0]
    assert "1 seed, 300 test examples; the interval covers the test examples, not the seeds" in sentence


def test_a_missing_twin_is_asked_for(study):
    study.add("transfer", 4, config={"data_seed": 2, "subset_seed": 9})
    comparison = compare(study.records)
    command = "transfer run experiment=movies_to_shops arm=scratch target.data.train_size=100 seed=4"
    command += " data_seed=2 subset_seed=9"
    assert f"there is no scratch run on the same labels: run `{command}`." in comparison.sentences[0]
    assert comparison.next_commands == [command]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"fingerprint": "data-2"}, "the data differ (fingerprint data-1 and data-2)"),
        ({"subset_hash": "other"}, "the training subsets differ (subset_hash subset-1-1 and other)"),
    ],
)
def test_pairs_on_other_data_are_refused_and_named(study, data, words):
    for seed in (0, 1):
        study.add("transfer", seed)
        study.add("scratch", seed, data=data if seed else {}, config={"data_seed": seed})
        study.records[-2]["config"]["data_seed"] = seed
    comparison = compare(study.records)
    assert comparison.refused == [f"transfer from movies against scratch, 100 labels, seed 1: {words}."]
    assert rows(comparison)["transfer from movies"].over_scratch[0].gain.num_seeds == 1
    # Either of the two may be the older one.
    own = "target.data.train_size=100 seed=1 data_seed=1"
    assert comparison.next_commands[:2] == [
        f"transfer run experiment=movies_to_shops arm={a} {own}" for a in ("scratch", "transfer")
    ]


def test_other_test_examples_are_refused(study):
    study.add("transfer")
    study.add("scratch")
    path = f"{study.records[1]['_folder']}/predictions.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 200), path)
    assert compare(study.records).refused == [
        "transfer from movies against scratch, 100 labels, seed 0: the test examples differ (300 and 200, by id)."
    ]


def test_a_metric_that_predictions_do_not_give_rests_on_the_seeds(study):
    for seed in (0, 1):
        for arm, loss in (("transfer", 0.4), ("scratch", 0.6)):
            study.add(arm, seed)["metrics"]["test/loss"] = loss + seed / 50 * (arm == "scratch")
    gain = rows(compare(study.records, metric="loss"))["transfer from movies"].over_scratch[0]
    assert gain.gain.estimate == pytest.approx(0.21)
    assert (gain.gain.covers_examples, gain.notes) == (False, ["loss cannot be computed from single predictions"])


def test_predictions_that_contradict_the_record_are_not_used(study):
    for seed in (0, 1):
        study.add("transfer", seed)["metrics"]["test/accuracy"] = 0.123
        study.add("scratch", seed)
    contrast = rows(compare(study.records))["transfer from movies"].over_scratch[0]
    assert not contrast.gain.covers_examples
    assert "another accuracy than was recorded" in contrast.notes[0]


def test_without_predictions_one_seed_has_no_interval(study):
    study.add("transfer", write=False)
    study.add("scratch", write=False)
    sentence = compare(study.records).sentences[0]
    assert "no interval, 1 seed, 300 test examples; a run kept no column prediction in its predictions" in sentence


def test_every_variant_of_scratch_is_a_baseline(study):
    study.add("transfer")
    for lr in (1e-4, 5e-4):
        study.add("scratch", config={"scratch": {"lr": lr}})
    contrasts = rows(compare(study.records))["transfer from movies"].over_scratch
    assert [c.against for c in contrasts] == ["scratch (scratch.lr=0.0001)", "scratch (scratch.lr=0.0005)"]


def test_a_setting_that_both_arms_have_chooses_the_twin(study):
    for epochs in (4, 8):
        for arm in ("transfer", "scratch"):
            study.add(arm, config={"target": {"budget": {"max_epochs": epochs}}})
    for label, row in rows(compare(study.records)).items():
        if row.arm == "transfer":
            assert [c.against for c in row.over_scratch] == [label.replace("transfer from movies", "scratch")]


def test_budgets_are_ordered_and_all_labels_come_last(study):
    for size in (None, 500, 20):
        study.add("transfer", 0, size)
        study.add("scratch", 0, size)
    comparison = compare(study.records)
    assert [row.num_labels for row in comparison.rows if row.arm == "transfer"] == [20, 500, 1200]
    assert comparison.sentences[-1].startswith("With all 1,200 labels, ")
    assert rows(comparison)["transfer from movies"].commands == [
        "transfer run experiment=movies_to_shops arm=transfer target.data.train_size=null seed=0"
    ]


def test_regression_is_compared_with_its_direction(study):
    rng = np.random.default_rng(5)
    labels = rng.normal(size=300)
    for arm, noise in (("transfer", 0.5), ("scratch", 1.0)):
        for seed in (0, 1, 2):
            record = study.add(arm, seed, monitor={"name": "val/mse", "mode": "min", "best": 1.0})
            guess = labels + rng.normal(size=300) * noise
            record["metrics"] = {
                "test/mse": float(((guess - labels) ** 2).mean()),
                "floor_mean/mse": float(np.var(labels)),
            }
            columns = {
                "id": study.ids,
                "label": labels,
                "prediction": guess,
                "prediction_mean": np.full(300, labels.mean()),
            }
            parquet.write_table(pa.table(columns), f"{record['_folder']}/predictions.parquet")
    comparison = compare(study.records)
    transfer = rows(comparison)["transfer from movies"]
    assert not comparison.higher_is_better
    assert transfer.over_scratch[0].gain.verdict == "gain"
    assert (transfer.over_floor.against, transfer.beats_floor) == ("mean", True)
    assert "in mean squared error" in comparison.sentences[0]


@pytest.mark.parametrize("arms", [[], [None], ["scratch"]])
def test_nothing_to_compare_says_what_to_run(study, arms):
    for arm in arms:
        study.add(arm)
    with pytest.raises(UserError, match=r"transfer run experiment=\w+ arm=transfer"):
        compare(study.records)


@pytest.mark.parametrize(("settings", "key"), [({"metric": "bleu"}, "metric"), ({"baseline": "best"}, "baseline")])
def test_wrong_settings_are_named(paired, settings, key):
    with pytest.raises(UserError) as caught:
        compare(paired.records, **settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_runs_that_monitor_different_metrics_need_a_choice(study):
    study.add("transfer")
    study.add("scratch", monitor={"name": "val/loss", "mode": "min", "best": 1.0})
    with pytest.raises(UserError, match="name the metric"):
        compare(study.records)
    assert compare(study.records, metric="accuracy").higher_is_better


def test_a_baseline_that_no_run_recorded_is_refused(study):
    study.add("transfer")
    del study.add("scratch")["metrics"]["test_equal_steps/accuracy"]
    with pytest.raises(UserError, match="test_equal_steps/accuracy"):
        compare(study.records, baseline="equal_steps")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"target": {"budget": {"max_epochs": 8}}}, "the budgets differ (target.budget.max_epochs 4 and 8)"),
        (
            {"trainer": {"accumulate_grad_batches": 2}},
            "the budgets differ (trainer.accumulate_grad_batches None and 2)",
        ),
        (
            {"target": {"budget": {"max_epochs": 4}, "task": {"max_length": 64}}},
            "the tasks differ (target.task.max_length None and 64)",
        ),
    ],
)
def test_pairs_with_another_budget_or_task_are_refused_and_named(study, theirs, words):
    study.add("transfer")
    study.add("scratch", config=theirs)
    comparison = compare(study.records)
    assert comparison.refused == [f"transfer from movies against scratch, 100 labels, seed 0: {words}."]
    assert comparison.gains == []


def test_pairs_with_other_numbers_of_examples_are_refused_and_named(study):
    study.add("transfer")
    study.add("scratch", data={"num_val": 50})
    assert "the numbers of val examples differ (100 and 50)" in compare(study.records).refused[0]


def test_the_scratch_arm_may_train_longer(study):
    study.add("transfer", config={"scratch": {"max_epochs": 10}})
    study.add("scratch", config={"scratch": {"max_epochs": 60}})
    assert compare(study.records).refused == []
