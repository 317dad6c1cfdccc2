"""`transfer rank` on sources that were really trained, tiny ones, and on candidates that cannot be looked at."""

import csv
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.running import LSTM, QUICK, TINY_BERT, cli, reviews, run, write_csv
from transfer import legs, predict, records
from transfer.choose import candidates, features, measured, rank, scoring
from transfer.choose.features import Features
from transfer.choose.track import Track

SOURCES = ("first", "second", "third")
OF_FEATURES = {"logme", "h_score", "transrate", "knn", "linear_probe", "cka"}
OF_CLASSES = {"leep", "nce"}
BUDGETS = ["source.budget.max_epochs=2", "target.budget.max_epochs=2", "source.optimizer.lr=0.01"]
SETTINGS = [*QUICK, *LSTM, *BUDGETS, "model.vocabulary.texts=target"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data sets and an experiment of its own; two sources are trained, and both arms from them."""
    folder = tmp_path_factory.mktemp("rank")
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "experiments").mkdir()
    for seed, name in enumerate((*SOURCES, "target", "untrained")):
        path = reviews(folder / f"{name}.csv", num=60, seed=seed)
        (folder / "conf" / "data" / f"{name}.yaml").write_text(f"name: {name}\npath: {path}\n")
    (folder / "experiments" / "pets.yaml").write_text(
        "# @package _global_\n# Which one?\ndefaults:\n  - override /data@source.data: first\n"
        "  - override /data@target.data: target\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in SOURCES:
            run("experiment=pets", *SETTINGS, f"data@source.data={name}", "arm=transfer", "seed=0")
        run("experiment=pets", *SETTINGS, "arm=scratch", "seed=0")
    return folder


@pytest.fixture
def typed(place, tmp_path, monkeypatch):
    """The same in a copy, to write into."""
    folder = shutil.copytree(place, tmp_path / "here")
    for file in (folder / "conf" / "data").glob("*.yaml"):  # the data stay where they were: their paths count
        assert str(place) in file.read_text()
    monkeypatch.chdir(folder)
    return folder


def ranked(*words):
    return cli("rank", "pets", *SETTINGS, *words)


def written(folder):
    (file,) = (folder / "outputs" / "pets").glob("rank-*/rank.json")
    return json.loads(file.read_text()), file.parent


def test_every_score_and_the_files(typed):
    done = ranked("--sources", *SOURCES, "untrained")
    assert done.code == 0, done.err
    about, folder = written(typed)
    found = {each["name"]: each for each in about["candidates"].values()}
    assert {*found} == {*SOURCES, "untrained"}
    for name in SOURCES:
        assert {*found[name]["scores"]} == {each.name for each in scoring.SCORES}
        assert len(found[name]["layers"]) == 2, "embeddings and one layer"
    assert {*found["untrained"]["scores"]} == {"vocabulary", "labels"}
    assert "nothing is trained on it yet" in done.out
    with open(folder / "rank.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(row["gain"] for row in rows if row["candidate"] in SOURCES)
    assert (folder / "rank.png").stat().st_size > 5000
    assert "<svg" in (folder / "rank.svg").read_text()
    assert "How right the scores have been" in done.out
    assert "it takes another target with measured gains" in done.out, "what its own gains say chooses nothing"
    assert "Measured here" in done.out


def test_a_second_ranking_computes_nothing_and_keeps_what_is_there(typed):
    assert ranked("--sources", "first", "second", "untrained").code == 0
    before, _ = written(typed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "of", lambda _: pytest.fail("its scores are kept"))
        assert ranked("--sources", "first", "second", "untrained").code == 0
    again, _ = written(typed)
    for key, entry in before["candidates"].items():
        assert again["candidates"][key] == entry | {"seconds": again["candidates"][key]["seconds"]}
    assert ranked("--sources", "third").code == 0
    after, _ = written(typed)
    for key, entry in before["candidates"].items():
        assert after["candidates"][key]["scores"] == entry["scores"]
    assert len(after["candidates"]) == 4


def test_features_are_kept_and_read_as_they_were(typed):
    candidate = candidates.read("pets", [*SETTINGS], ["first"], [])[0][0]
    found, again = features.of(candidate), features.of(candidate)
    assert not again.computed
    for name in ("labels", "probabilities", "source"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), rtol=1e-6)
    assert len(again.layers) == len(found.layers)


@pytest.mark.parametrize("change", ["head", "data", "file"])
def test_nothing_is_kept_of_what_has_changed(typed, change):
    """Another head on the same backbone, other labelled rows, and a file that was cut off."""
    assert ranked("--sources", "first").code == 0
    (before,) = written(typed)[0]["candidates"].values()
    words = []
    if change == "head":
        file = candidates.read("pets", [*SETTINGS], ["first"], [])[0][0].parent / "model.safetensors"
        tensors = load_file(file)
        heads = [name for name in tensors if tensors[name].shape and tensors[name].shape[0] == 2]
        assert heads
        changed = {name: torch.randn_like(tensors[name]) for name in heads}
        save_file(tensors | changed, file, {"format": "pt"})
    elif change == "data":
        words = ["target.data.train_size=20"]
    else:
        (file,) = Path(os.environ["TRANSFER_CACHE"]).glob("rank/scores-*.json")
        file.write_text(file.read_text()[:20])
    assert ranked(*words, "--sources", "first").code == 0
    found = [json.loads(each.read_text()) for each in (typed / "outputs" / "pets").glob("rank-*/rank.json")]
    after = [entry["scores"] for about in found for entry in about["candidates"].values()]
    if change == "file":
        assert after == [before["scores"]]
    elif change == "head":
        assert after[0]["leep"] != before["scores"]["leep"]
        assert after[0]["logme"] == before["scores"]["logme"]
    else:
        assert len({each["logme"] for each in after}) == 2


def test_all_trained_sources_are_the_candidates_where_none_is_named(typed):
    done = ranked()
    assert done.code == 0, done.err
    about, _ = written(typed)
    assert len(about["candidates"]) == 3
    assert all("pretrain-" in each["name"] for each in about["candidates"].values())


def test_what_cannot_be_looked_at_is_skipped_and_said(typed):
    (typed / "garbage").mkdir()
    (typed / "garbage" / "model.safetensors").write_bytes(b"nothing")
    other = run(
        *["stage=pretrain", *TINY_BERT, "data@source.data=second", "data@target.data=target"],
        *["source.budget.max_epochs=1", "source.init=pretrained"],
    )
    done = ranked("--sources", "first", "nowhere", "garbage", other["run_id"], "--models", "no/such")
    assert done.code == 0, done.err
    about, _ = written(typed)
    assert len(about["skipped"]) == 4
    assert [each["name"] for each in about["candidates"].values()] == ["first"]
    for name in ("nowhere", "garbage", "no/such"):
        assert f"skipped {name}: " in done.out


def test_nothing_to_rank_is_the_users_mistake(typed):
    done = ranked("--sources", "nowhere")
    assert done.code == 2
    assert "--sources" in done.err
    assert "nowhere" in done.err
    assert not list((typed / "outputs" / "pets").glob("rank-*"))
    assert cli("rank", "no_such_experiment").code == 2


def test_equal_candidates_are_said_to_be_equal(typed):
    (folder,) = {
        Path(each["_folder"]) for each in records.find("outputs") if each["source"] == "first" and not each["arm"]
    }
    shutil.copytree(folder / "model", typed / "copy")
    done = ranked("--sources", "first", "copy")
    assert done.code == 0, done.err
    assert "(2 are equal)" in done.out


def test_what_the_sources_head_says_is_what_predict_says(typed):
    candidate = candidates.read("pets", [*SETTINGS], ["first"], [])[0][0]
    found = features.of(candidate)
    leg = legs.load(candidate.plan)
    predictor = predict.load(candidate.parent)
    values, given = predictor.predict(leg.train)
    names = [predictor.task.labels[number] for number in found.probabilities.argmax(1)]
    assert names == values
    assert found.probabilities.max(1) == pytest.approx(np.array(given), abs=1e-5)
    assert [leg.splits.labels[number] for number in found.labels] == leg.train["label"][:]


def test_features_are_means_over_tokens(typed):
    candidate = candidates.read("pets", [*SETTINGS], ["first"], [])[0][0]
    predictor = predict.load(candidate.parent)
    text = legs.load(candidate.plan).train[3]["text"]
    inputs = predictor.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        hidden = predictor.model.base_model(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states
    found = features.of(candidate)
    for layer, expected in zip(found.layers, hidden, strict=True):
        assert layer[3] == pytest.approx(expected[0].mean(0).numpy(), abs=1e-5)


FAMILIES = {
    "tags": [*TINY_BERT, "task@source.task=token_classification", "task@target.task=token_classification"],
    "numbers": ["model=linear", "optimizer=adam"],
    "values": ["model=linear", "task@source.task=regression", "task@target.task=regression"],
}


def rows_of(kind, seed):
    chance = np.random.default_rng(seed)
    if kind == "tags":
        words = [chance.choice(["Rome", "Oslo", "sees", "walks"], size=4) for _ in range(40)]
        tags = [["B-place" if word[0].isupper() else "O" for word in row] for row in words]
        return [{"tokens": list(map(str, row)), "label": tag} for row, tag in zip(words, tags, strict=True)]
    points = chance.normal(size=(60, 2))
    label = (lambda a, b: a - b) if kind == "values" else (lambda a, b: "yes" if a > b else "no")
    return [{"a": a, "b": b, "label": label(a, b)} for a, b in points]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_kind_of_label(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    settings = list(FAMILIES[kind])
    (tmp_path / "conf" / "data").mkdir(parents=True)
    for seed, name in enumerate(("source", "target")):
        if kind == "tags":
            path = tmp_path / f"{name}.jsonl"
            path.write_text("\n".join(map(json.dumps, rows_of(kind, seed))))
            columns = "{text: null, tokens: tokens}"
        else:
            path = write_csv(tmp_path / f"{name}.csv", rows_of(kind, seed))
            columns = "{text: null, features: [a, b]}"
        (tmp_path / "conf" / "data" / f"{name}.yaml").write_text(f"name: {name}\npath: {path}\ncolumns: {columns}\n")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "kinds.yaml").write_text(
        "# @package _global_\n# Which?\ndefaults:\n  - override /data@source.data: source\n"
        "  - override /data@target.data: target\n"
    )
    settings += ["source.budget.max_epochs=1"]
    run("experiment=kinds", *settings, "stage=pretrain")
    done = cli("rank", "kinds", *QUICK, *settings, "--sources", "source")
    assert done.code == 0, done.err
    (file,) = (tmp_path / "outputs" / "kinds").glob("rank-*/rank.json")
    (found,) = json.loads(file.read_text())["candidates"].values()
    expected = OF_FEATURES | OF_CLASSES | {"nearness"}
    if kind == "values":
        expected = {"logme", "knn", "linear_probe", "cka", "nearness"}
        assert found["missing"]["h_score"] == "of classes, not of values"
        assert found["scores"]["linear_probe"] > 0.9, "the values are a linear function of the features"
    assert expected <= {*found["scores"]}


def candidate_of(labels, width=30):
    rows = np.random.default_rng(0).normal(size=(len(labels), width))
    found = scoring.Scored(candidate=None)
    scoring.of_features(found, Features([rows, rows], np.array(labels)))
    return found


def test_one_class_has_no_score_and_says_so():
    found = candidate_of([0] * 12)
    assert not found.scores
    assert {found.missing[name] for name in OF_FEATURES} == {"only one class"}


def test_fewer_rows_than_dimensions_have_scores():
    found = candidate_of([0, 1, 0, 1, 0, 1])
    assert {*found.scores} == OF_FEATURES


def test_a_class_with_a_single_row():
    found = candidate_of([0, 0, 0, 0, 1])
    assert "single row" in found.missing["linear_probe"]
    assert "logme" in found.scores


def test_regret_of_chance_is_the_mean_over_all_choices():
    gains = [0.3, -0.1, 0.2, 0.0, 0.25]
    for k in (1, 2, 3, 5):
        every = [max(gains) - max(chosen) for chosen in itertools.combinations(gains, k)]
        assert rank.regret_of_chance(gains, k) == pytest.approx(np.mean(every))


TARGET = measured.Target("t", "abc", "sequence_classification", 100, "accuracy", "max", "none", "none")


def record(arm, seed, value, parent=None, **changes):
    return {
        "status": "complete",
        "arm": arm,
        "seed": seed,
        "model": "m",
        "task": "sequence_classification",
        "train_size": 100,
        "freezing": "none",
        "data": {"fingerprint": "abc"},
        "metrics": {"test/accuracy": value},
        "parents": [{"run_id": parent, "fingerprint": parent}] if parent else [],
        "config": {"init": "source", "adaptation": {"name": "none"}},
    } | changes


def test_gains_are_paired_by_seed():
    found = [
        record("scratch", 0, 0.5),
        record("scratch", 1, 0.6),
        record("transfer", 0, 0.7, "a"),
        record("transfer", 1, 0.7, "a"),
        record("transfer", 2, 0.9, "a"),  # has no twin
        record("direct", 0, 0.55),
        record("transfer", 0, 0.1, "a", freezing="head_only"),
        record("transfer", 0, 0.1, "b", data={"fingerprint": "other"}),
        record("transfer", 0, 0.1, "b", status="failed"),
    ]
    gains = measured.gains(found, TARGET)
    assert {*gains} == {"source:a", "direct:m"}
    assert gains["source:a"].mean == pytest.approx(0.15)
    assert gains["source:a"].num_seeds == 2
    assert gains["direct:m"].mean == pytest.approx(0.05)


def test_less_is_better_of_an_error():
    target = measured.Target("t", "abc", "regression", 100, "mse", "min", "none", "none")
    found = [
        record("scratch", 0, 0, task="regression", metrics={"test/mse": 2.0}),
        record("transfer", 0, 0, "a", task="regression", metrics={"test/mse": 0.5}),
    ]
    assert measured.gains(found, target)["source:a"].mean == pytest.approx(1.5)


def test_the_track_record_over_two_targets(tmp_path):
    """One score orders the sources as they gained, one the other way round."""
    gained = {"t": [0.1, 0.2, 0.3, 0.4], "u": [0.4, 0.3, 0.2, 0.0]}
    found = []
    for name, gains in gained.items():
        about = {**TARGET.to_dict(), "name": name, "data": name}
        keys = [f"{name}{i}" for i in range(4)]
        entries = {
            f"source:{key}": {"name": key, "scores": {"logme": gain, "leep": -gain}}
            for key, gain in zip(keys, gains, strict=True)
        }
        folder = tmp_path / name / "rank-1"
        folder.mkdir(parents=True)
        (folder / "rank.json").write_text(json.dumps({"target": about, "candidates": entries}))
        data = {"data": {"fingerprint": name}}
        found += [record("scratch", 0, 0.5, **data)]
        found += [record("transfer", 0, 0.5 + gain, key, **data) for key, gain in zip(keys, gains, strict=True)]
    (tmp_path / "t" / "rank-2").mkdir()
    (tmp_path / "t" / "rank-2" / "rank.json").write_text("{}")  # nothing that can be read
    best, worst = rank.history(tmp_path, found, "accuracy")
    assert (best.score, worst.score) == ("logme", "leep")
    assert (best.num_targets, best.num_sources) == (2, 8)
    assert best.tau == pytest.approx(1)
    assert best.regret == {1: 0, 3: 0}
    assert best.right
    assert worst.tau == pytest.approx(-1)
    assert worst.regret == {1: pytest.approx(0.35), 3: pytest.approx(0.1)}
    assert not worst.right
    assert best.chance[1] == pytest.approx((0.15 + 0.175) / 2)
    assert not rank.history(tmp_path, found, "mse"), "a gain in another metric is another thing"
    best, worst = rank.history(tmp_path, found, "accuracy", without="t")
    assert (best.num_targets, best.num_sources) == (1, 4)
    assert worst.regret[1] == pytest.approx(0.4), "of the other target alone"


@pytest.mark.parametrize(
    ("tau", "regret", "right"), [(0.5, 0.01, True), (-0.1, 0.01, False), (0.5, 0.3, False)], ids=str
)
def test_only_what_beats_chance_is_right(tau, regret, right):
    made = Track(4, tau, tau, {1: regret})
    row = rank.TrackRecord("logme", 1, made.num_sources, made.tau, made.weighted_tau, made.regret, {1: 0.2})
    assert row.right is right


def test_a_source_without_classes_has_no_leep(typed):
    settings = [*QUICK, *TINY_BERT, "task@source.task=masked_lm", "source.budget.max_epochs=1"]
    run("experiment=pets", *settings, "stage=pretrain")
    done = cli("rank", "pets", *settings, "--sources", "first")
    assert done.code == 0, done.err
    (found,) = written(typed)[0]["candidates"].values()
    assert {*found["scores"]} >= OF_FEATURES
    assert not OF_CLASSES & {*found["scores"]}
    assert "no LEEP, NCE of first: the source has no head that tells classes apart" in done.out
