import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from sklearn.metrics import f1_score

from tests.running import LSTM, cli, reviews, run
from transfer import memory, tasks
from transfer.config import Task
from transfer.errors import UserError
from transfer.models.word_vectors import build_tokenizer
from transfer.tasks.token_classification import UNSEEN, first_pieces

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
CLASSES = ["ADJ", "NOUN", "VERB"]


def made(labels=TAGS, **settings):
    return tasks.make(Task(name="token_classification", **{"monitor": "f1", **settings}), labels, key="target.task")


def rows_of(*pairs):
    """(words, tags) of each sentence, as text."""
    words, tags = ([text.split() for text in column] for column in zip(*pairs, strict=True))
    return Dataset.from_dict({"id": [str(i) for i in range(len(words))], "tokens": words, "label": tags})


def scores(task, true, said, *, per_class=True):
    rows = rows_of(*[(row, row) for row in true])
    return task.score(task.predicted([row.split() for row in said], rows), rows, per_class=per_class)


def test_entities_by_hand():
    """Four there, four answered, two right: one has a wrong end, one a wrong type, one is not found."""
    true = ["B-PER I-PER O B-LOC O", "B-PER O B-LOC I-LOC"]
    said = ["B-PER I-PER O B-PER O", "B-PER O B-LOC O"]
    found = scores(made(), true, said)
    assert (found["precision"], found["recall"], found["f1"]) == (2 / 4, 2 / 4, 2 / 4)
    assert found["accuracy"] == 7 / 9
    assert (found["precision/PER"], found["recall/PER"]) == (2 / 3, 1.0)
    assert found["f1/PER"] == pytest.approx(0.8)
    assert found["f1/LOC"] == 0.0
    assert set(scores(made(), true, said, per_class=False)) == {"precision", "recall", "f1", "accuracy"}


@pytest.mark.parametrize(
    ("true", "said", "f1"),
    [
        ("B-PER I-PER", "I-PER I-PER", 1.0),  # an I- that begins is read as a B-
        ("B-PER B-PER", "B-PER I-PER", 0.0),
        ("O O", "O O", 0.0),
        ("B-PER I-LOC", "B-PER B-LOC", 1.0),
    ],
)
def test_what_an_answer_means(true, said, f1):
    assert scores(made(), [true], [said])["f1"] == f1


def test_plain_classes_have_accuracy_and_macro_f1():
    chance = random.Random(0)
    true, said = (["".join(chance.choice("ANV") for _ in range(6)) for _ in range(30)] for _ in range(2))
    names = dict(zip("ANV", CLASSES, strict=True))
    true, said = ([" ".join(names[c] for c in row) for row in column] for column in (true, said))
    found = scores(made(CLASSES), true, said)
    expected = f1_score(" ".join(true).split(), " ".join(said).split(), average=None)
    assert found["f1"] == pytest.approx(expected.mean())
    assert [found[f"f1/{name}"] for name in CLASSES] == pytest.approx(expected)
    assert made(CLASSES).metric_names == ("accuracy", "f1")


@pytest.mark.parametrize("labels", [TAGS, CLASSES])
def test_the_terms_give_the_metrics(labels):
    from transfer.study import terms

    chance = random.Random(1)
    true, said = ([" ".join(chance.choices(labels, k=chance.randint(1, 7))) for _ in range(20)] for _ in range(2))
    said = [" ".join((row.split() * 7)[: len(t.split())]) for row, t in zip(said, true, strict=True)]
    rows = rows_of(*[(row, row) for row in true])
    predicted = made(labels).predicted([row.split() for row in said], rows)
    found = made(labels).score(predicted, rows, per_class=False)
    for metric, value in found.items():
        names = terms.columns(metric, predicted.terms)
        columns = np.array([predicted.terms[name] for name in names]).T
        assert terms.of_sums(metric, columns.sum(axis=0)[None])[0] == pytest.approx(value), metric


