import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from tests.running import LSTM, run, write_csv
from transfer import memory, tasks
from transfer.config import Task
from transfer.data.encoding import encode
from transfer.errors import UserError

TEXTS = ["w1 w2 w3", "w4", "", "w5 w6 w7 w8 w9 w5"]
ONE_WAY = [*LSTM, "model.config.bidirectional=false", "task@target.task=causal_lm"]


def make(**settings):
    return tasks.make(Task(name="causal_lm", monitor="perplexity", mode="min", **settings), [], key="target.task")


def encoded(task, tokenizer, texts=TEXTS, *, max_length=16, training=False):
    rows = Dataset.from_dict({"text": texts, "label": [""] * len(texts)})
    return encode(rows, task, tokenizer, max_length, None, training=training)


def batch_of(task, tokenizer, rows):
    return task.collate([{**rows[i], "index": i} for i in range(len(rows))], tokenizer)


def test_a_text_stands_between_a_beginning_and_an_end(tokenizer):
    made = encoded(make(), tokenizer)
    assert tokenizer.batch_decode(made["input_ids"][:], skip_special_tokens=True) == TEXTS
    end = tokenizer.sep_token_id
    assert all(ids[0] == ids[-1] == end for ids in made["input_ids"][:])
    assert made["num_predicted"][:] == [4, 2, 1, 7], "every token but the first"
    assert encoded(make(), tokenizer, max_length=4)["length"][:] == [4, 3, 2, 4]


def test_likelihood_by_hand(tokenizer):
    """A model that gives every word the same chance, but for one token that it is sure of."""
    task = make()
    rows = encoded(task, tokenizer)
    batch = batch_of(task, tokenizer, rows)
    vocabulary = len(tokenizer)
    logits = torch.zeros(*batch["labels"].shape, vocabulary)
    logits[0, 0, batch["labels"][0, 1]] = 50.0
    outputs = SimpleNamespace(logits=logits)
    answers = task.answers(None, outputs, batch)
    assert answers.tolist() == [
        pytest.approx([3 * math.log(vocabulary), 4, 1], rel=1e-5),
        *(pytest.approx([n * math.log(vocabulary), n, 0], rel=1e-5) for n in (2, 1, 7)),
    ]
    predicted = task.predict(answers, rows, Dataset.from_dict({"text": TEXTS}))
    assert predicted.values == pytest.approx([vocabulary**0.75, *[vocabulary] * 3], rel=1e-4)
    found = task.score(predicted, None, per_class=True)
    assert found == {"perplexity": pytest.approx(vocabulary ** (13 / 14), rel=1e-4), "accuracy": pytest.approx(1 / 14)}
    assert float(task.loss(outputs, batch)) == pytest.approx(math.log(found["perplexity"]), rel=1e-6)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_batch_in_parts_has_the_loss_of_the_whole(tokenizer, number):
    task = make()
    rows = encoded(task, tokenizer)
    batch = batch_of(task, tokenizer, rows)
    weights = task.example_weights(rows)
    batch["share"] = torch.tensor(weights / weights.sum())
    logits = torch.randn(*batch["labels"].shape, len(tokenizer), generator=torch.Generator().manual_seed(0))
    whole = task.loss(SimpleNamespace(logits=logits), batch)
    batch["logits"] = logits
    shares = [
        task.loss(SimpleNamespace(logits=part["logits"]), part) * part["share"].sum()
        for part in memory.parts(batch, number)
    ]
    assert float(sum(shares)) == pytest.approx(float(whole), rel=1e-6)
    labels = batch["labels"][:, 1:]
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert float(whole) == pytest.approx(float(expected), rel=1e-6)


def test_blocks_lose_no_token_and_belong_to_the_row_in_which_they_begin(tokenizer):
    task = make(options={"block_size": 4})
    whole = [token for ids in encoded(task, tokenizer)["input_ids"][:] for token in ids]
    made = encoded(task, tokenizer, training=True)
    assert [token for ids in made["input_ids"][:] for token in ids] == whole
    assert made["length"][:] == [4, 4, 4, 4, 2]
    begins = np.repeat(range(4), [5, 3, 2, 8])[::4]
    assert made["row"][:] == begins.tolist()
    assert task.example_weights(made).tolist() == [3, 3, 3, 3, 1]


def test_a_model_that_could_look_ahead_does_not(tiny_model):
    model = tiny_model("bert", auto="AutoModelForCausalLM", **make().model_settings()).eval()
    ids = torch.arange(3, 9)[None]
    other = torch.cat([ids[:, :-1], torch.tensor([[40]])], dim=1)
    torch.testing.assert_close(model(ids).logits[:, :-1], model(other).logits[:, :-1])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"options": {"block_size": 1}}, "options.block_size"),
        ({"options": {"block_size": 256}}, "options.block_size"),
        ({"options": {"blocksize": 8}}, "options"),
        ({"class_weights": "balanced"}, "class_weights"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, key):
    with pytest.raises(UserError) as caught:
        make(**settings)
    assert [problem.key for problem in caught.value.problems] == [f"target.task.{key}"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Words in a fixed order, each text a stretch of it: the next word is certain, the first is not."""
    rows = [{"text": " ".join(f"w{(i + k) % 9}" for k in range(3 + i % 5))} for i in range(90)]
    return write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", rows)


def test_a_run_learns_the_order_of_words(texts, tmp_path):
    record = run(
        *[*ONE_WAY, f"target.data.path={texts}", "target.data.columns.label=null", "stage=scratch"],
        *["scratch.max_epochs=12", "scratch.warmup_steps=3", "model.scratch_lr=0.03", f"output_dir={tmp_path}"],
    )
    metrics = record["metrics"]
    # One first word of nine and the end are to be guessed, all else is certain.
    assert metrics["test/perplexity"] < 4
    assert metrics["test/accuracy"] > 0.6
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/loss"]), rel=1e-5)
    kept = pd.read_parquet(f"{record['_folder']}/predictions.parquet")
    nll, tokens = kept["perplexity:num"].sum(), kept["perplexity:den"].sum()
    assert math.exp(nll / tokens) == pytest.approx(metrics["test/perplexity"], rel=1e-5)
    rows = np.exp(kept["perplexity:num"] / kept["perplexity:den"])
    np.testing.assert_allclose(kept["prediction"], rows, rtol=1e-6)
