"""Meta runs of a tiny model, from the command line to the record, and what starts from them."""

import json
import os
import random
import shutil
import signal
import time

import pandas as pd
import pytest
from safetensors.torch import load_file

from tests.running import QUICK, TINY_BERT, cli, record_of, reviews, run, start, write_csv
from transfer import records
from transfer.checkpoints import LAST

CLASSES, ROWS = 14, 12
META = [
    "stage=meta",
    "source.meta.ways=3",
    "source.meta.shots=2",
    "source.meta.queries=4",
    "source.meta.inner_lr=0.1",
    "source.meta.inner_steps=2",
    "source.meta.test_steps=[0,2]",
    "source.meta.tasks_per_step=2",
    "source.meta.steps_per_epoch=6",
    "source.meta.num_validation_episodes=4",
    "source.meta.num_test_episodes=6",
    "source.meta.validation_fraction=0.25",
    "source.meta.test_fraction=0.25",
    "source.task.max_length=16",
    "model.lr=0.005",
]


def intents(path, num_classes=CLASSES, rows=ROWS):
    """Texts of which one word tells the class."""
    chance = random.Random(0)
    filler = [f"w{i}" for i in range(20)]
    made = [
        {"text": " ".join([*chance.choices(filler, k=chance.randint(2, 5)), f"key{c}"]), "label": f"intent {c}"}
        for c in range(num_classes)
        for _ in range(rows)
    ]
    return write_csv(path, made)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = intents(tmp_path_factory.mktemp("few") / "intents.csv")
    return [*TINY_BERT, "data@source.data=csv", f"source.data.path={path}", *META]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """(algorithm, overrides) -> its record, trained once."""
    kept, outputs = {}, tmp_path_factory.mktemp("outputs")

    def of(algorithm, *overrides):
        key = (algorithm, *overrides)
        if key not in kept:
            kept[key] = run(*data, f"source.meta.algorithm={algorithm}", f"output_dir={outputs}", *overrides)
        return kept[key]

    return of


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "anil", "reptile", "prototypes", "matching"])
def test_every_algorithm_trains_and_is_compared(runs, algorithm):
    record = runs(algorithm)
    assert (record["stage"], record["status"], record["arm"]) == ("meta", "complete", None)
    assert record["run_id"].startswith("meta-")
    assert 0 <= record["metrics"]["test/accuracy"] <= 1
    about = record["fewshot"]
    parts = about["units"]
    assert sorted(name for part in parts.values() for name in part) == sorted(f"intent {i}" for i in range(CLASSES))
    own = [each for each in about["results"] if each["own"]]
    assert [(each["method"], each["start"]) for each in own] == [(algorithm, "meta")]
    assert own[0]["mean"] == record["metrics"]["test/accuracy"]
    by_steps = algorithm not in ("prototypes", "matching")
    assert own[0]["steps"] == (2 if by_steps else None)
    ways = {(each["method"], each["start"]) for each in about["results"]}
    compared = {(name, start) for name in ("linear_probe", "prototypes", "matching") for start in ("meta", "random")}
    assert ways == compared | {("finetuning", "random"), (algorithm if by_steps else "finetuning", "meta")}
    table = pd.read_csv(f"{record['_folder']}/episodes.csv")
    assert len(table) == 6 * len(about["results"])
    mean = table[(table.method == algorithm) & (table.start == "meta")]
    mean = mean[mean.steps == 2] if by_steps else mean
    assert mean.value.mean() == pytest.approx(own[0]["mean"])
    for name in ("episodes.png", "episodes.svg", "model/model.safetensors", "config.yaml", "metrics.csv"):
        assert os.path.getsize(f"{record['_folder']}/{name}") > 0


def test_training_helps_on_unseen_classes(runs):
    """One word tells the class: what to look at is learned on other classes."""
    results = runs("prototypes", "source.budget.max_epochs=8")["fewshot"]["results"]
    found = {each["start"]: each["mean"] for each in results if each["method"] == "prototypes"}
    assert found["meta"] > found["random"] + 0.05


