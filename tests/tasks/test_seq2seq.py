"""Translation and summarization: metrics by hand, texts kept whole, every family of encoder-decoders, whole runs."""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tests.running import run, write_csv
from transfer import legs, memory, models, predict, tasks
from transfer import plan as planning
from transfer.compose import compose
from transfer.config import Task
from transfer.data.encoding import encode
from transfer.errors import UserError
from transfer.models import encoder_decoder, subwords

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "house": "Haus", "tree": "Bäume", "big": "große"}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SHAPES = {
    "lstm": {"model_type": "recurrent", "embedding_size": 16, "hidden_size": 16, "num_hidden_layers": 2},
    "gru": {"model_type": "recurrent", "cell": "gru", "embedding_size": 16, "hidden_size": 16},
    "two_berts": {"model_type": "encoder-decoder", "encoder": {**BERT, "max_position_embeddings": 24}},
    "t5": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
    "bart": {
        "model_type": "bart",
        "d_model": 16,
        "max_position_embeddings": 24,
        **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")},
    },
}


def make(name="translation", **options):
    monitor = {"translation": "bleu", "summarization": "rouge2"}[name]
    return tasks.make(Task(name=name, monitor=monitor, options=options), [], key="target.task")


def pairs(number=24, seed=0):
    chance = random.Random(seed)
    rows = [chance.choices(list(WORDS), k=chance.randint(2, 4)) for _ in range(number)]
    return Dataset.from_dict(
        {
            "text": [" ".join(words) for words in rows],
            "label": [" ".join(WORDS[word] for word in words) + "." for words in rows],
        }
    )


@pytest.fixture(scope="module")
def tokenizer():
    rows = pairs(60)
    texts = rows["text"][:] + rows["label"][:]
    return subwords.build_tokenizer(texts, max_size=90, min_count=1, lowercase=False, max_length=24)


@pytest.fixture
def family(tokenizer):
    """Name -> a tiny model of that family over the tokenizer, as a run builds it from `model.config`."""
    models.register()

    def build(name, seed=0):
        own = dict(SHAPES[name], vocab_size=len(tokenizer), pad_token_id=0)
        kind = own.pop("model_type")
        own = encoder_decoder.built(own) if kind == encoder_decoder.MODEL_TYPE else own
        config = transformers.AutoConfig.for_model(kind, **own, is_encoder_decoder=True)
        encoder_decoder.delimit(config, tokenizer.sep_token_id, tokenizer.sep_token_id, force=True)
        torch.manual_seed(seed)
        return transformers.AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval()

    return build


def batch_of(task, tokenizer, rows):
    encoded = encode(rows, task, tokenizer, 24, None)
    return task.collate([{**encoded[i], "index": i} for i in range(len(rows))], tokenizer), encoded


HYPOTHESES = ["a b c d e", "Ein Haus."]
REFERENCES = ["a b c d f", "Ein großes Haus."]


def test_bleu_by_hand():
    task, rows = make(), Dataset.from_dict({"label": REFERENCES[:1]})
    predicted = task.predicted(HYPOTHESES[:1], rows)
    # 4 of 5 words are right, 3 of 4 pairs, 2 of 3, 1 of 2; as long as the reference
    assert [predicted.terms[f"bleu:{i}"] for i in range(10)] == [[5], [5], [4], [3], [2], [1], [5], [4], [3], [2]]
    assert task.score(predicted, rows, per_class=True)["bleu"] == pytest.approx(
        100 * (4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25
    )
    assert task.score(task.predicted(REFERENCES[:1], rows), rows, per_class=False) == {
        "bleu": pytest.approx(100),
        "chrf": pytest.approx(100),
    }


@pytest.mark.parametrize("options", [{}, {"lowercase": True}, {"bleu_tokenizer": "char"}], ids=str)
def test_the_terms_of_the_rows_make_the_metrics_of_the_split(options):
    task, rows = make(**options), Dataset.from_dict({"label": REFERENCES})
    said = [HYPOTHESES[0], "ein HAUS."]
    found = task.score(task.predicted(said, rows), rows, per_class=False)
    lowercase = options.get("lowercase", False)
    bleu = BLEU(tokenize=options.get("bleu_tokenizer", "13a"), lowercase=lowercase)
    assert found["bleu"] == pytest.approx(bleu.corpus_score(said, [REFERENCES]).score)
    assert found["chrf"] == pytest.approx(CHRF(lowercase=lowercase).corpus_score(said, [REFERENCES]).score)


def test_chinese_is_compared_by_its_characters():
    rows = Dataset.from_dict({"label": ["我保證它呢"]})
    found = {
        name: (task := make(bleu_tokenizer=name)).score(task.predicted(["我保證它嗎"], rows), rows, per_class=False)
        for name in ("zh", "13a")
    }
    assert found["zh"]["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    assert found["13a"]["bleu"] == 0, "one long word that is another"


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        ("The cat sat", "the cat ran fast!", [4 / 7, 2 / 5, 4 / 7]),
        ("cat the", "the cat", [1, 0, 1 / 2]),
        ("我看書", "我看電影", [4 / 7, 2 / 5, 4 / 7]),
        ("Bäume", "bäume", [1, 0, 1]),
        ("", "the cat", [0, 0, 0]),
    ],
)
def test_rouge_by_hand(said, true, expected):
    task, rows = make("summarization"), Dataset.from_dict({"label": [true, true]})
    predicted = task.predicted([said, true], rows)
    assert [predicted.terms[f"{name}:num"][0] for name in ("rouge1", "rouge2", "rougeL")] == pytest.approx(expected)
    assert predicted.terms["rouge1:den"] == [1, 1]
    assert task.score(predicted, rows, per_class=False)["rouge1"] == pytest.approx((expected[0] + 1) / 2)


