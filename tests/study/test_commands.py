from pathlib import Path

import pytest

from transfer.study.compare import compare


def rows(comparison):
    return {row.label: row for row in comparison.rows}


def test_the_command_is_the_one_that_was_typed(study):
    typed = ["experiment=movies_to_shops", "target.data.train_size=100", "scratch.lr=0.001", "optimizer.lr=1e-5"]
    study.add("transfer", 0, overrides=[*typed, "arm=transfer", "seed=0"])
    study.add("scratch", 0, overrides=["experiment=movies_to_shops", "arm=scratch", "seed=0", "+note='a b'"])
    comparison = compare(study.records)
    found = rows(comparison)
    assert found["transfer from movies"].commands == [
        "transfer run experiment=movies_to_shops target.data.train_size=100 scratch.lr=0.001 optimizer.lr=1e-5 "
        "arm=transfer seed=0"
    ]
    assert found["scratch"].commands == [
        "transfer run experiment=movies_to_shops arm=scratch seed=0 '+note='\"'\"'a b'\"'\"''"
    ]


def test_the_twin_of_a_typed_command_leaves_out_what_it_does_not_read(study):
    """The source stays: its texts may have made the vocabulary."""
    typed = ["experiment=movies_to_shops", "optimizer.lr=1e-5", "source.data.path=a.csv", "arm=transfer", "seed=4"]
    study.add("transfer", 4, overrides=typed)
    assert rows(compare(study.records))["transfer from movies"].missing == [
        "transfer run experiment=movies_to_shops source.data.path=a.csv arm=scratch seed=4"
    ]


def test_a_typed_command_without_its_seed_gets_it(study):
    study.add("transfer", 0, overrides=["experiment=movies_to_shops"])
    study.add("scratch", 0)
    assert compare(study.records).next_commands[0] == "transfer run experiment=movies_to_shops arm=transfer seed=1"


def test_a_lead_over_the_published_weights_that_is_open_asks_for_both(study):
    for seed in (0, 1, 2):
        study.add("transfer", seed, quality=0.9)
        study.add("direct", seed, quality=0.895)
        study.add("scratch", seed, quality=0.4)
    comparison = compare(study.records)
    assert [contrast.verdict for _, contrast in comparison.gains] == ["gain", "gain"]
    assert comparison.next_commands == [
        f"transfer run experiment=movies_to_shops arm={arm} target.data.train_size=100 seed=3"
        for arm in ("transfer", "direct")
    ]


@pytest.mark.parametrize(("mode", "arm", "seed"), [("max", "transfer", 0), ("min", "scratch", 1)])
def test_the_best_model_that_is_left_is_named(study, mode, arm, seed):
    for number, best in enumerate((0.8, 0.6, 0.9, None)):
        for each in ("transfer", "scratch"):
            study.add(each, number, monitor={"name": "val/accuracy", "mode": mode, "best": best})
    assert compare(study.records).use_command is None, "no weights were kept"
    folders = {(record["arm"], record["seed"]): Path(record["_folder"]) for record in study.records}
    for (_, number), folder in folders.items():
        if number != 2:  # its weights were deleted
            (folder / "model").mkdir()
    assert compare(study.records).use_command == f"transfer predict {folders[arm, seed]} --input FILE"
    study.add("transfer", 0, target="hotels")
    study.add("scratch", 0, target="hotels")
    assert compare(study.records).use_command is None, "two targets have two models"