def test_all_methods_answer_the_same_episodes(runs):
    """What does not depend on the algorithm is the same in every run, episode by episode."""
    tables = [pd.read_csv(f"{runs(name)['_folder']}/episodes.csv") for name in ("maml", "prototypes")]
    first, second = (t[(t.start == "random") & (t.method != "finetuning")].reset_index(drop=True) for t in tables)
    assert len(first) == 18
    pd.testing.assert_frame_equal(first, second)


def test_learned_rates_move_and_are_recorded(runs):
    rates = runs("maml", "source.meta.learn_inner_lr=true")["fewshot"]["inner_lr"]
    assert len({*rates.values()}) > 1
    assert all(0.05 < rate < 0.15 for rate in rates.values()), "near inner_lr=0.1"


def test_the_embedding_is_trained_in_anil_as_the_outer_loop_has_it(runs):
    """Its inner steps are of the head; the start that they begin from is all of the model."""
    files = [f"{runs(name)['_folder']}/model/model.safetensors" for name in ("anil", "maml")]
    anil, maml = map(load_file, files)
    assert any(not anil[name].equal(maml[name]) for name in anil)
    assert anil.keys() == maml.keys()


def test_fine_tuning_starts_from_it_and_trains_it_first(data, tmp_path):
    target = reviews(tmp_path / "target.csv")
    out = [f"output_dir={tmp_path / 'out'}", f"target.data.path={target}", "source.meta.algorithm=prototypes"]
    tuned = run(*[each for each in data if each != "stage=meta"], *out, "arm=transfer", "target.budget.max_epochs=1")
    found = {record["stage"]: record for record in records.find(tmp_path / "out")}
    assert {*found} == {"meta", "finetune"}
    assert tuned["parents"] == [{"run_id": found["meta"]["run_id"], "fingerprint": found["meta"]["fingerprint"]}]
    assert tuned["weights"]["fraction_loaded"] == 1.0
    assert tuned["weights"]["reinitialised"] == ["classifier.weight", "classifier.bias"]
    again = run(*data, *out)
    assert again["fingerprint"] == found["meta"]["fingerprint"], "the same run, asked for by its own stage"


def test_other_settings_are_another_run_and_an_ordinary_source_is_as_it_was(data, tmp_path):
    from transfer import plan
    from transfer.compose import compose

    def fingerprint(*overrides):
        return plan.make(compose([*QUICK, *data, *overrides])).fingerprint

    meta = fingerprint("source.meta.algorithm=maml")
    assert fingerprint("source.meta.algorithm=maml", "source.meta.shots=3") != meta
    plain = ["stage=pretrain", "source.meta.algorithm=none"]
    assert fingerprint(*plain) == fingerprint(*plain, "source.meta.shots=3"), "without an algorithm it is not used"


def waves(path, domains=30, rows=12):
    chance = random.Random(0)
    made = []
    for domain in range(domains):
        slope = chance.uniform(-2, 2)
        for _ in range(rows):
            x = chance.uniform(-1, 1)
            made.append({"x": x, "y": slope * x, "domain": f"d{domain}"})
    return write_csv(path, made)


def test_regressions_over_domains(tmp_path):
    """Slopes about 0: what all domains have in common is 0, and a few steps from the right start tell the slope."""
    source = [
        f"source.data.path={waves(tmp_path / 'waves.csv')}",
        "source.data.columns={text: null, features: [x], label: y, group: domain}",
        "source.meta.shots=6",
        "source.meta.queries=6",
        "source.meta.algorithm=maml",
        "source.meta.baselines=[finetuning,linear_probe]",
        "source.meta.steps_per_epoch=60",
        "source.budget.max_epochs=4",
        "source.meta.num_test_episodes=30",
        "source.meta.num_validation_episodes=6",
    ]
    mlp = ["model=mlp", "model.config.hidden_sizes=[16]", "task@source.task=regression", "data@source.data=csv"]
    record = run(*mlp, *META[:1], *META[4:10], *source, "model.lr=0.01", f"output_dir={tmp_path / 'out'}")
    results = {(r["method"], r["start"], r["steps"]): r["mean"] for r in record["fewshot"]["results"]}
    assert record["fewshot"]["batched"], "a perceptron goes through vmap"
    assert results["maml", "meta", 2] == record["metrics"]["test/mse"]
    assert results["maml", "meta", 2] < 0.5 * results["finetuning", "all_tasks", 0]
    assert ("linear_probe", "all_tasks", None) in results
    assert len({unit for part in record["fewshot"]["units"].values() for unit in part}) == 30


