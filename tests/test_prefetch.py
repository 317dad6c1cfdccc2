"""What an experiment wants from the network, without one: what is there, what is not, and that nothing else is said."""

import datasets
import huggingface_hub
import pytest

from tests.running import cli, reviews
from tests.tasks.test_question_answering import people


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A folder of one's own with no network, and with an empty cache of the hub, which it returns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRANSFER_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "hub"


@pytest.fixture
def in_the_cache(offline, tiny_model, tokenizer):
    """The id of a model that is in the cache of the hub, as a download leaves it there."""
    folder = offline / "models--owner--tiny"
    for path, text in ((folder / "refs" / "main", "0123abcd"),):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    snapshot = folder / "snapshots" / "0123abcd"
    tiny_model("bert").save_pretrained(snapshot)
    tokenizer.save_pretrained(snapshot)
    return "owner/tiny"


def test_all_is_there(in_the_cache, tmp_path):
    """Of both legs, in whatever form."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "# @package _global_\n# Is it there?\n"
        f"model: {{name: {in_the_cache}}}\nsource: {{data: {{path: {reviews(tmp_path / 'reviews.csv', num=8)}}}}}\n"
        f"target: {{data: {{path: {people(tmp_path / 'people.jsonl', 8)}}}}}\n"
    )
    outcome = cli("prefetch", "mine")
    assert outcome.code == 0, outcome.err
    assert [line.split("  ")[0] for line in outcome.out.splitlines()] == ["source.data", "target.data", "model.name"]
    assert [line.split()[1:] for line in outcome.out.splitlines()] == [
        ["on", "this", "disk", "reviews", f"({tmp_path / 'reviews.csv'})"],
        ["on", "this", "disk", "people", f"({tmp_path / 'people.jsonl'})"],
        ["already", "there", "owner/tiny"],
    ]


def test_what_cannot_be_had_is_said_at_once(in_the_cache):
    """And what can is found nevertheless."""
    outcome = cli("prefetch", "xquad_to_pubmed", f"model.name={in_the_cache}", "model.tokenizer=nobody/nothing")
    assert outcome.code == 2
    states = {line[:18].strip(): line[19:33].strip() for line in outcome.out.splitlines()}
    missing = dict.fromkeys(("source.data", "target.data", "model.tokenizer"), "cannot be had")
    assert states == {**missing, "model.name": "already there"}
    assert "3 problems" in outcome.err
    for key in ("source.data.path", "target.data.local", "model.tokenizer"):
        assert f"\n{key}\n" in outcome.err
    assert "google/xquad" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_experiment_of_the_hub_says_the_same_when_it_runs(offline, tmp_path):
    outcome = cli("run", "experiment=glue_rte", "arm=direct", "logger=none", f"output_dir={tmp_path / 'out'}")
    assert outcome.code == 2
    assert "\ntarget.data.path\n" in outcome.err
    assert "nyu-mll/glue" in outcome.err
    assert "$TRANSFER_DATA/glue/rte" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["nothing"], ["movies_to_products", "target.data.pth=x"]])
def test_a_mistake_is_said(arguments):
    assert cli("prefetch", *arguments).code == 2
