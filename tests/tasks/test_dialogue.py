import math

import pandas as pd
import pytest
import torch
from datasets import Dataset

from tests.running import LSTM, run, write_csv
from transfer import tasks
from transfer.config import Task
from transfer.data.encoding import encode
from transfer.errors import UserError
from transfer.tasks.dialogue import overlap, words

COLOURS = ["red", "blue", "green"]


def make(**settings):
    task = Task(**{"name": "dialogue", "monitor": "perplexity", "mode": "min", **settings})
    return tasks.make(task, [], key="target.task")


def encoded(task, tokenizer, prompts, responses, max_length=16):
    rows = Dataset.from_dict({"text": prompts, "label": responses})
    return encode(rows, task, tokenizer, max_length, None), rows


def test_the_response_alone_is_predicted(tokenizer):
    task = make()
    rows, _ = encoded(task, tokenizer, ["w1 w2", "w3"], ["w4", "w5 w6 w7"])
    batch = task.collate([{**rows[i], "index": i} for i in range(2)], tokenizer)
    whole = tokenizer.batch_decode(rows["input_ids"][:], skip_special_tokens=True)
    assert whole == ["w1 w2 w4", "w3 w5 w6 w7"]
    chosen = batch["labels"] != -100
    assert chosen.sum(1).tolist() == task.example_weights(rows).tolist() == [2, 4], "with the end token"
    assert tokenizer.decode(batch["labels"][1][chosen[1]]) == "w5 w6 w7 [SEP]"
    asked = batch["prompts"]["input_ids"]
    assert tokenizer.batch_decode(asked) == ["[SEP] w1 w2 [SEP]", "[PAD] [SEP] w3 [SEP]"], "padded on the left"


@pytest.mark.parametrize(
    ("prompt", "response", "kept"),
    [
        (3, 3, (3, 3)),
        (20, 3, (4, 3)),  # ten tokens, three of them to delimit: the prompt loses its beginning
        (20, 20, (4, 4)),  # half the room is the response's, which then has no end
        (2, 20, (2, 6)),
    ],
)
def test_what_does_not_fit_is_cut(tokenizer, prompt, response, kept):
    ahead, behind = (" ".join(f"w{i}" for i in range(first, first + n)) for first, n in ((0, prompt), (20, response)))
    rows, _ = encoded(make(), tokenizer, [ahead], [behind], max_length=10)
    text = tokenizer.decode(rows["input_ids"][0], skip_special_tokens=True)
    assert text.split() == ahead.split()[prompt - kept[0] :] + behind.split()[: kept[1]]
    assert rows["length"][0] <= 10


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        ("It is red.", "it is red", 1),
        ("it is blue", "it is red", 2 / 3),
        ("red red", "it is red", 2 / 5),
        ("", "red", 0),
        ("...", "!", 1),
        ("红色", "红", 2 / 3),
    ],
)
def test_overlap_of_words_by_hand(said, true, expected):
    assert overlap(words(said), words(true)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"options": {"max_new_tokens": -1}}, "options.max_new_tokens"),
        ({"options": {"max_new_tokens": 128}}, "options.max_new_tokens"),
        ({"options": {"max_new_tokens": 0}, "monitor": "token_f1", "mode": "max"}, "monitor"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, key):
    with pytest.raises(UserError) as caught:
        make(**settings)
    assert [problem.key for problem in caught.value.problems] == [f"target.task.{key}"]


@pytest.mark.parametrize("family", ["gpt2", "lstm"])
def test_what_is_written_does_not_depend_on_the_batch(tiny_model, tokenizer, family):
    task = make(options={"max_new_tokens": 5})
    task.tokenizer = tokenizer
    settings = {"bidirectional": False} if family == "lstm" else {}
    model = tiny_model(family, auto="AutoModelForCausalLM", **settings).eval()
    prompts = ["w1 w2 w3 w4", "w5", "w6 w7"]
    rows, split = encoded(task, tokenizer, prompts, ["w1", "w2 w3", "w4"])

    def answers(numbers):
        batch = task.collate([{**rows[i], "index": i} for i in numbers], tokenizer)
        with torch.no_grad():
            return task.answers(model, model(**batch["inputs"]), batch)

    together = answers(range(3))
    for number in range(3):
        (alone,) = answers([number])
        assert alone[3] == together[number][3]
        assert alone[:3] == pytest.approx(together[number][:3], rel=1e-4)
    predicted = task.predict(together, rows, split)
    assert all(isinstance(text, str) for text in predicted.values)
    task.testing = False
    assert isinstance(answers(range(3)), torch.Tensor), "nothing is written while the weights are chosen"


def test_a_run_answers(tmp_path):
    rows = [{"text": f"say {COLOURS[i % 3]} please {i % 5}", "label": f"it is {COLOURS[i % 3]}"} for i in range(120)]
    data = write_csv(tmp_path / "data.csv", rows)
    record = run(
        *["model.name=null", "model.config={model_type: gpt2, n_embd: 32, n_layer: 2, n_head: 2, embd_pdrop: 0}"],
        *["model.config.resid_pdrop=0", "model.config.attn_pdrop=0", "task@target.task=dialogue"],
        *["target.task.options.max_new_tokens=5", f"target.data.path={data}", "stage=scratch", "scratch.max_epochs=16"],
        *["model.scratch_lr=0.003", "scratch.warmup_steps=5", "floors=true", f"output_dir={tmp_path / 'outputs'}"],
    )
    metrics = record["metrics"]
    assert metrics["test/exact_match"] == metrics["test/token_f1"] == 1, "the colour is in the prompt"
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/loss"]), rel=1e-5)
    assert metrics["floor_majority/exact_match"] < 0.6
    kept = pd.read_parquet(f"{record['_folder']}/predictions.parquet")
    assert (kept["prediction"] == kept["label"]).all()
    assert {"perplexity:num", "exact_match:num", "token_f1:num_majority"} <= {*kept}


def test_a_language_model_keeps_its_head(tmp_path):
    """From texts without labels to dialogue: all of the model goes over."""
    texts = write_csv(tmp_path / "texts.csv", [{"text": f"say {COLOURS[i % 3]} please"} for i in range(30)])
    rows = [{"text": f"say {COLOURS[i % 3]}", "label": COLOURS[i % 3]} for i in range(40)]
    data = write_csv(tmp_path / "data.csv", rows)
    record = run(
        *[*LSTM, "model.config.bidirectional=false", "data@source.data=csv", "task@source.task=causal_lm"],
        *[f"source.data.path={texts}", "source.data.columns.label=null", "source.budget.max_epochs=1"],
        *["task@target.task=dialogue", "target.task.options.max_new_tokens=2", f"target.data.path={data}"],
        *["target.budget.max_epochs=1", "model.vocabulary.texts=target", f"output_dir={tmp_path / 'outputs'}"],
    )
    assert record["weights"]["reinitialised"] == []
    assert record["weights"]["dropped"] == []