PROBLEMS = {
    "source.meta.algorithm=mamlet": ("source.meta.algorithm", "did you mean maml?"),
    "source.meta.algorithm=none": ("source.meta.algorithm", "choose one, or stage=pretrain"),
    "source.meta.ways=1": ("source.meta.ways", "at least 2"),
    "source.meta.ways=5": ("source.meta.ways", "for validation"),
    "source.meta.queries=20": ("source.meta.ways", "0 for train"),
    "source.meta.test_steps=[0,1]": ("source.meta.test_steps", "inner_steps=2"),
    "source.meta.baselines=[probe]": ("source.meta.baselines", "linear_probe"),
    "source.data.train_size=20": ("source.data.train_size", "source.meta.shots"),
    "task@source.task=regression": ("source.data.columns.group", "domain"),
    "task@source.task=causal_lm": ("source.task.name", "sequence_classification"),
    "source.task.monitor=f1": ("source.task.monitor", "accuracy or loss"),
    "stage=pretrain": ("stage", "meta, with source.meta.algorithm=maml"),
    "test=false": ("test", "true, with stage=meta"),
}


@pytest.mark.parametrize("override", PROBLEMS)
def test_the_users_mistakes(data, tmp_path, override):
    key, said = PROBLEMS[override]
    outcome = cli("run", *QUICK, *data, "source.meta.algorithm=maml", f"output_dir={tmp_path / 'out'}", override)
    assert outcome.code == 2, outcome.err
    assert f"{key}" in outcome.err
    assert said in outcome.err
    assert not (tmp_path / "out").exists()


def test_all_mistakes_at_once(data, tmp_path):
    wrong = ["source.meta.algorithm=reptile", "source.meta.inner_steps=1", "source.meta.inner_lr=0", "test=false"]
    wrong += ["source.meta.learn_inner_lr=true", "source.meta.test_fraction=0.9", "source.meta.validation_fraction=0.5"]
    outcome = cli("run", *QUICK, *data, *wrong, f"output_dir={tmp_path / 'out'}")
    assert outcome.code == 2
    assert outcome.err.startswith("transfer: 6 problems"), outcome.err


