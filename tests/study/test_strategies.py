import pytest

from transfer.study.settings import flatten
from transfer.study.strategies import build


def labels(records):
    return [(s.label, [run.seed for run in s.runs]) for s in build(records)[0]]


def test_seeds_are_one_strategy(study):
    for seed in (2, 0, 1):
        study.add("transfer", seed, write=False)
    assert labels(study.records) == [("transfer from movies", [0, 1, 2])]


def test_runs_that_differ_in_a_setting_stay_apart_and_say_it(study):
    for lr in (1e-5, 5e-5):
        study.add("transfer", 0, write=False, config={"optimizer": {"lr": lr}})
    assert labels(study.records) == [
        ("transfer from movies (optimizer.lr=1e-05)", [0]),
        ("transfer from movies (optimizer.lr=5e-05)", [0]),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {"lr": 1.0}},
        {"freezing": {"policy": "all"}},
        {"source": {"seed": 3}},
        {"output_dir": "elsewhere"},
        {"logger": {"name": "csv"}},
    ],
)
def test_settings_that_scratch_does_not_read_do_not_split_it(study, change):
    study.add("scratch", 0, write=False)
    study.add("scratch", 1, write=False, config=change)
    assert labels(study.records) == [("scratch", [0, 1])]


def test_an_unread_setting_tells_runs_apart_that_nothing_else_does(study):
    for seed in (0, 1):
        study.add("scratch", 0, write=False, config={"source": {"seed": seed}})
    assert labels(study.records) == [("scratch (source.seed=0)", [0]), ("scratch (source.seed=1)", [0])]


def test_other_freezings_sources_targets_and_models_are_named(study):
    study.add("transfer", write=False, freezing="head_only")
    study.add("transfer", write=False, source="news")
    study.add("direct", write=False, target="hotels", model="big-bert")
    assert [label for label, _ in labels(study.records)] == [
        "direct (none, big-bert, on hotels)",
        "transfer from movies (head_only, tiny-bert, on shops)",
        "transfer from news (none, tiny-bert, on shops)",
    ]


LORA = {"name": "lora", "r": 8, "options": {}}


def test_other_methods_are_named_by_their_names(study):
    """A record from before there were any is one without; settings are named only where those of a method differ."""
    study.add("transfer", 0, write=False)
    study.add("transfer", 1, write=False, config={"adaptation": {"name": "none", "r": 8, "options": {}}})
    study.add("transfer", 0, write=False, config={"adaptation": LORA, "averaging": {"name": "ema", "decay": 0.9}})
    study.add("transfer", 0, write=False, config={"adaptation": {"name": "ia3", "r": 8, "options": {}}})
    study.add("scratch", 0, write=False)
    study.add("scratch", 1, write=False, config={"adaptation": LORA, "regularizer": {"name": "l2_sp", "alpha": 0.1}})
    assert sorted(labels(study.records)) == [
        ("scratch", [0, 1]),
        ("transfer from movies", [0, 1]),
        ("transfer from movies (ia3)", [0]),
        ("transfer from movies (lora, ema)", [0]),
    ]


def test_the_same_method_with_other_settings_is_told_by_them(study):
    study.add("transfer", 0, write=False)
    for r in (4, 8):
        study.add("transfer", 0, write=False, config={"adaptation": {**LORA, "r": r}})
    assert sorted(label for label, _ in labels(study.records)) == [
        "transfer from movies",
        "transfer from movies (lora, r=4)",
        "transfer from movies (lora, r=8)",
    ]
    assert sorted(label for label, _ in labels(study.records[1:])) == [
        "transfer from movies (adaptation.r=4)",
        "transfer from movies (adaptation.r=8)",
    ]


def test_layers_that_start_at_random_are_named_and_older_records_have_none(study):
    study.add("transfer", 0, write=False, config={"weights": {"include": [".*"]}})
    study.add("transfer", 1, write=False, config={"weights": {"include": [".*"], "reinit_top_k": 0}})
    study.add("transfer", 0, write=False, config={"weights": {"include": [".*"], "reinit_top_k": 2}})
    assert labels(study.records) == [
        ("transfer from movies (weights.reinit_top_k=0)", [0, 1]),
        ("transfer from movies (weights.reinit_top_k=2)", [0]),
    ]


def test_data_that_changed_between_runs_is_named(study):
    study.add("scratch", write=False)
    study.add("scratch", write=False, data={"fingerprint": "data-2"})
    assert [label for label, _ in labels(study.records)] == ["scratch (data=data-1)", "scratch (data=data-2)"]


def test_data_that_follow_their_seed_are_repetitions(study):
    for data_seed in (0, 1):
        study.add("scratch", write=False, config={"data_seed": data_seed}, data={"fingerprint": f"data-{data_seed}"})
    assert labels(study.records) == [("scratch", [0, 0])]


def test_of_the_same_run_made_twice_the_later_one_counts_and_it_is_said(study):
    study.add("transfer", write=False)
    study.add("transfer", write=False)
    strategies, notes = build(study.records)
    assert [run.record["run_id"] for run in strategies[0].runs] == ["run-001"]
    assert notes == [
        "transfer run run-000: not compared, run run-001 has the same config and seed 0 and started later."
    ]


def test_a_run_found_in_two_experiments_counts_once(study):
    study.add("transfer", write=False)
    assert labels([study.records[0], {**study.records[0], "experiment": "other"}]) == [("transfer from movies", [0])]


def test_unfinished_runs_and_pretrainings_are_left_out(study):
    study.add("transfer", write=False, status="interrupted")
    study.add(None, write=False)
    assert build(study.records) == ([], ["transfer run run-000: not compared, its status is interrupted."])


def test_flatten_gives_the_keys_a_user_types():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2], "e": {}}
