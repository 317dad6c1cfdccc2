"""Heads that train together come to what each comes to alone."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.running import QUICK, TINY_BERT, cli, reviews
from transfer import records
from transfer.prefix import together as trained
from transfer.sweep import together


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return reviews(tmp_path_factory.mktemp("together") / "reviews.csv", 90)


def sweep(data, outputs, *overrides):
    """The records of a sweep, by what was set in each, and what it said."""
    given = [*QUICK, *TINY_BERT, "data@source.data=csv", f"source.data.path={data}", f"target.data.path={data}"]
    given += ["arm=transfer", "freezing=head_only", "source.budget.max_epochs=1", "target.budget.batch_size=8"]
    given += [f"output_dir={outputs}", f"cache_dir={outputs.parent / 'cache'}"]
    done = cli("run", "-m", *given, *overrides)
    assert done.code == 0, done.err
    found = [record for record in records.find(outputs) if record["stage"] == "finetune"]
    return {json.dumps(sorted(r["overrides"])).replace(str(outputs), ""): r for r in found}, done.err


AXES = {
    "seeds and budgets": [
        "optimizer.weight_decay=0,0.1",
        "seed=0,1",
        "target.data.train_size=30,null",
        "target.budget.max_epochs=3",
    ],
    "patience and a plateau": [
        "optimizer.lr=1e-5,0.3",
        "target.budget.patience=1",
        "scheduler=plateau",
        "target.budget.max_epochs=6",
        "trainer.gradient_clip_val=null",
    ],
    "so many steps": ["optimizer.lr=0.01,0.1", "target.budget.max_steps=17", "target.budget.max_epochs=4"],
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_each_comes_to_what_it_comes_to_alone(data, tmp_path, axes):
    one, said = sweep(data, tmp_path / "together", *axes)
    assert "are trained together" in said
    other, said = sweep(data, tmp_path / "alone", *axes, "trainer.feature_cache=false")
    assert "are trained together" not in said
    alone = {key.replace("false", "true"): record for key, record in other.items()}
    assert len(one) == len(alone) > 1
    by_fingerprint = {record["fingerprint"]: record for record in alone.values()}
    for record in one.values():
        twin = by_fingerprint[record["fingerprint"]]
        assert record["features"]["num_runs_together"] > 1
        assert record["features"]["kept"] == ["the backbone"]
        assert record["metrics"].keys() == twin["metrics"].keys()
        for name, value in record["metrics"].items():
            assert value == pytest.approx(twin["metrics"][name], rel=1e-3, abs=1e-5), name
        for name in ("weights", "parameters", "data", "monitor", "train_size", "parents"):
            if name == "monitor":
                assert record[name]["best"] == pytest.approx(twin[name]["best"], rel=1e-4)
            else:
                assert record[name] == twin[name], name
        ours, theirs = (pd.read_parquet(f"{each['_folder']}/predictions.parquet") for each in (record, twin))
        assert list(ours["prediction"]) == list(theirs["prediction"])
        np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-3)
        curves = [pd.read_csv(f"{each['_folder']}/metrics.csv") for each in (record, twin)]
        for name in ("val/loss", "train/loss"):
            first, second = (curve[["step", name]].dropna().reset_index(drop=True) for curve in curves)
            pd.testing.assert_frame_equal(first, second, rtol=1e-3, check_exact=False)


def test_subsets_that_differ_in_size_are_trained_one_by_one(tmp_path):
    """Windows of long contexts are rows of their own."""
    with open(tmp_path / "questions.jsonl", "w") as file:
        for number in range(40):
            words = [f"w{(number * place) % 11}" for place in range(3 + 3 * number)]
            answer = {"text": [words[0]], "answer_start": [0]}
            file.write(json.dumps({"q": "which", "c": " ".join(words), "answers": answer}) + "\n")
    columns = ["text=q", "text_pair=c", "label=answers"]
    given = [*QUICK, *TINY_BERT, "task@target.task=question_answering", "target.task.max_length=32", "init=source"]
    given += [f"target.data.columns.{column}" for column in columns] + ["target.task.options.stride=8"]
    data = tmp_path / "questions.jsonl"
    given += ["data@source.data=csv", f"source.data.path={data}", "task@source.task=question_answering"]
    given += [f"source.data.columns.{column}" for column in columns] + ["source.task.max_length=32"]
    given += ["source.task.options.stride=8", "source.budget.max_epochs=1", "target.budget.max_epochs=1"]
    given += [f"target.data.path={data}", "target.data.train_size=12", "freezing=head_only", "stage=finetune"]
    done = cli("run", "-m", *given, "seed=0,1", f"output_dir={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}")
    assert done.code == 0, done.err
    assert "2 runs are trained one by one: a long text is several rows" in done.err
    found = [record for record in records.find(tmp_path / "out") if record["stage"] == "finetune"]
    assert [record["status"] for record in found] == ["complete", "complete"]


def test_again_nothing_is_trained(data, tmp_path):
    axes = ["optimizer.lr=0.01,0.1", "target.budget.max_epochs=2"]
    one, _ = sweep(data, tmp_path / "outputs", *axes)
    other, said = sweep(data, tmp_path / "outputs", *axes)
    assert "are trained together" not in said
    assert [r["time"] for r in one.values()] == [r["time"] for r in other.values()]


def test_a_head_waits_for_its_turn(data, tmp_path, monkeypatch):
    """Killed between the training of the heads and the jobs, a sweep goes on with what was trained."""
    axes = ["optimizer.lr=0.01,0.1", "target.budget.max_epochs=2"]
    prepare = together.prepare

    def killed(plans):
        prepare(plans)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(together, "prepare", killed)
        with pytest.raises(AssertionError):
            sweep(data, tmp_path / "outputs", *axes)
    waiting = list(tmp_path.glob(f"outputs/*/*/{trained.TRAINED}"))
    assert len(waiting) == 2
    found, said = sweep(data, tmp_path / "outputs", *axes)
    assert "are trained together" not in said
    assert {record["features"]["num_runs_together"] for record in found.values()} == {2}
    assert not any(path.exists() for path in waiting)