def test_floors():
    rows = Dataset.from_dict({"text": ["One is. Two is? Three! Four.", "我看書。你看！"], "label": ["a", "b"]})
    assert make().floors(rows, rows) == {"copy": rows["text"][:]}
    assert make("summarization").floors(rows, rows) == {
        "lead1": ["One is.", "我看書。"],
        "lead3": ["One is. Two is? Three!", "我看書。 你看！"],
    }


def bert_tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {word: i for i, word in enumerate([*special, "one", "two", "ei", "##ns"])}
    backend = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    from tokenizers import decoders

    backend.decoder = decoders.WordPiece()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=24, **names)


def test_labels_come_back_as_they_went(tokenizer):
    task, rows = make(), pairs()
    encoded = encode(rows, task, tokenizer, 24, None)
    assert task.predict(encoded["label"][:], encoded, rows).values == rows["label"][:]
    assert all(ids[-1] == tokenizer.sep_token_id for ids in encoded["label"][:])
    assert task.example_weights(encoded).tolist() == [len(ids) for ids in encoded["label"][:]]
    bert = bert_tokenizer()
    assert task.targets(["one eins", "two"], bert) == [[4, 6, 7, 3], [5, 3]], "without what a decoder starts from"
    assert task.predict([[2, 4, 6, 7, 3]], None, Dataset.from_dict({"label": ["one eins"]})).values


def test_other_options_are_encoded_anew(tokenizer):
    rows = Dataset.from_dict({"text": ["one two"], "label": ["one two one two one two"]})
    found = [
        (encoded["input_ids"][0], encoded["label"][0])
        for options in ({}, {"max_target_length": 4}, {"source_prefix": "big "})
        for encoded in [encode(rows, make(**options), tokenizer, 24, None)]
    ]
    assert [len(ids) for _, ids in found] == [len(found[0][1]), 4, len(found[0][1])]
    assert len(found[2][0]) > len(found[0][0])


@pytest.mark.parametrize("kind", [bert_tokenizer, None], ids=["bert", "subwords"])
def test_long_targets_are_cut_and_still_end(tokenizer, kind):
    tokenizer = kind() if kind else tokenizer
    task, rows = make(max_target_length=5), Dataset.from_dict({"text": ["one"], "label": ["one two one two one two"]})
    encoded = encode(rows, task, tokenizer, 24, None)
    assert len(encoded["label"][0]) == 5
    assert encoded["label"][0][-1] == tokenizer.sep_token_id
    task.tokenizer = tokenizer
    assert task.notes(encoded) == ["1 of 1 targets have 5 tokens or more and were cut there"]


def test_the_prefix_stands_before_the_source_alone(tokenizer):
    rows = Dataset.from_dict({"text": ["two"], "label": ["zwei"]})
    encoded = encode(rows, make(source_prefix="one "), tokenizer, 24, None)
    assert tokenizer.decode(encoded["input_ids"][0]) == "one two"
    assert tokenizer.decode(encoded["label"][0], skip_special_tokens=True) == "zwei"


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("translation", {"num_beam": 2}, "options"),
        ("translation", {"num_beams": 0}, "options.num_beams"),
        ("translation", {"max_target_length": 1}, "options.max_target_length"),
        ("translation", {"bleu_tokenizer": "flores200"}, "options.bleu_tokenizer"),
        ("translation", {"lowercase": "no"}, "options.lowercase"),
        ("summarization", {"lowercase": True}, "options"),
        ("summarization", {"length_penalty": "long", "source_prefix": 1}, "options.length_penalty"),
    ],
)
def test_options_that_do_not_fit_are_said(name, options, key):
    with pytest.raises(UserError) as caught:
        make(name, **options)
    assert caught.value.problems[0].key == f"target.task.{key}"


