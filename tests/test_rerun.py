"""`transfer rerun`: identical where nothing changed, and what changed is named."""

import pytest

from tests.running import cli
from transfer import records, rerun

LINE = ["experiment=linear_drift", "trainer=cpu", "trainer.precision=32", "logger=none", "scratch.max_epochs=3"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    assert cli("run", *LINE, "arm=scratch", f"output_dir={folder}").code == 0
    return folder


def test_nothing_changed_gives_the_same_numbers(outputs):
    before = [(r["_folder"], r["time"]) for r in records.find(outputs)]
    outcome = cli("rerun", "scratch-", "--output-dir", outputs)
    assert outcome.code == 0, outcome.err
    assert "identical" in outcome.out
    assert "different" not in outcome.out
    assert "within noise" not in outcome.out
    for kind in ("config", "code", "data", "packages", "hardware"):
        assert f"{kind:9} as it was" in outcome.out
    assert [(r["_folder"], r["time"]) for r in records.find(outputs)] == before
    assert len(list((outputs / "linear_drift" / rerun.RERUNS).iterdir())) == 1


def test_a_changed_setting_is_named_and_its_effect_shown(outputs):
    outcome = cli("rerun", "linear_drift", "scratch.lr=0.001", "--output-dir", outputs)
    assert outcome.code == 1
    assert "scratch.lr: None -> 0.001" in outcome.out
    assert "different" in outcome.out


@pytest.mark.parametrize(("words", "key"), [(["nowhere"], "NAME_OR_RUN"), (["scratch-", "scratch.lrr=1"], "overrides")])
def test_mistakes(outputs, words, key):
    outcome = cli("rerun", *words, "--output-dir", outputs)
    assert outcome.code == 2
    assert key in outcome.err


def test_reproduce_prints_what_was_typed(outputs):
    outcome = cli("show", "scratch-", "--reproduce", "--output-dir", outputs)
    assert outcome.out.split() == ["transfer", "run", *LINE, "arm=scratch", f"output_dir={outputs}"]


def test_other_packages_data_and_machine_are_named(outputs, monkeypatch):
    (record,) = records.find(outputs)
    config = rerun.config_of(record, [])
    changed = {
        **record,
        "versions": record["versions"] | {"torch": "1.0"},
        "hardware": record["hardware"] | {"device": "another"},
        "data": record["data"] | {"fingerprint": "0" * 32},
        "git": {"commit": "0" * 40, "dirty": False},
    }
    found = rerun.differences(changed, config)
    assert found["config"] == []
    assert found["packages"] == [f"torch: 1.0 -> {record['versions']['torch']}"]
    assert found["hardware"][0].startswith("another -> ")
    assert found["data"][0].startswith("0000000000 -> ")
    assert any(line.startswith("commit 000000000000 ->") for line in found["code"])


@pytest.mark.parametrize(
    ("now", "siblings", "word"),
    [
        (0.80, [], "identical"),
        (0.83, [], "within noise"),  # two standard errors of 100 test rows are 0.11
        (0.60, [], "different"),
        (0.83, [0.80, 0.801, 0.799], "different"),  # the seeds say that so much is no chance
        (0.83, [0.75, 0.80, 0.85], "within noise"),
    ],
)
def test_verdicts(now, siblings, word):
    def record(value):
        return {"metrics": {"test/accuracy": value}, "data": {"num_test": 100, "num_val": 50}}

    (verdict,) = rerun.verdicts(record(0.80), record(now), [record(value) for value in siblings])
    assert verdict.word == word
