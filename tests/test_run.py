"""Whole runs, from overrides to the record: which legs train, from what, on which rows, and when nothing has to."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.running import (
    BAD,
    GOOD,
    LSTM,
    QUICK,
    TINY_BERT,
    cli,
    modules_after,
    record_of,
    reviews,
    run,
    start,
)
from transfer import legs, plan, records
from transfer.compose import compose
from transfer.errors import UserError
from transfer.models.word_vectors import build_tokenizer
from transfer.paths import shipped


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Overrides that name a source and a target."""
    folder = tmp_path_factory.mktemp("data")
    source, target = reviews(folder / "source.csv", seed=1), reviews(folder / "target.csv", num=80, seed=2)
    return ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]


@pytest.fixture
def tiny(data, tmp_path):
    """(overrides) -> the record of a run of a tiny BERT with outputs of its own."""
    short = ["source.budget.max_epochs=1", "target.budget.max_epochs=1", f"output_dir={tmp_path / 'outputs'}"]

    def make(*overrides, model=TINY_BERT):
        return run(*model, *data, *short, *overrides)

    return make


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    """A source that has learned which words are good, for those who start from it."""
    folder = tmp_path_factory.mktemp("source")
    more = [f"source.data.path={reviews(folder / 'more.csv', num=300, seed=4)}", "source.budget.max_epochs=12"]
    options = ["stage=pretrain", "source.optimizer.lr=5e-3", f"output_dir={folder}"]
    record = run(*TINY_BERT, *data, *more, *options)
    assert record["metrics"]["test/accuracy"] > 0.9
    return record


def weights(record):
    return load_file(Path(record["_folder"]) / "model" / "model.safetensors")


def changed(before, after):
    """Names of the tensors of the backbone that differ between two records."""
    old, new = weights(before), weights(after)
    return {name for name in old if name.startswith("bert.") and not torch.equal(old[name], new[name])}


def folders(tmp_path):
    return sorted(path.parent.name.partition("-")[0] for path in (tmp_path / "outputs").glob("*/*/record.json"))


def test_a_source_trains_once_then_its_targets(tiny, tmp_path):
    first = tiny("arm=transfer")
    assert folders(tmp_path) == ["finetune", "pretrain"]
    (parent,) = first["parents"]
    source = records.lookup(tmp_path / "outputs", parent["run_id"])[0]
    assert source["stage"] == "pretrain"
    assert source["fingerprint"] == parent["fingerprint"]
    assert source["arm"] is None
    assert source["time"]["started"] < first["time"]["started"]
    assert first["weights"]["fraction_loaded"] == 1.0
    other = tiny("arm=transfer", "seed=1", "experiment_name=another")
    assert other["parents"] == first["parents"]
    assert folders(tmp_path) == ["finetune", "finetune", "pretrain"], (
        "another experiment finds the source that is there"
    )
    assert Path(other["_folder"]).parent.name == "another"


def test_a_run_leaves_what_the_design_promises(tiny):
    record = tiny("stage=scratch", "floors=true")
    folder = Path(record["_folder"])
    left = {path.name for path in folder.iterdir()}
    promised = {"config.yaml", "metrics.csv", "model", "predictions.parquet", "record.json"}
    # The changes of a checkout that has some, and the overrides of the command line.
    assert promised <= left <= promised | {"code.diff", "overrides.yaml"}
    assert folder.name == f"scratch-{record['fingerprint'][:10]}"
    assert {*records.FIELDS} <= {*json.loads((folder / "record.json").read_text())}
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == record["data"]["num_test"] == predictions["id"].nunique()
    accuracy = (predictions["label"] == predictions["prediction"]).mean()
    assert accuracy == pytest.approx(record["metrics"]["test/accuracy"])
    majority = (predictions["label"] == predictions["prediction_majority"]).mean()
    assert majority == pytest.approx(record["metrics"]["floor_majority/accuracy"])