def bert(cased=True):
    """Word pieces as BERT has them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "in", "New", "York", "##ers", "-", "met", "Ann", "##a"]
    inner = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=["input_ids", "attention_mask"], **names)


def byte_level():
    """Bytes as GPT-2 has them: the blank before a word belongs to its first piece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False
    )
    inner.train_from_iterator(["Ann met New Yorkers in New York"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")


def own():
    return build_tokenizer(["Ann met New Yorkers in New York"], max_size=50, min_count=1, lowercase=True, max_length=64)


SENTENCE = "Anna met New Yorkers in New-York", "B-PER O B-LOC I-LOC O B-LOC"


@pytest.mark.parametrize("tokenizer", [bert, byte_level, own])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_first_piece_of_a_word_has_its_tag(tokenizer, side):
    """And what is read off there again, after padding, are the tags."""
    task, tokenizer = made(), tokenizer()
    tokenizer.padding_side = side
    rows = rows_of(SENTENCE, ("met Ann", "O B-PER"))
    encoded = Dataset.from_dict(task.encode({**rows[:], "row": [0, 1]}, tokenizer, 64))
    for ids, places, words in zip(encoded["input_ids"], encoded["place"], rows["tokens"], strict=True):
        assert len(places) == len(words)
        begins = [tokenizer.decode([ids[place]]).strip().lower().removeprefix("##") for place in places]
        pairs = zip(words, begins, strict=True)
        assert all(word.lower().startswith(piece) or piece == "[unk]" for word, piece in pairs)
    batch = task.collate([{**row, "index": i} for i, row in enumerate(encoded)], tokenizer)
    assert (batch["labels"] != -100).sum() == 8
    assert not (batch["labels"] != -100)[batch["inputs"]["attention_mask"] == 0].any()
    logits = F.one_hot(batch["labels"].clamp(min=0), 5).float() * 9
    predicted = task.predict(task.answers(None, SimpleNamespace(logits=logits), batch), encoded, rows)
    assert predicted.values == rows["label"][:]
    assert all(0.9 < score < 1 for score in predicted.scores)


def test_the_pieces_of_a_word_are_found_by_their_characters():
    #       Ann   met  [CLS]           blank  "a b" is one word here
    words = ["Ann", "", "met", "a b"]
    offsets = [(0, 0), (0, 2), (2, 3), (3, 4), (4, 8), (8, 9), (9, 10), (11, 12), (0, 0)]
    assert first_pieces(words, offsets) == [(1, 0), (4, 2), (6, 3)]


def test_words_beyond_the_length_are_counted_and_wrong(caplog):
    task, tokenizer = made(), bert()
    rows = rows_of(SENTENCE, ("met Ann", "O B-PER"))
    from transfer.data.encoding import encode

    with caplog.at_level("INFO", logger="transfer"):
        encoded = encode(rows, task, tokenizer, 7, None)  # [CLS] Ann ##a met New York ##ers ... [SEP]
        encoded = encode(rows, task, tokenizer, 6, None)
    assert "2 of 8 words (1 of 2 rows)" in caplog.text
    assert "3 of 8 words (1 of 2 rows)" in caplog.text
    answers = [([3, 0, 1], 0.9), ([0, 3], 0.8)]
    predicted = task.predict(answers, encoded, rows)
    assert predicted.values[0] == ["B-PER", "O", "B-LOC", "O", "O", "O"]
    found = task.score(predicted, rows, per_class=False)
    assert found["accuracy"] == 5 / 8, "also where O would have been right"
    assert (found["precision"], found["recall"]) == (2 / 3, 2 / 4)
    plain = made(["NOUN", "VERB"])
    rows = rows_of(("Anna met Ann", "NOUN VERB NOUN"))
    encoded = encode(rows, plain, tokenizer, 5, None)
    predicted = plain.predict([([0, 1], 0.9)], encoded, rows)
    assert predicted.values == [["NOUN", "VERB", UNSEEN]]
    assert plain.score(predicted, rows, per_class=False)["accuracy"] == pytest.approx(2 / 3)


def batch_of(task, *label_rows):
    labels = torch.full((len(label_rows), max(map(len, label_rows))), -100)
    for i, row in enumerate(label_rows):
        labels[i, : len(row)] = torch.tensor(row)
    encoded = Dataset.from_dict({"label": [[c for c in row if c >= 0] for row in label_rows]})
    return labels, torch.from_numpy(task.example_weights(encoded))


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 3.0, 2.0, 2.0]])
def test_the_loss_is_the_mean_over_words_however_a_batch_is_cut(weights):
    task = made(class_weights=weights)
    labels, own = batch_of(task, [0, -100, 1, 2, 0], [3], [-100, -100])
    logits = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    kept = labels != -100
    losses = F.cross_entropy(logits[kept], labels[kept], reduction="none")
    scale = torch.tensor(weights or [1.0] * 5)[labels[kept]]
    expected = float((losses * scale).sum() / scale.sum())
    assert float(task.loss(SimpleNamespace(logits=logits), {"labels": labels})) == pytest.approx(expected)
    batch = {"logits": logits, "labels": labels, "share": own / own.sum(), "index": torch.arange(3)}
    parts = [part for part in memory.parts(batch, 3) if part["share"].sum() > 0]
    assert len(parts) == 2, "a row without a word counts nothing"
    cut = sum(task.loss(SimpleNamespace(logits=p["logits"]), {"labels": p["labels"]}) * p["share"].sum() for p in parts)
    assert float(cut) == pytest.approx(expected)


def test_balanced_weights_have_mean_one_over_the_words():
    task = made(["NOUN", "VERB"], class_weights="balanced")
    task.fit(rows_of(("a b c", "NOUN NOUN NOUN"), ("d", "VERB")))
    assert task.class_weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"monitor": "mcc"}, "target.task.monitor"),
        ({"class_weights": [1.0]}, "target.task.class_weights"),
        ({"options": {"stride": 1}}, "target.task.options"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, key):
    with pytest.raises(UserError) as caught:
        made(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]
    with pytest.raises(UserError, match="accuracy, f1, loss"):
        made(CLASSES, monitor="precision")


