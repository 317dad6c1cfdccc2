from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from tests.running import TINY_BERT, reviews, run
from transfer import tasks
from transfer.config import Task
from transfer.data.encoding import encode
from transfer.errors import UserError
from transfer.models.word_vectors import build_tokenizer
from transfer.tasks.masked_lm import _whole_words

LONG = " ".join(f"w{i % 30}" for i in range(400))
TEXTS = [LONG, "w1 w2 w3", "w4", ""]


def make(**options):
    task = Task(name="masked_lm", monitor="perplexity", mode="min", max_length=512, options=options)
    return tasks.make(task, [], key="source.task")


@pytest.fixture(scope="module")
def masking():
    words = " ".join(f"w{i}" for i in range(30))
    special = make().special_tokens
    return build_tokenizer([words], max_size=50, min_count=1, lowercase=True, max_length=512, special_tokens=special)


def encoded(task, tokenizer, texts=TEXTS, *, training=False):
    rows = Dataset.from_dict({"text": texts, "label": [""] * len(texts)})
    return encode(rows, task, tokenizer, 512, None, training=training)


def collate(task, tokenizer, rows, numbers, **draw):
    return task.collate([{**rows[i], "index": i, **draw} for i in numbers], tokenizer)


def test_of_every_row_a_fixed_number_of_tokens_is_predicted(masking):
    task = make()
    rows = encoded(task, masking)
    assert rows["num_predicted"][:] == [60, 1, 1, 0]
    batch = collate(task, masking, rows, range(4))
    chosen = batch["labels"] != -100
    assert chosen.sum(1).tolist() == task.example_weights(rows).tolist() == [60, 1, 1, 0]
    whole = [torch.tensor(ids) for ids in rows["input_ids"][:]]
    shown, labels = batch["inputs"]["input_ids"][0], batch["labels"][0]
    assert torch.equal(labels[chosen[0]], whole[0][chosen[0]]), "what stood there is to be found"
    assert torch.equal(shown[~chosen[0]], whole[0][~chosen[0]]), "the rest is shown as it is"


def test_eight_of_ten_show_the_mask_one_another_token_one_itself(masking):
    task = make(mlm_probability=0.5)
    rows = encoded(task, masking, [LONG])
    masked = other = total = 0
    for epoch in range(20):
        batch = collate(task, masking, rows, [0], draw=[0, epoch, 0])
        shown, labels = batch["inputs"]["input_ids"], batch["labels"]
        chosen = labels != -100
        total += int(chosen.sum())
        masked += int((shown == masking.mask_token_id)[chosen].sum())
        other += int(((shown != labels) & (shown != masking.mask_token_id))[chosen].sum())
    assert total == 4000
    assert masked / total == pytest.approx(0.8, abs=0.03)
    assert other / total == pytest.approx(0.1, abs=0.02)


def test_masks_are_drawn_anew_in_each_epoch_and_fixed_in_evaluation(masking):
    task = make()
    rows = encoded(task, masking)
    first, again, later, seed = (
        collate(task, masking, rows, [0], draw=draw)["labels"] for draw in ([3, 0, 0], [3, 0, 0], [3, 1, 0], [4, 0, 0])
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, seed)
    alone, among = (collate(task, masking, rows, numbers) for numbers in ([1], [1, 0, 2]))
    assert torch.equal(alone["labels"][0], among["labels"][0][:3]), "whatever else is in the batch"
    assert torch.equal(alone["inputs"]["input_ids"][0], among["inputs"]["input_ids"][0][:3])


def test_special_tokens_are_never_predicted():
    from tokenizers import processors

    words = " ".join(f"w{i}" for i in range(30))
    special = {"mask_token": "[MASK]", "cls_token": "[CLS]"}
    made = build_tokenizer([words], max_size=50, min_count=1, lowercase=True, max_length=512, special_tokens=special)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", made.cls_token_id), ("[SEP]", made.sep_token_id)]
    )
    task = make(mlm_probability=0.99)
    for training in (False, True):
        rows = encoded(make(mlm_probability=0.99, block_size=7), made, TEXTS[1:], training=training)
        labels = collate(task, made, rows, range(len(rows)))["labels"]
        assert int((labels != -100).sum()) == 4, "three words and one"
        assert not set(labels.flatten().tolist()) & set(made.all_special_ids)


