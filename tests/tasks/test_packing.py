"""Texts in one block that are read as if each were alone: `options.separate` of the language models."""

import pytest
import torch
from datasets import Dataset

from transfer import memory, tasks
from transfer.config import Task
from transfer.data.encoding import encode
from transfer.errors import UserError
from transfer.models.word_vectors import build_tokenizer
from transfer.tasks import packing
from transfer.tasks.likelihood import IGNORED

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w5", "w7 w7"]
KINDS = [("causal_lm", "gpt2"), ("causal_lm", "bert"), ("masked_lm", "bert"), ("masked_lm", "roberta")]


@pytest.fixture(scope="module")
def masking():
    words = " ".join(f"w{i}" for i in range(30))
    special = {"mask_token": "[MASK]"}
    return build_tokenizer([words], max_size=50, min_count=1, lowercase=True, max_length=32, special_tokens=special)


def make(name, **options):
    task = Task(name=name, monitor="perplexity", mode="min", max_length=16, options=options)
    return tasks.make(task, [], key="target.task")


def encoded(task, tokenizer, texts=TEXTS):
    rows = Dataset.from_dict({"text": texts, "label": [""] * len(texts)})
    return encode(rows, task, tokenizer, 16, None, training=True)


def collated(task, tokenizer, rows):
    return task.collate([{**rows[i], "index": i, "draw": [0, 0, i]} for i in range(len(rows))], tokenizer)


def network(kind, auto):
    import transformers

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50, "pad_token_id": 0}
    size = {"intermediate_size": 16, "max_position_embeddings": 40}
    config = {
        "gpt2": lambda: transformers.GPT2Config(n_positions=40, **shape),
        "bert": lambda: transformers.BertConfig(is_decoder="Causal" in auto, **shape, **size),
        "roberta": lambda: transformers.RobertaConfig(**shape, **size),
        "mistral": lambda: transformers.MistralConfig(sliding_window=4, num_key_value_heads=2, **shape, **size),
    }[kind]()
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_each_text_of_a_block_is_read_as_if_it_were_alone(masking, name, kind, attention):
    task = make(name, block_size=9, separate=True)
    model = network(kind, task.auto_class)
    model.set_attn_implementation(attention)
    task.meet(model, masking, "target.task")
    rows = encoded(task, masking)
    batch = collated(task, masking, rows)
    assert not model.training
    with torch.no_grad():
        packed = model(**batch["inputs"]).logits
        for block, places in enumerate(rows["position"][:]):
            begins = [i for i, place in enumerate(places) if place == 0]
            for begin, end in zip(begins, [*begins[1:], len(places)], strict=True):
                ids = batch["inputs"]["input_ids"][block : block + 1, begin:end]
                torch.testing.assert_close(packed[block, begin:end], model(ids).logits[0], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(packed).all()
    (part,) = (part for part in memory.parts(batch, 2) if 0 in part["index"])
    torch.testing.assert_close(model(**part["inputs"]).logits, packed[: len(part["index"])], rtol=1e-4, atol=1e-5)


def test_the_first_token_of_a_text_is_not_predicted_from_the_text_before(masking):
    joined, apart = (make("causal_lm", block_size=9, separate=separate) for separate in (False, True))
    rows, together = encoded(apart, masking), encoded(joined, masking)
    assert rows["input_ids"][:] == together["input_ids"][:]
    assert rows["position"][:] == [[*range(5), *range(3), 0], [*range(7), 0, 1], [0, 1]]
    assert apart.example_weights(rows).tolist() == [6, 7, 1]
    assert joined.example_weights(together).tolist() == [8, 8, 1]
    batch = collated(apart, masking, rows)
    assert [int((labels[1:] != IGNORED).sum()) for labels in batch["labels"]] == [6, 7, 1]
    assert batch["num_padding"].tolist() == [0, 0, 7]
    assert "num_padding" not in collated(joined, masking, together)


def test_positions_begin_again_with_every_text():
    assert packing.positions([4, 4, 4, 5, 7, 7]) == [0, 1, 2, 0, 0, 1]


def test_masks_are_those_of_blocks_that_are_not_kept_apart(masking):
    """Which tokens are predicted does not depend on what is read."""
    joined, apart = (make("masked_lm", block_size=9, separate=separate) for separate in (False, True))
    ours, theirs = (collated(task, masking, encoded(task, masking)) for task in (apart, joined))
    assert torch.equal(ours["labels"], theirs["labels"])
    assert torch.equal(ours["inputs"]["input_ids"], theirs["inputs"]["input_ids"])


def test_models_that_cannot_are_refused(masking, tiny_model):
    """One goes through the words in their order, the other one would read beyond its window."""
    task = make("causal_lm", block_size=16, separate=True)
    for model in (
        tiny_model("lstm", auto="AutoModelForCausalLM", bidirectional=False),
        network("mistral", task.auto_class),
    ):
        model.train()
        with pytest.raises(UserError, match="separate") as caught:
            task.meet(model, masking, "target.task")
        assert type(model).__name__ in str(caught.value.problems[0].allowed)
        assert model.training


@pytest.mark.parametrize(
    ("options", "allowed"), [({"separate": True}, "block_size"), ({"separate": 1}, "true or false")]
)
def test_settings_that_do_not_fit_are_said(options, allowed):
    for name in ("causal_lm", "masked_lm"):
        with pytest.raises(UserError) as caught:
            make(name, **options)
        (problem,) = caught.value.problems
        assert problem.key == "target.task.options.separate"
        assert allowed in problem.allowed