def test_a_tokenizer_without_characters_is_refused():
    with pytest.raises(UserError, match="which characters"):
        made().encode({"tokens": [["a"]], "label": [["O"]], "row": [0]}, SimpleNamespace(is_fast=False), 8)


def test_floors_of_entities():
    """Phrases seen as entities of one type only, the longest first; Paris was of two types."""
    train = rows_of(
        ("New York and Paris", "B-LOC I-LOC O B-LOC"),
        ("Paris met York", "B-PER O B-PER"),
        ("York Minster", "B-LOC I-LOC"),
    )
    test = rows_of(("in New York Minster York Paris", "O O O O O O"))
    found = made().floors(train, test)
    assert found == {"majority": [["O"] * 6], "lexicon": [["O", "B-LOC", "I-LOC", "O", "B-PER", "O"]]}


def test_floors_of_plain_classes():
    train = rows_of(("a run run run", "NOUN VERB VERB NOUN"), ("red x y", "ADJ NOUN NOUN"))
    found = made(CLASSES).floors(train, rows_of(("run red new", "VERB ADJ ADJ")))
    assert found == {"majority": [["NOUN"] * 3], "lexicon": [["VERB", "ADJ", "NOUN"]]}


def test_the_head_of_the_same_tags_is_kept():
    same = {"architectures": ["BertForTokenClassification"], "num_labels": 5, "problem_type": None}
    config = SimpleNamespace(**same, id2label=dict(enumerate(TAGS)))
    assert made().same_head(config)
    assert not made([*TAGS[:3], "B-ORG", "I-ORG"]).same_head(config)
    config.architectures = ["BertForSequenceClassification"]
    assert not made().same_head(config)


def conll(path: Path, num: int, seed: int, people=("Ann", "Bob", "Eve", "Joe")) -> Path:
    """Sentences such as "today Ann Lee saw Bob", with the tags I- alone."""
    chance = random.Random(seed)
    lines = []
    for _ in range(num):
        words = [(chance.choice(["today", "then", "it"]), "O"), (chance.choice(people), "I-PER")]
        words += [("Lee", "I-PER")] * chance.randint(0, 1) + [("saw", "O")]
        words += [(chance.choice(["Rome", "Oslo"]), "I-LOC")] if chance.random() < 0.5 else [("a", "O"), ("film", "O")]
        lines += [f"{word} {tag}" for word, tag in words] + [""]
    path.write_text("\n".join(lines))
    return path


TAGGING = ["task@target.task=token_classification", "target.data.columns.tokens=tokens", "floors=true"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Sentiment of reviews to entities, and the arm from scratch, with an LSTM over words."""
    folder = tmp_path_factory.mktemp("tagging")
    file = conll(folder / "all.conll", 120, 0)
    common = [
        *[*LSTM, "data@source.data=csv", f"source.data.path={reviews(folder / 'reviews.csv')}", *TAGGING],
        *[f"target.data.path={file}", "experiment_name=tagging", f"output_dir={folder / 'out'}", "optimizer.lr=0.05"],
        *[
            "source.budget.max_epochs=1",
            "target.budget.max_epochs=6",
            "target.budget.batch_size=8",
            "scratch.max_epochs=6",
        ],
        *["model.vocabulary.texts=target", f"cache_dir={folder / 'cache'}"],
    ]
    return folder / "out", {arm: run(*common, f"arm={arm}", "scratch.lr=0.05") for arm in ("transfer", "scratch")}


def test_a_classifier_of_texts_starts_a_tagger(study):
    """The backbone goes over by its names, the head is new."""
    record = study[1]["transfer"]
    assert record["weights"]["fraction_loaded"] == 1.0
    assert sorted(record["weights"]["reinitialised"]) == ["classifier.bias", "classifier.weight"]
    metrics = record["metrics"]
    assert metrics["test/f1"] > 0.9
    assert metrics["test/f1/PER"] > 0.9
    assert metrics["floor_majority/f1"] == 0.0
    assert metrics["floor_lexicon/f1"] > 0.5
    found = pd.read_parquet(Path(record["_folder"]) / "predictions.parquet")
    assert found["text"].str.contains("saw").all()
    assert {tag[:2] for tags in found["label"] for tag in tags} == {"O", "B-", "I-"}, "IOB2 by now"
    for suffix, prefix in (("", "test"), ("_lexicon", "floor_lexicon")):
        ratio = found[f"f1:num{suffix}"].sum() / found[f"f1:den{suffix}"].sum()
        assert ratio == pytest.approx(metrics[f"{prefix}/f1"])


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_the_arms_are_compared_over_sentences(study, metric, tmp_path):
    output, _ = study
    done = cli("compare", "tagging", "--output-dir", output, "--to", tmp_path, "--metric", metric)
    assert done.code == 0, done.err
    page = (tmp_path / "report.md").read_text()
    assert "cannot be computed" not in page
    assert "give another" not in page
    assert "PER" in page