def test_a_complete_run_is_not_trained_again(data, tmp_path):
    arguments = [*QUICK, *TINY_BERT, *data, "arm=scratch", f"output_dir={tmp_path / 'outputs'}"]
    first = run(*TINY_BERT, *data, "arm=scratch", f"output_dir={tmp_path / 'outputs'}")
    code = "import sys\nfrom transfer import compose, run\nrun.run(compose.compose(sys.argv[1:]))"
    assert modules_after(code, *arguments) == set(), "it is found without torch"
    again = cli("run", *arguments)
    assert again.err == f"{first['_folder']} is complete: nothing to train\n"
    assert record_of(again.out) == first


def test_force_trains_again(tiny, tmp_path):
    first = tiny("arm=scratch")
    second = tiny("arm=scratch", "force=true")
    assert second["fingerprint"] == first["fingerprint"]
    assert second["time"]["started"] > first["time"]["started"]
    assert second["metrics"] == first["metrics"]
    rows = pd.read_csv(Path(second["_folder"]) / "metrics.csv")
    assert rows["val/loss"].count() == 2, "the rows of the first training are gone"


def test_pretrain_alone(source):
    assert source["stage"] == "pretrain"
    assert source["arm"] is None
    assert source["parents"] == []
    assert source["data"]["num_train"] == 210


def test_placement_paths_and_logging_do_not_change_the_identity(data, tmp_path, monkeypatch):
    def fingerprint(*overrides):
        return plan.make(compose([*QUICK, *TINY_BERT, *data, *overrides])).fingerprint

    first = fingerprint()
    for same in ("logger=csv", "trainer.num_workers=2", "trainer=auto", "output_dir=elsewhere", "experiment_name=x"):
        assert fingerprint(same) == first, same
    copied = tmp_path / "copy.csv"
    shutil.copy(data[-1].partition("=")[2], copied)
    assert fingerprint(f"target.data.path={copied}") == first, "contents count, not paths"
    for other in ("seed=1", "optimizer.lr=1e-5", "target.data.train_size=10", "freezing=head_only", "source.seed=1"):
        assert fingerprint(other) != first, other
    copied.write_text(copied.read_text() + "one more,pos\n")
    assert fingerprint(f"target.data.path={copied}") != first


def test_arms_see_the_same_rows(tiny):
    transfer, scratch = (tiny(f"arm={arm}", "target.data.train_size=20", "seed=3") for arm in ("transfer", "scratch"))
    for field in ("fingerprint", "subset_hash", "num_train", "num_val", "num_test"):
        assert transfer["data"][field] == scratch["data"][field]
    assert transfer["data"]["num_train"] == 20
    ids = [pd.read_parquet(Path(r["_folder"]) / "predictions.parquet")["id"].tolist() for r in (transfer, scratch)]
    assert ids[0] == ids[1]
    other = tiny("arm=scratch", "target.data.train_size=20", "seed=4")
    assert other["data"]["subset_hash"] != scratch["data"]["subset_hash"]


def test_label_budgets_are_nested(data):
    def ids(size, *overrides):
        planned = plan.make(compose([*QUICK, *TINY_BERT, *data, f"target.data.train_size={size}", *overrides]))
        return set(legs.load(planned).train["id"])

    assert len(ids(10)) == 10
    assert ids(10) < ids(20) < ids(40)
    assert ids(10) == ids(10, "arm=scratch", "freezing=head_only")
    assert ids(10) != ids(10, "seed=1")
    assert ids(10) == ids(10, "seed=1", "subset_seed=0")