def test_classes_with_too_few_rows_are_left_out(tmp_path, data):
    path = intents(tmp_path / "intents.csv")
    with path.open("a") as file:
        file.write("w1 w2 key99,rare\n")
    arguments = [*data, f"source.data.path={path}", "source.meta.algorithm=prototypes", "source.meta.baselines=[]"]
    outcome = cli("run", *QUICK, *arguments, f"output_dir={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    assert "1 classes with fewer than 6 rows (shots + queries) are left out: rare" in outcome.err
    assert "rare" not in str(record_of(outcome.out)["fewshot"]["units"])


def test_the_other_commands(runs, tmp_path, data):
    record = runs("maml")
    outputs = os.path.dirname(os.path.dirname(record["_folder"]))
    name, run_id = record["experiment"], record["run_id"]
    assert run_id in cli("runs", "--output-dir", outputs).out
    assert "test/accuracy" in cli("show", run_id, "--output-dir", outputs).out
    assert "meta" in cli("list", "--output-dir", outputs).out
    refused = cli("compare", name, "--output-dir", outputs)
    assert (refused.code, "none of them a complete target run" in refused.err) == (2, True), refused.err
    texts = write_csv(tmp_path / "texts.csv", [{"text": "w1 key3"}])
    refused = cli("predict", run_id, "--input", texts, "--output", tmp_path / "a.csv", "--output-dir", outputs)
    assert (refused.code, "a start, learned from episodes" in refused.err) == (2, True), refused.err
    exported = cli("export", run_id, tmp_path / "exported", "--output-dir", outputs)
    assert exported.code == 0, exported.err
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    target = ["arm=transfer", f"target.data.path={reviews(tmp_path / 'target.csv')}"]
    rest = [each for each in data if each != "stage=meta"]
    ahead = cli(
        "run", *QUICK, *rest, *target, "source.meta.algorithm=maml", f"output_dir={tmp_path / 'o'}", "--estimate"
    )
    assert ahead.code == 0, ahead.err
    assert "1 of stage=meta" in ahead.out


@pytest.mark.cluster
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(data, tmp_path):
    steady = ["trainer.checkpoint_every_s=0", "trainer.log_every_n_steps=1", "source.meta.steps_per_epoch=60"]
    arguments = [*QUICK, *data, *steady, "source.meta.algorithm=prototypes", "source.meta.learn_inner_lr=false"]
    undisturbed = record_of(cli("run", *arguments, f"output_dir={tmp_path / 'whole'}").out)
    outputs = tmp_path / "killed"
    for _ in range(3):
        process = start("run", *arguments, f"output_dir={outputs}", env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while process.poll() is None and not (found := list(outputs.glob(f"*/*/{LAST}"))):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        if found and not (found[0].parents[1] / "record.json").exists():
            break
        shutil.rmtree(outputs)
    resumed = cli("run", *arguments, f"output_dir={outputs}")
    assert "going on from" in resumed.err
    record = record_of(resumed.out)
    assert record["metrics"] == undisturbed["metrics"]
    assert record["fewshot"] == undisturbed["fewshot"]
    assert json.dumps(record["config"]["source"]) == json.dumps(undisturbed["config"]["source"])


def test_images_and_what_is_said_of_settings_it_does_not_use(tmp_path):
    import numpy as np
    from PIL import Image

    for number in range(6):
        (tmp_path / "images" / f"grey{number}").mkdir(parents=True)
        for row in range(6):
            pixels = np.full((8, 8, 3), 40 * number + row, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"grey{number}" / f"{row}.png")
    source = ["data@source.data=csv", f"source.data.path={tmp_path / 'images'}", "source.data.columns.image=image"]
    source += ["task@source.task=image_classification", "model=cnn", "model.config.hidden_sizes=[4]"]
    small = ["source.meta.ways=2", "source.meta.shots=2", "source.meta.queries=3", "source.meta.test_fraction=0.34"]
    small += ["source.meta.validation_fraction=0.34", "source.meta.steps_per_epoch=2", "source.meta.test_steps=[0,1]"]
    small += ["source.meta.num_validation_episodes=2", "source.meta.num_test_episodes=3", "trainer.devices=2"]
    arguments = [*QUICK, *source, *small, "stage=meta", "source.meta.algorithm=anil", f"output_dir={tmp_path / 'out'}"]
    outcome = cli("run", *arguments, "trainer.precision=bf16-mixed")
    assert outcome.code == 0, outcome.err
    assert "trainer.devices and trainer.num_nodes are not used by stage=meta" in outcome.err
    assert "trainer.precision=bf16-mixed is not used by stage=meta" in outcome.err
    record = record_of(outcome.out)
    assert record["hardware"]["precision"] == "32-true"
    assert {each["method"] for each in record["fewshot"]["results"]} > {"anil", "linear_probe", "prototypes"}


def test_it_may_start_from_another_source(data, tmp_path):
    first = reviews(tmp_path / "first.csv")
    chain = ["+data@source.before.data=csv", f"source.before.data.path={first}", "source.before.budget.max_epochs=1"]
    record = run(*data, *chain, "source.meta.algorithm=matching", f"output_dir={tmp_path / 'out'}")
    assert [parent["run_id"][:8] for parent in record["parents"]] == ["pretrain"]
    assert {each["start"] for each in record["fewshot"]["results"]} == {"meta", "source"}


def test_it_is_ranked_among_other_sources(data, tmp_path):
    target = reviews(tmp_path / "target.csv")
    meta = run(*data, "source.meta.algorithm=prototypes", f"output_dir={tmp_path / 'out'}")
    (tmp_path / "experiments").mkdir()
    text = "# @package _global_\n# Which?\ndefaults: [override /model: tiny_bert]\n"
    (tmp_path / "experiments" / "which.yaml").write_text(f"{text}target: {{data: {{path: {target}}}}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        small = [f"model.config.{name}=16" for name in ("hidden_size", "intermediate_size")]
        outcome = cli("rank", "which", "--sources", meta["_folder"], "--output-dir", tmp_path / "out", *QUICK, *small)
    assert outcome.code == 0, outcome.err
    assert "LogME" in outcome.out
    assert "skipped" not in outcome.out