@pytest.mark.parametrize("number", range(1, 12))
def test_whole_words_come_whole_and_to_the_number(number):
    words = np.array([-1, 0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, -1])
    for seed in range(20):
        chosen = _whole_words(words, number, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == number
        assert (words[chosen] >= 0).all()
        counts = {word: int((words[chosen] == word).sum()) for word in range(5)}
        broken = [word for word, count in counts.items() if 0 < count < int((words == word).sum())]
        assert len(broken) <= 1, "one at most fills up"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"mlm_probability": 0}, ".mlm_probability"),
        ({"mlm_probability": 1.0}, ".mlm_probability"),
        ({"whole_word": "yes"}, ".whole_word"),
        ({"block_size": 513}, ".block_size"),
        ({"whole_words": True}, ""),
    ],
)
def test_settings_that_do_not_fit_are_said(options, key):
    with pytest.raises(UserError) as caught:
        make(**options)
    assert [problem.key for problem in caught.value.problems] == [f"source.task.options{key}"]


def test_the_loss_is_the_mean_over_masked_tokens(masking, tiny_model):
    task = make()
    rows = encoded(task, masking, ["w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13", "w3"])
    batch = collate(task, masking, rows, range(2))
    model = tiny_model("bert", auto="AutoModelForMaskedLM").eval()
    expected = model(**batch["inputs"], labels=batch["labels"]).loss
    outputs = SimpleNamespace(logits=model(**batch["inputs"]).logits)
    assert float(task.loss(outputs, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_a_tokenizer_without_a_mask_is_refused(tokenizer):
    with pytest.raises(UserError, match="no mask token"):
        encoded(make(), tokenizer)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A BERT with a pooler and a tokenizer with a mask, as a folder that a model's name may be."""
    import transformers

    folder = tmp_path_factory.mktemp("published") / "model"
    words = " ".join(
        [
            "good",
            "fine",
            "great",
            "lovely",
            "superb",
            "bad",
            "poor",
            "awful",
            "dull",
            "weak",
            "film",
            "plot",
            "actor",
            "scene",
            "it",
            "was",
            "the",
            "a",
        ]
    )
    special = {"mask_token": "[MASK]"}
    made = build_tokenizer([words], max_size=50, min_count=1, lowercase=True, max_length=32, special_tokens=special)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.BertConfig(vocab_size=len(made), pad_token_id=0, **shape))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def test_a_domain_s_texts_before_its_labels(published, tmp_path, caplog):
    """Unlabelled texts as the source of a classifier: the backbone goes over whole, the head is new."""
    data = reviews(tmp_path / "reviews.csv")
    overrides = [
        *[f"model.name={published}", "data@source.data=csv", "task@source.task=masked_lm", f"source.data.path={data}"],
        *["source.data.columns.label=null", "source.budget.max_epochs=2", f"target.data.path={data}"],
        *["target.budget.max_epochs=1", f"output_dir={tmp_path / 'outputs'}"],
    ]
    with caplog.at_level("INFO", logger="transfer"):
        record = run(*overrides)
    weights = record["weights"]
    assert weights["fraction_loaded"] == 1
    assert weights["reinitialised"] == ["classifier.weight", "classifier.bias"]
    assert all(name.startswith("cls.predictions.") for name in weights["dropped"])
    assert "the head is new: the source's task is masked_lm" in caplog.text
    assert "as published, since the source's model is without them: bert.pooler.dense.weight" in caplog.text
    source = run(*overrides, "stage=pretrain")
    assert record["parents"] == [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    assert source["task"] == "masked_lm"
    assert source["metrics"]["test/perplexity"] == pytest.approx(np.exp(source["metrics"]["test/loss"]), rel=1e-5)


def test_a_vocabulary_for_masks_has_one(tmp_path):
    data = reviews(tmp_path / "reviews.csv")
    record = run(
        *[*TINY_BERT, "task@target.task=masked_lm", f"target.data.path={data}", "target.task.options.whole_word=true"],
        *["stage=scratch", "scratch.max_epochs=8", f"output_dir={tmp_path / 'outputs'}"],
    )
    assert record["metrics"]["test/perplexity"] < 25, "of 23 words and signs"
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(f"{record['_folder']}/model").mask_token == "[MASK]"