def test_init_names_a_run_or_a_path(tiny, source, tmp_path):
    shutil.copytree(Path(source["_folder"]).parent, tmp_path / "outputs" / "sources")
    by_id = tiny("init=" + source["run_id"], "experiment_name=by_id")
    by_path = tiny(f"init={source['_folder']}/model", "experiment_name=by_path")
    by_file = tiny(f"init={source['_folder']}/model/model.safetensors", "experiment_name=by_file")
    assert by_id["parents"] == [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    assert by_path["parents"] == []
    for record in (by_id, by_path, by_file):
        assert record["arm"] == "transfer"
        assert record["weights"]["fraction_loaded"] == 1.0
    assert by_id["metrics"] == by_path["metrics"]
    assert "pretrain" not in folders(tmp_path)[:3], "no source was trained for them"


# policy -> what changes of a two-layer BERT
POLICIES = {
    "none": "embeddings encoder.layer.0 encoder.layer.1 pooler",
    "head_only": "",
    "first_k freezing.k=1": "encoder.layer.1 pooler",
    "gradual freezing.epochs_per_layer=1": "encoder.layer.1 pooler",
    "gradual freezing.epochs_per_layer=0.5": "encoder.layer.0 encoder.layer.1 pooler",
    "regex freezing.patterns=['bert\\.embeddings.*']": "encoder.layer.0 encoder.layer.1 pooler",
    "all": "",
}


@pytest.mark.parametrize("policy", POLICIES)
def test_freezing_changes_what_it_says(tiny, source, policy):
    name, *settings = policy.split()
    # With the loss as monitor the best weights are those of the second epoch.
    options = ["target.budget.max_epochs=2", "target.task.monitor=loss", "target.task.mode=min", "scheduler=constant"]
    record = tiny(f"init={source['_folder']}", f"freezing={name}", *settings, *options)
    assert record["parents"] == [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    assert record["metrics"]["num_steps"] == (0 if name == "all" else 8)
    parts = {re.match(r"bert\.(embeddings|encoder\.layer\.\d|pooler)", tensor)[1] for tensor in changed(source, record)}
    assert parts == {*POLICIES[policy].split()}
    assert record["freezing"] == name
    total, trainable = record["parameters"]["total"], record["parameters"]["trainable"]
    expected = {"none": trainable == total, "all": trainable == 0, "gradual": trainable == total}
    assert expected.get(name, 0 < trainable < total)


def names(group):
    return sorted(path.stem for path in (shipped("conf") / group).glob("*.yaml"))


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_optimizer_trains(tiny, name):
    record = tiny("arm=scratch", f"optimizer={name}", "scratch.max_epochs=1")
    assert record["metrics"]["num_steps"] > 0


@pytest.mark.parametrize("name", names("scheduler"))
def test_every_scheduler_trains(tiny, source, name):
    record = tiny(
        f"init={source['_folder']}", f"scheduler={name}", "trainer.log_every_n_steps=1", "target.budget.max_epochs=2"
    )
    rates = pd.read_csv(Path(record["_folder"]) / "metrics.csv")["lr-AdamW/head"].dropna()
    assert len(rates) == 8
    assert rates.max() <= 1e-3
    assert (rates.nunique() == 1) == (name in ("constant", "plateau"))


def test_word_vectors_start_an_lstm(tiny, tmp_path):
    lines = [f"{word} " + " ".join([sign] * 8) for words, sign in ((GOOD, "1.0"), (BAD, "-1.0")) for word in words]
    (tmp_path / "vectors.txt").write_text(f"{len(lines)} 8\n" + "\n".join(lines) + "\n")
    record = tiny("arm=direct", f"model.vectors.path={tmp_path / 'vectors.txt'}", model=LSTM)
    assert record["arm"] == "direct"
    assert record["weights"]["loaded"] == ["backbone.embeddings.weight"]
    assert 0 < record["weights"]["fraction_loaded"] < 1


def test_a_model_folder_that_nobody_has_seen(tiny, tokenizer, tiny_model, tmp_path):
    tiny_model("distilbert", seed=5).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    record = tiny("arm=direct", f"model.name={tmp_path / 'model'}", model=[])
    assert record["weights"]["fraction_loaded"] == 1.0
    assert all(not name.startswith("distilbert.") for name in record["weights"]["reinitialised"])


def test_a_tokenizer_that_is_not_the_models(tiny, tokenizer, tiny_model, tmp_path):
    """Its numbers would stand for other words; from random weights they stand for none, and any will do."""
    tiny_model("distilbert", seed=5).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = [f"w{i}" for i in reversed(range(40))]
    # Words are numbered by how often they come, then by their spelling.
    texts = [word for number, word in enumerate(words) for _ in range(number + 1)]
    other = build_tokenizer(texts, max_size=50, min_count=1, lowercase=True, max_length=32)
    other.save_pretrained(tmp_path / "other")
    given = [f"model.name={tmp_path / 'model'}", f"model.tokenizer={tmp_path / 'other'}"]
    with pytest.raises(UserError) as caught:
        tiny("arm=direct", *given, model=[])
    (problem,) = caught.value.problems
    assert problem.key == "model.tokenizer"
    assert "38 tokens have another number than the weights know (w10, w11, w12)" in problem.received
    assert tiny("arm=scratch", *given, model=[])["status"] == "complete"
    own = [f"model.name={tmp_path / 'model'}", f"model.tokenizer={tmp_path / 'model'}"]
    assert tiny("arm=direct", *own, model=[])["status"] == "complete"


def test_a_sweep_over_arms_and_seeds(data, tmp_path):
    short = ["source.budget.max_epochs=1", "target.budget.max_epochs=1", f"output_dir={tmp_path / 'outputs'}"]
    outcome = cli("run", *QUICK, *TINY_BERT, *data, *short, "arm=transfer,scratch", "-m", "seed=0,1")
    assert outcome.code == 0, outcome.err
    found = records.find(tmp_path / "outputs")
    assert sorted((r["arm"] or "source", r["seed"]) for r in found) == [
        ("scratch", 0),
        ("scratch", 1),
        ("source", 0),
        ("transfer", 0),
        ("transfer", 1),
    ]
    by_seed = {seed: {r["data"]["subset_hash"] for r in found if r["seed"] == seed and r["arm"]} for seed in (0, 1)}
    assert all(len(hashes) == 1 for hashes in by_seed.values())


def test_two_processes_at_once_train_once_and_quietly(data, tmp_path):
    arguments = [*QUICK, *TINY_BERT, *data, "arm=transfer", f"output_dir={tmp_path / 'outputs'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [start("run", *arguments, env=environment, fresh=True) for _ in range(2)]
    (first, log), (second, other_log) = (each.communicate(timeout=300) for each in both)
    assert [each.returncode for each in both] == [0, 0], log + other_log
    assert first == second, "one line, the result"
    assert first.startswith("transfer  seed=0  test/accuracy ")
    assert len(first.splitlines()) == 1
    assert (log + other_log).count("best weights: ") == 2, "one source and one target"
    assert len(list((tmp_path / "outputs").glob("*/*/record.json"))) == 2
    for noise in ("\r", "\x1b", "Warning", "it/s", "%|", "site-packages"):
        assert noise not in log + other_log, "there is no terminal to draw on"


@pytest.mark.parametrize(("max_steps", "tested"), [(1, 1), (3, 3), (6, 6)])
def test_a_budget_that_ends_within_an_epoch(tiny, max_steps, tested):
    """An epoch has four steps; the weights at the end of the budget are looked at as well."""
    options = ["target.task.monitor=loss", "target.task.mode=min", "trainer.log_every_n_steps=1", "floors=true"]
    record = tiny(
        "stage=scratch",
        f"target.budget.max_steps={max_steps}",
        *options,
        "scratch.warmup_steps=0",
        "scratch.min_steps=0",
    )
    table = pd.read_csv(Path(record["_folder"]) / "metrics.csv")
    assert table["train/loss"].count() == max_steps
    assert table["val/loss"].dropna().min() == pytest.approx(record["metrics"]["val/loss"])
    assert record["metrics"]["num_steps"] <= tested
    assert "test/accuracy" in record["metrics"]


def test_the_scratch_arm_ignores_freezing_and_says_so(data, tmp_path):
    outcome = cli("run", *QUICK, *TINY_BERT, *data, "arm=scratch", "freezing=head_only", f"output_dir={tmp_path / 'o'}")
    assert "freezing=head_only is not used by the scratch arm" in outcome.err
    record = record_of(outcome.out)
    assert record["freezing"] == "none"
    assert record["parameters"]["trainable"] == record["parameters"]["total"]