@pytest.mark.parametrize("name", SHAPES)
def test_every_family_writes_within_its_limits(family, tokenizer, name):
    task, rows, model = make(num_beams=2), pairs(8), family(name)
    batch, encoded = batch_of(task, tokenizer, rows)
    outputs = model(**batch["inputs"])
    chosen = batch["labels"] != -100
    by_token = torch.nn.functional.cross_entropy(outputs.logits[chosen], batch["labels"][chosen])
    torch.testing.assert_close(task.loss(outputs, batch), by_token)
    assert task.example_weights(encoded).sum() == chosen.sum()

    for testing, beams in ((True, 2), (False, 1)):
        task.testing = testing
        written = task.answers(model, outputs, batch)
        assert model.generation_config.num_beams == beams
        assert len(written) == 8
        # its start and at most 24 tokens more, all that the tokenizer and the positions allow
        assert max(len(ids) for ids in written) <= 25
        assert all(tokenizer.sep_token_id not in ids[1:-1] for ids in written), "it stops at its end"
    again = model.generate(**{key: batch["inputs"][key] for key in ("input_ids", "attention_mask")})
    assert [[token for token in ids if token] for ids in again.tolist()] == written, "a saved model writes the same"


def test_parts_of_a_batch_have_the_gradient_of_the_whole(tokenizer, family):
    """Rows of different numbers of target tokens: each token counts the same, however the batch is cut."""
    task, rows = make(), pairs(10)
    batch, encoded = batch_of(task, tokenizer, rows)
    weights = torch.tensor(task.example_weights(encoded))
    batch["share"] = weights / weights.sum()
    gradients = []
    for number in (1, 3):
        model = family("two_berts")
        for part in memory.parts(batch, number):
            (task.loss(model(**part["inputs"]), part) * part["share"].sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


def write_pairs(path: Path, number: int, seed: int) -> Path:
    rows = pairs(number, seed)
    return write_csv(path, [dict(zip(("en", "de"), (row["text"], row["label"]), strict=True)) for row in rows])


def test_a_source_helps_a_target_to_be_translated(tmp_path):
    """The three stages, the export and `transfer predict`: more pairs, then a few of the same languages."""
    source, target = (write_pairs(tmp_path / f"{n}.csv", n, seed=n) for n in (300, 40))
    columns = [f"{leg}.data.columns.{kind}={name}" for leg in ("source", "target") for kind, name in COLUMNS.items()]
    common = [
        *["model=lstm_seq2seq", "model.config.hidden_size=64", "model.config.embedding_size=64", "model.lr=1e-2"],
        *[
            "model.config.dropout=0.0",
            "source.budget.batch_size=16",
            "source.data.validation_size=20",
            "source.data.test_size=10",
        ],
        *["task@source.task=translation", "task@target.task=translation", "data@source.data=csv", *columns],
        *[f"source.data.path={source}", f"target.data.path={target}", "source.budget.max_epochs=14"],
        *["source.task.options.max_target_length=20", "target.task.options.max_target_length=20"],
        *["target.budget.max_epochs=2", "scratch.min_steps=1", f"output_dir={tmp_path / 'out'}", "floors=true"],
    ]
    transferred, scratch = run(*common), run(*common, "arm=scratch")
    assert transferred["metrics"]["test/bleu"] > scratch["metrics"]["test/bleu"] + 20
    assert transferred["weights"]["reinitialised"] == []
    assert transferred["metrics"]["floor_copy/bleu"] < 20
    folder = Path(transferred["_folder"])
    table = pd.read_parquet(folder / "predictions.parquet")
    answers = predict.load(folder / "model").predict(
        Dataset.from_dict({"text": table["text"], "label": table["label"]})
    )
    assert answers[0] == table["prediction"].tolist(), "a saved model says the same"
    generation = json.loads((folder / "model" / "generation_config.json").read_text())
    assert (generation["num_beams"], generation["max_new_tokens"]) == (4, 20)
    assert BLEU().corpus_score(table["prediction"].tolist(), [table["label"].tolist()]).score == pytest.approx(
        transferred["metrics"]["test/bleu"]
    )


COLUMNS = {"text": "en", "label": "de"}


@pytest.mark.parametrize(("texts", "has_source", "has_target"), [("source", 1, 0), ("target", 0, 1), ("both", 1, 1)])
def test_a_vocabulary_is_built_of_the_legs_that_are_asked_for(tmp_path, texts, has_source, has_target):
    source = write_csv(tmp_path / "source.csv", [{"en": f"one {i}", "de": "eins"} for i in range(20)])
    target = write_csv(tmp_path / "target.csv", [{"en": f"two {i}", "de": "deux"} for i in range(20)])
    config = compose(
        [
            *["model=lstm_seq2seq", f"model.vocabulary.texts={texts}", "data@source.data=csv"],
            *[f"{leg}.data.columns.{kind}={name}" for leg in ("source", "target") for kind, name in COLUMNS.items()],
            *["task@source.task=translation", "task@target.task=translation"],
            *[f"source.data.path={source}", f"target.data.path={target}"],
        ]
    )
    plan = planning.make(config)
    found = list(legs.vocabulary_texts(plan))
    assert ("eins" in found, "deux" in found) == (has_source, has_target), "labels are texts too"
    write_csv(target, [{"en": f"two {i}", "de": "zwei"} for i in range(20)])
    parents = plan.parents, planning.make(config).parents
    assert (parents[0] != parents[1]) == bool(has_target), "what the source is trained with depends on the vocabulary"
