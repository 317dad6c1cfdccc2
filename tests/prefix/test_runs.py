"""Runs whose frozen part is computed once for each row: equal to runs that compute it in every pass."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.running import LSTM, NO_DROPOUT, TINY_BERT, reviews, run
from transfer.prefix import boundary

FIRST = ["freezing=first_k", "freezing.k=1"]
BERT = [*TINY_BERT, "model.config.num_hidden_layers=3"]
GPT2 = ["model=small_gpt2", "model.config.n_embd=16", "model.config.n_layer=2", "model.config.n_head=2"]
ROBERTA = ["model=small_roberta", "model.config.hidden_size=16", "model.config.num_hidden_layers=2"]
ROBERTA += ["model.config.num_attention_heads=2", "model.config.intermediate_size=16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return reviews(tmp_path_factory.mktemp("prefix") / "reviews.csv", 60)


@pytest.fixture
def train(data, tmp_path):
    """The record of a run; with `cached=False`, of one that computes everything in every pass."""

    def call(*overrides, cached=True):
        given = ["data@source.data=csv", f"source.data.path={data}", f"target.data.path={data}", "arm=transfer"]
        given += ["source.budget.max_epochs=1", "target.budget.max_epochs=3", "target.budget.batch_size=8"]
        given += [f"output_dir={tmp_path / f'outputs{cached}'}", f"cache_dir={tmp_path / 'cache'}"]
        return run(*given, f"trainer.feature_cache={cached}", *overrides)

    return call


def same(one, other):
    assert one["metrics"].keys() == other["metrics"].keys()
    for name, value in one["metrics"].items():
        assert other["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    first, second = (pd.read_parquet(f"{record['_folder']}/predictions.parquet") for record in (one, other))
    assert list(first["prediction"]) == list(second["prediction"])
    np.testing.assert_allclose(first["score"], second["score"], rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "freezing", "kept"),
    [
        (BERT, ["freezing=first_k", "freezing.k=2"], "the embeddings and the first 2 layers"),
        (BERT, ["freezing=head_only"], "the backbone"),
        (ROBERTA, ["freezing=head_only"], "the backbone"),
        (GPT2, FIRST, "the embeddings and the first layer"),
        (LSTM, ["freezing=head_only"], "the backbone"),
    ],
    ids=["bert-2", "bert-head", "roberta-head", "gpt2-1", "lstm-head"],
)
def test_equal_to_what_computes_it_in_every_pass(train, model, freezing, kept):
    cached = train(*model, *freezing)
    assert cached["features"]["kept"] == [kept]
    assert cached["features"]["num_rows_computed"] == 60
    plain = train(*model, *freezing, cached=False)
    assert "features" not in plain
    same(cached, plain)
    assert cached["fingerprint"] == plain["fingerprint"]


def test_gradual_unfreezing_keeps_what_each_phase_holds(train):
    gradual = [*BERT, *NO_DROPOUT, "freezing=gradual", "target.budget.max_epochs=5"]
    cached = train(*gradual)
    layers = ["the embeddings and the first 2 layers", "the embeddings and the first layer"]
    assert cached["features"]["kept"] == ["the backbone", *layers]
    # The test split is looked at with weights of any epoch, so nothing is kept for it.
    assert cached["features"]["num_rows_computed"] == cached["data"]["num_train"] + cached["data"]["num_val"]
    same(cached, train(*gradual, cached=False))


def test_other_runs_find_what_is_there(train):
    first = [*TINY_BERT, "freezing=head_only"]
    assert train(*first)["features"]["num_rows_computed"] == 60
    assert train(*first, "optimizer.lr=0.01")["features"]["num_rows_computed"] == 0
    # A seed draws its own labels, and no other validation and test split.
    fewer = train(*first, "seed=1", "target.data.train_size=20")
    assert fewer["features"]["num_rows_computed"] == 20
    # Weights of another source are others.
    assert train(*first, "source.seed=1")["features"]["num_rows_computed"] == 60


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["freezing=none"], None),
        (["freezing=all"], None),
        ([*FIRST, "regularizer=delta"], None),
        (["freezing=head_only", "trainer.limit_eval_batches=2"], None),
        # Training looks at a part of its rows, and at each of the others again and again.
        (["freezing=head_only", "target.budget.max_steps=2"], 60 - 42),
        (["freezing=head_only", "trainer.feature_cache_gb=1e-9"], 0),
    ],
    ids=str,
)
def test_where_nothing_is_kept(train, overrides, kept):
    record = train(*TINY_BERT, *overrides)
    assert record.get("features", {}).get("num_rows_computed") == kept


def test_where_memory_runs_out_it_is_computed_in_parts(train, monkeypatch, caplog):
    compute, sizes = boundary.compute, []

    def limited(model, wanted, inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(model, wanted, inputs)

    monkeypatch.setattr(boundary, "compute", limited)
    head = [*TINY_BERT, "freezing=head_only"]
    record = train(*head)
    first, whole, half, quarter = sizes[:4]
    assert first == 4, "a sample"
    assert (whole > 10, half, quarter) == (True, -(-whole // 2), -(-whole // 4)), "the first batch, until it fits"
    assert "computing what is kept of every batch in 4 parts" in caplog.text
    assert record["features"]["num_rows_computed"] == 60
    same(record, train(*head, cached=False))


def test_what_was_not_used_for_longest_goes_first(train, tmp_path):
    head = [*TINY_BERT, "freezing=head_only"]
    train(*head)
    root = tmp_path / "cache" / "features"
    before = {path.parent for path in root.glob("*/*/features.json")}
    size = sum(path.stat().st_size for folder in before for path in folder.iterdir())
    record = train(*head, "source.seed=1", f"trainer.feature_cache_gb={size * 1.2 / 1e9}")
    assert record["features"]["num_rows_computed"] == 60
    after = {path.parent for path in root.glob("*/*/features.json")}
    assert len(after - before) == 3
    assert len(before & after) < 3


def test_what_the_model_does_not_agree_with_is_not_used(train, monkeypatch):
    from transfer.prefix import store

    write = store.Writer.write
    monkeypatch.setattr(
        store.Writer,
        "write",
        lambda self, index, given, mask: write(self, index, {name: value + 1 for name, value in given.items()}, mask),
    )
    head = [*TINY_BERT, "freezing=head_only"]
    spoilt = train(*head)
    assert spoilt["features"]["kept"] == []
    same(spoilt, train(*head, cached=False))


@pytest.mark.cluster
def test_two_processes_share_the_work(train, tmp_path):
    """Each computes its own rows, into the same files, and reads all of them."""
    one = train(*BERT, *NO_DROPOUT, "freezing=head_only")
    two = train(
        *BERT, *NO_DROPOUT, "freezing=head_only", "trainer=ddp_cpu", "force=true", f"cache_dir={tmp_path / 'two'}"
    )
    assert two["features"]["num_rows_computed"] == 60
    assert len(set(two["hardware"]["rank_checksums"])) == 1
    assert two["metrics"].keys() == one["metrics"].keys()
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
