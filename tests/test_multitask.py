"""A source of several data sets: one backbone, a head for each set, drawn by temperature."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
)

from tests.conftest import TRANSFORMER
from tests.running import BAD, FILLER, GOOD, NO_DROPOUT, TINY_BERT, cli, reviews, run
from transfer import interruption, mixture, shared
from transfer import plan as planning
from transfer.compose import compose
from transfer.config import from_plain, to_plain
from transfer.data.mixing import MixedBatches
from transfer.data.module import LengthGroupedBatches
from transfer.freezing import frozen_modules
from transfer.listing import _facts

NER = ["data@source.also.ner.data=csv", "task@source.also.ner.task=token_classification"]
LM = ["data@source.also.lm.data=csv", "task@source.also.lm.task=masked_lm", "source.also.lm.data.columns.label=null"]


def entities(path, num=50):
    """Sentences as JSON lines, in which the good and the bad words are names of two types."""
    chance = np.random.default_rng(0)
    with open(path, "w") as file:
        for _ in range(num):
            words = chance.choice([*FILLER, *GOOD, *BAD], size=6).tolist()
            tags = ["B-G" if word in GOOD else "B-B" if word in BAD else "O" for word in words]
            file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("multitask")


@pytest.fixture(scope="module")
def data(folder):
    first, target = reviews(folder / "first.csv", num=90, seed=1), reviews(folder / "target.csv", num=60, seed=2)
    ner = ["source.also.ner.data.columns.tokens=tokens", "source.also.ner.data.columns.label=tags"]
    return [
        *[*TINY_BERT, "data@source.data=csv", f"source.data.path={first}", f"target.data.path={target}"],
        *["+" + NER[0], "+" + NER[1], f"source.also.ner.data.path={entities(folder / 'ner.jsonl')}", *ner],
        *[
            "source.also.ner.data.columns.text=null",
            "+" + LM[0],
            "+" + LM[1],
            LM[2],
            f"source.also.lm.data.path={target}",
        ],
        *[
            "source.temperature=2",
            "source.budget.max_epochs=4",
            "source.budget.batch_size=8",
            "source.optimizer.lr=1e-2",
        ],
        *["target.budget.max_epochs=1", f"output_dir={folder / 'outputs'}"],
    ]


@pytest.fixture(scope="module")
def source(data):
    """Trained, and tested later."""
    arguments = [*data, "stage=pretrain", "trainer.log_every_n_steps=1"]
    untested = run(*arguments, "test=false")
    assert not any(name.startswith("test/") for name in untested["metrics"])
    return run(*arguments)


def models():
    kinds = AutoModelForTokenClassification, AutoModelForSequenceClassification, AutoModelForMaskedLM
    names = "main", "classes", "lm"
    return {name: kind.from_config(BertConfig(**TRANSFORMER)) for name, kind in zip(names, kinds, strict=True)}


def test_heads_share_the_tensors_of_the_backbone():
    made = models()
    main = made.pop("main")
    again = AutoModelForSequenceClassification.from_config(BertConfig(**TRANSFORMER, num_labels=5))
    whole = shared.SharedModel(main, {**made, "more": again})
    mine = dict(main.base_model.named_parameters())
    for model in whole.models()[1:]:
        theirs = dict(model.base_model.named_parameters())
        assert mine.keys() <= theirs.keys()
        assert all(theirs[name] is tensor for name, tensor in mine.items())
    assert made["lm"].cls.predictions.decoder.weight is main.bert.embeddings.word_embeddings.weight
    assert made["classes"].bert.pooler is again.bert.pooler, (
        "what the main model has not is shared by those that have it"
    )
    names = [name for name, _ in whole.named_parameters()]
    assert set(whole.state_dict()) >= set(names)
    assert len(names) == len({tensor.data_ptr() for tensor in whole.parameters()})
    assert not any(".bert.embeddings" in name or ".bert.encoder" in name for name in names if "heads" in name)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(1)
    whole.load_state_dict(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())
    assert frozen_modules(whole, names) == []
    assert main.bert in frozen_modules(whole, [name for name in names if ".bert." not in name])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1, [10 / 11, 9 / 110, 1 / 110]), (2, [10 / 14, 3 / 14, 1 / 14]), (1e9, [1 / 3, 1 / 3, 1 / 3])],
)
def test_sets_are_drawn_by_size_and_temperature(temperature, expected):
    sizes = [10_000, 900, 100]
    chances = mixture.probabilities(sizes, temperature)
    assert chances == pytest.approx(expected, abs=1e-4)
    samplers = [LengthGroupedBatches(np.ones(size), 2, seed=3) for size in sizes]
    mixed = MixedBatches(samplers, chances, seed=3)
    assert len(mixed) == 5_500
    drawn = np.bincount(mixed.drawn(0), minlength=3) / len(mixed)
    assert drawn == pytest.approx(expected, abs=0.02)


def test_batches_of_two_epochs_go_through_every_set_in_turn():
    samplers = [LengthGroupedBatches(np.arange(size), 4, seed=3) for size in (23, 9)]
    mixed = MixedBatches(samplers, [0.5, 0.5], seed=3)
    given = []
    for epoch in range(4):
        mixed.set_epoch(epoch)
        batches = list(mixed)
        assert [batch[0][0] for batch in batches] == mixed.drawn(epoch).tolist()
        mixed.start = 5
        assert list(mixed) == batches[5:]
        given += batches
    for number, sampler in enumerate(samplers):
        own = [[row for _, row in batch] for batch in given if batch[0][0] == number]
        passes = [own[i : i + len(sampler)] for i in range(0, len(own), len(sampler))]
        for epoch, one in enumerate(passes[:-1]):
            assert sorted(index for batch in one for index, _, _ in batch) == list(range(len(sampler.weights)))
            assert {row[2] for batch in one for row in batch} == {epoch}, "a row draws anew in each pass"
        assert len(passes) > 2
    ranks = [
        MixedBatches(
            [LengthGroupedBatches(np.arange(size), 4, seed=3, rank=rank, world_size=2) for size in (23, 9)],
            [0.5, 0.5],
            seed=3,
        )
        for rank in (0, 1)
    ]
    for whole, first, second in zip(given, *ranks, strict=False):
        assert {number for number, _ in [*first, *second]} == {whole[0][0]}


def test_every_set_is_learned_and_recorded(source, folder):
    metrics = pd.read_csv(Path(source["_folder"]) / "metrics.csv")
    for name in ("val/loss", "val/ner/loss", "val/lm/loss"):
        curve = metrics[name].dropna().tolist()
        assert len(curve) == 4
        assert curve[-1] < curve[0], name
    assert {"train/ner/loss", "train/lm/loss"} <= set(metrics.columns)
    assert {"test/accuracy", "test/ner/f1", "test/ner/f1/G", "test/lm/perplexity"} <= source["metrics"].keys()
    assert source["monitor"]["name"] == "val/accuracy"
    assert source["source"] == "first and target and ner"
    assert list(source["also"]) == ["lm", "ner"]
    chances = mixture.probabilities(
        [source["data"]["num_train"], *(s["num_train"] for s in source["also"].values())], 2
    )
    assert [about["share_of_batches"] for about in source["also"].values()] == pytest.approx(chances[1:], abs=1e-4)
    for about in source["also"].values():
        assert load_file(Path(source["_folder"]) / about["head"])
    model = AutoModelForSequenceClassification.from_pretrained(Path(source["_folder"]) / "model")
    assert list(model.config.id2label.values()) == ["neg", "pos"]
    assert "ner: ner (token_classification), train" in _facts(source)["also"]


def test_a_target_starts_from_the_backbone_and_from_a_head_with_its_labels(source, data, folder):
    record = run(*data)
    assert record["parents"] == [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    assert record["weights"]["reinitialised"] == []
    assert not (Path(record["_folder"]) / "model" / shared.HEADS).exists()
    ner = [
        "task@target.task=token_classification",
        "target.data.columns.tokens=tokens",
        "target.data.columns.text=null",
    ]
    ner += ["target.data.columns.label=tags", f"target.data.path={folder / 'ner.jsonl'}"]
    assert run(*data, *ner)["weights"]["reinitialised"] == []


def test_an_interrupted_run_ends_as_it_would_have(source, data, folder, monkeypatch, caplog):
    asked = iter(range(1, 1000))
    # In the middle of the second epoch.
    monkeypatch.setattr(interruption, "received", lambda: signal.SIGTERM if next(asked) == 36 else None)
    again = [*data, "stage=pretrain", "trainer.log_every_n_steps=1", f"output_dir={folder / 'interrupted'}"]
    with pytest.raises(interruption.Interrupted):
        run(*again)
    with caplog.at_level("INFO", logger="transfer"):
        record = run(*again)
    assert "going on from" in caplog.text
    assert record["metrics"] == source["metrics"]
    whole, resumed = (
        {path.name: load_file(path) for path in Path(each["_folder"]).rglob("*.safetensors")}
        for each in (source, record)
    )
    assert whole.keys() == resumed.keys() == {"model.safetensors", "lm.safetensors", "ner.safetensors"}
    for file, tensors in whole.items():
        assert all(torch.equal(tensor, resumed[file][name]) for name, tensor in tensors.items())


def test_the_fingerprint_is_of_all_sets(data):
    def identity(*more):
        return planning.identity(planning.make(compose([*data, "stage=pretrain", *more])))

    alone = identity("~source.also.ner", "~source.also.lm", "source.temperature=1")
    assert not {"also", "temperature"} & alone.keys()
    whole = identity()
    changes = (
        ["source.temperature=3"],
        ["~source.also.lm"],
        ["source.also.ner.data.train_size=20"],
        ["source.also.lm.task.options.mlm_probability=0.3"],
    )
    assert all(identity(*change) != whole for change in changes)
    assert identity("source.also.ner.data.name=names") == whole
    config = compose([*data, "stage=pretrain"])
    assert planning.identity(planning.make(from_plain(to_plain(config)))) == whole


def test_published_and_earlier_weights_are_there_for_every_head(source, data):
    record = run(*data, "stage=pretrain", f"model.name={source['_folder']}/model", "source.budget.max_epochs=1")
    assert record["weights"]["reinitialised"] == []


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (
            ["source.temperature=0", "source.also.ner.data.train_size=0", "source.also.lm.task.name=masked"],
            {"source.temperature", "source.also.ner.data.train_size", "source.also.lm.task.name"},
        ),
        (["~source.also.ner", "~source.also.lm"], {"source.temperature"}),
        (["source.also.ner.data.path=null"], {"source.also.ner.data.path"}),
        (["source.also.ner.budget.max_epochs=3"], {"source.also.ner.budget"}),
        (["source.also.ner.data.pth=3"], {"source.also.ner.data.pth"}),
        (["+data@source.also.1.data=csv", "model=linear"], {"source.also.1", "source.also.1.data.path", "source.also"}),
        (["source.also.new.data.path=x"], {"source.also.new"}),
        (
            [
                "source.also.ner.task.name=translation",
                "source.also.lm.task.monitor=bleu",
                "source.also.lm.task.mode=max",
            ],
            {"source.also.ner.task.monitor", "source.also.lm.task.monitor"},
        ),
        (
            ["source.also.ner.task.name=summarization", "source.also.ner.task.monitor=rouge2"],
            {"model.config.model_type"},
        ),
    ],
)
def test_all_mistakes_are_told_at_once(data, overrides, keys):
    outcome = cli("run", *data, *overrides, "stage=pretrain", "logger=none")
    assert outcome.code == 2
    assert set(re.findall(r"^(\S+)\n +received:", outcome.err, re.MULTILINE)) == keys, outcome.err


@pytest.mark.cluster
def test_two_processes_come_to_the_numbers_of_one(data, folder):
    arguments = [*data, *NO_DROPOUT, "stage=pretrain", "source.budget.batch_size=7", "source.budget.max_epochs=2"]
    alone, together = (
        run(*arguments, f"trainer={trainer}", "trainer.precision=32", f"output_dir={folder / trainer}")
        for trainer in ("cpu", "ddp_cpu")
    )
    assert alone["fingerprint"] == together["fingerprint"]
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-3, abs=1e-4)
    assert len(set(together["hardware"]["rank_checksums"])) == 1
    one, two = (load_file(Path(each["_folder"]) / each["also"]["ner"]["head"]) for each in (alone, together))
    assert all(torch.allclose(tensor, two[name], atol=1e-3) for name, tensor in one.items())
