"""The table of the contract: every kind of task, every family of models, and which of them fit each other.

A task that is missing from `KINDS`, or a family from `FAMILIES`, makes `test_contract.py` fail.
"""

import math
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from transfer.config import Columns, Task, Vocabulary

TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# No dropout: several processes draw other numbers than one.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **TRANSFORMER},
    "roberta": {"model_type": "roberta", **TRANSFORMER},
    "distilbert": {
        "model_type": "distilbert",
        **{"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 40},
        **dict.fromkeys(("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"), 0.0),
    },
    "gpt2": {
        "model_type": "gpt2",
        **{"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop", "summary_first_dropout"), 0.0),
    },
    "t5": {
        "model_type": "t5",
        **{"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
        **{"dropout_rate": 0.0, "classifier_dropout": 0.0},
    },
    "two_berts": {"model_type": "encoder-decoder", "encoder": TRANSFORMER},
    "lstm": {"model_type": "recurrent", "embedding_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "dropout": 0},
    "gru": {
        "model_type": "recurrent",
        **{"cell": "gru", "bidirectional": False, "embedding_size": 16, "hidden_size": 16, "dropout": 0},
    },
    "word_mean": {"model_type": "recurrent", "cell": "mean", "embedding_size": 16, "dropout": 0},
    "linear": {"model_type": "linear"},
    "cnn": {"model_type": "cnn", "hidden_sizes": [8, 8], "dropout": 0},
    "vgg": {"model_type": "vgg", "width": 0.0625, "pooled_size": 1, "hidden_size": 16, "dropout": 0},
    "resnet": {
        "model_type": "resnet",
        **{"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
    },
    "mobilenet_v2": {
        "model_type": "mobilenet_v2",
        **{"depth_multiplier": 0.1, "expand_ratio": 1.0, "tf_padding": False, "classifier_dropout_prob": 0.0},
    },
}
READERS = ("bert", "roberta", "distilbert", "gpt2", "t5", "lstm", "gru", "word_mean")
CHOOSERS = ("bert", "roberta", "distilbert", "lstm", "gru", "word_mean")
WRITERS = ("t5", "two_berts", "lstm", "gru")
LEFT_TO_RIGHT = ("bert", "roberta", "gpt2", "gru")
SEEING = ("cnn", "vgg", "resnet", "mobilenet_v2")
# The statistics of a batch are those of a rank's own part of it.
BATCH_NORMS = ("resnet", "mobilenet_v2")


@dataclass(frozen=True)
class Kind:
    """A task with its data.

    Attributes:
        rows: as they stand in a file.
        families: those that can do it; all others have to be refused.
        perfect: the metrics where everything is right.
        said: predictions for the rows, not all of them right, by which `found` was computed by hand.
        predicted: how many tokens of each row a language model predicts, counted by hand.
    """

    task: Task
    columns: Columns
    rows: list[dict[str, Any]]
    families: tuple[str, ...]
    perfect: dict[str, float]
    said: list[Any] = field(default_factory=list)
    found: dict[str, float] = field(default_factory=dict)
    predicted: list[int] = field(default_factory=list)
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(texts="target"))


def _rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _task(name: str, monitor: str = "accuracy", mode: str = "max", **settings: Any) -> Task:
    return Task(name=name, monitor=monitor, mode=mode, **{"max_length": 24, **settings})


TEXTS = ["red one", "blue two two", "green one two three", "red three", "blue", "green two one one two"]
COLOURS = ["red", "blue", "green"] * 2
RIGHT = dict.fromkeys(("accuracy", "precision", "recall", "f1", "mcc"), 1.0)
SEVERAL = [["red"], ["blue"], ["red", "blue"], [], ["red"], ["blue", "green"]]
# red: 1 of 2 found, 1 of 2 right; blue: 2 of 2, 2 of 3; green: 1 of 2, 1 of 1.
MIXED_UP = ["red", "blue", "green", "blue", "blue", "red"]
MIXED = {"accuracy": 4 / 6, "precision": (1 / 2 + 2 / 3 + 1) / 3, "recall": 2 / 3, "f1": (1 / 2 + 4 / 5 + 2 / 3) / 3}
NUMBERS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
# One of six is 3 too much: the sum of products of the deviations is 25, those of the squares are 17.5 and 40.
OFF, OFF_BY = [*NUMBERS[:-1], 9.0], {"mse": 9 / 6, "pearson": 25 / math.sqrt(17.5 * 40), "spearman": 1.0}
STRAIGHT = {"mse": 0.0, "pearson": 1.0, "spearman": 1.0}
SENTENCES = ["Ann met Bob Lee", "Rome", "Bob saw Rome", "it was", "Ann saw New Rome", "Lee"]
TAGS = ["B-PER O B-PER I-PER", "B-LOC", "B-PER O B-LOC", "O O", "B-PER O B-LOC I-LOC", "B-PER"]
QUESTIONS = [
    ("who met Bob", "today Ann Lee met Bob in Rome", "Ann Lee"),
    ("where", "Ann was in New Rome", "New Rome"),
    ("who saw Ann", "Bob saw Ann", "Bob"),
    ("who was in Rome", "it was Eve in Rome", "Eve"),
    ("where was Eve", "Eve was in Rome today with Ann and Bob", "Rome"),
    ("who", "Lee met Ann Lee", "Ann Lee"),
]
CHOICES = ["first", "second", "third"]
SOURCES = ["one house", "two big trees", "one big red house", "three red trees or two", "two red trees or", "big"]
TARGETS = ["ein Haus", "zwei große Bäume", "ein großes rotes Haus", "drei rote Bäume oder zwei", "zwei rote", "groß ja"]
ANSWERS = ["one", "two of them", "three green", "one red", "none", "two green one"]


def _spans(answers: list[str]) -> list[list[dict[str, Any]]]:
    contexts = [context for _, context, _ in QUESTIONS]
    return [[{"text": a, "start": context.index(a)}] for a, context in zip(answers, contexts, strict=True)]


KINDS: dict[str, Kind] = {
    "class": Kind(
        _task("sequence_classification"),
        Columns(),
        _rows(text=TEXTS, label=COLOURS),
        READERS,
        RIGHT,
        MIXED_UP,
        # Of 36 - 3 * 4 and 36 - (4 + 9 + 1) pairs of rows, 6 * 4 - 2 * 6 agree more than by chance.
        MIXED | {"mcc": 12 / math.sqrt(24 * 22)},
    ),
    "class of a pair": Kind(
        _task("sequence_classification", "f1"),
        Columns(text_pair="other"),
        _rows(text=TEXTS, other=["red", "red", "green three", "blue", "blue two", "one"], label=["same", "not"] * 3),
        READERS,
        RIGHT,
        ["same", "not", "same", "not", "same", "same"],
        {"accuracy": 5 / 6, "precision": (3 / 4 + 1) / 2, "recall": (1 + 2 / 3) / 2, "f1": (6 / 7 + 4 / 5) / 2},
    ),
    "several classes": Kind(
        _task("sequence_classification", multi_label=True),
        Columns(),
        _rows(text=TEXTS, label=SEVERAL),
        READERS,
        {name: value for name, value in RIGHT.items() if name != "mcc"},
        [["red"], ["blue"], ["red"], [], ["red", "blue"], ["blue", "green"]],
        {"accuracy": 4 / 6, **dict.fromkeys(("precision", "recall", "f1"), (1 + 2 / 3 + 1) / 3)},
    ),
    "class of numbers": Kind(
        _task("sequence_classification"),
        Columns(features=["x", "y"]),
        _rows(x=[1.0, 2.0, 3.0, 1.5, 2.5, 3.5], y=[5.0, 1.0, 3.0, 5.0, 2.0, 2.5], label=COLOURS),
        ("linear",),
        RIGHT,
        MIXED_UP,
        MIXED,
    ),
    "number": Kind(
        _task("regression", "mse", "min"),
        Columns(),
        _rows(text=TEXTS, label=NUMBERS),
        READERS,
        STRAIGHT,
        OFF,
        OFF_BY,
    ),
    "number of numbers": Kind(
        _task("regression", "pearson"),
        Columns(features=["x", "y"]),
        _rows(x=[1.0, 2.0, 3.0, 1.5, 2.5, 3.5], y=[5.0, 1.0, 3.0, 5.0, 2.0, 2.5], label=NUMBERS),
        ("linear",),
        STRAIGHT,
        OFF,
        OFF_BY,
    ),
    "tags": Kind(
        _task("token_classification", "f1"),
        Columns(tokens="words"),
        _rows(words=[text.split() for text in SENTENCES], label=[tags.split() for tags in TAGS]),
        READERS,
        dict.fromkeys(("precision", "recall", "f1", "accuracy"), 1.0),
        [tags.split() for tags in ["B-PER O B-PER O", *TAGS[1:3], "B-LOC O", *TAGS[4:]]],
        # Eight entities, nine answered: one ends too early, one is none. Two of fifteen words are wrong.
        {"precision": 7 / 9, "recall": 7 / 8, "f1": 14 / 17, "accuracy": 13 / 15},
    ),
    "answer": Kind(
        _task("question_answering", "f1"),
        Columns(text="question", text_pair="context", label="answers"),
        [
            {"question": q, "context": c, "answers": {"text": [a], "answer_start": [c.index(a)]}}
            for q, c, a in QUESTIONS
        ],
        READERS,
        {"exact_match": 1.0, "f1": 1.0},
        _spans(["Ann", "New Rome", "Ann", "Eve", "Rome", "Ann Lee"]),
        {"exact_match": 4 / 6, "f1": (4 + 2 / 3) / 6},
    ),
    "choice": Kind(
        _task("multiple_choice"),
        Columns(choices=CHOICES),
        _rows(
            text=TEXTS,
            first=["red", "red", "red two", "one", "two", "green"],
            second=["blue", "blue", "blue", "red", "blue one", "two two"],
            third=["green", "three", "green", "two", "three", "one"],
            label=["first", "second", "third", "second", "second", "first"],
        ),
        CHOOSERS,
        {"accuracy": 1.0},
        ["first", "second", "third", "first", "first", "first"],
        {"accuracy": 4 / 6},
    ),
    "translation": Kind(
        _task("translation", "bleu", options={"max_target_length": 12, "num_beams": 2}),
        Columns(),
        _rows(text=SOURCES, label=TARGETS),
        WRITERS,
        {"bleu": 100.0, "chrf": 100.0},
        [*TARGETS[:2], "ein großes rotes Tier", *TARGETS[3:]],
        # Of 18 words 17 are right, of 12 pairs 11, of 6 triples 5, of 3 quadruples 2; all texts have the right length.
        {"bleu": 100 * (17 / 18 * 11 / 12 * 5 / 6 * 2 / 3) ** (1 / 4)},
        vocabulary=Vocabulary(texts="target", kind="subwords", max_size=120, lowercase=False),
    ),
    "summary": Kind(
        _task("summarization", "rouge1", options={"max_target_length": 12, "num_beams": 1}),
        Columns(),
        _rows(text=[text * 2 for text in SOURCES], label=["the house", "big trees", *SOURCES[2:5], "a big one"]),
        WRITERS,
        {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0},
        ["the tree", "trees big", *SOURCES[2:5], "a big one"],
        # Of the first a word of two; of the second both words, one of them in its order.
        {"rouge1": 5.5 / 6, "rouge2": 4 / 6, "rougeL": 5 / 6},
    ),
    "next words": Kind(
        _task("causal_lm", "perplexity", "min"),
        Columns(label=None),
        _rows(text=TEXTS),
        LEFT_TO_RIGHT,
        {"perplexity": 1.0, "accuracy": 1.0},
        predicted=[3, 4, 5, 3, 2, 6],
    ),
    "hidden words": Kind(
        _task("masked_lm", "perplexity", "min"),
        Columns(label=None),
        _rows(text=TEXTS),
        ("bert", "roberta", "distilbert"),
        {"perplexity": 1.0, "accuracy": 1.0},
        predicted=[1] * 6,
    ),
    "response": Kind(
        _task("dialogue", "perplexity", "min", options={"max_new_tokens": 6}),
        Columns(),
        _rows(text=TEXTS, label=ANSWERS),
        LEFT_TO_RIGHT,
        {"perplexity": 1.0, "accuracy": 1.0, "exact_match": 1.0, "token_f1": 1.0},
        ["one", "two of", "three green", "one blue", "two", "two green one"],
        # Two of three words; one of two; none.
        {"exact_match": 3 / 6, "token_f1": (3 + 4 / 5 + 1 / 2) / 6},
        predicted=[2, 4, 3, 3, 2, 4],
    ),
    "image": Kind(
        _task("image_classification"),
        Columns(image="image", text=None),
        _rows(image=[f"{number}.png" for number in range(6)], label=COLOURS),
        SEEING,
        RIGHT,
        MIXED_UP,
        MIXED,
    ),
}
FITTING = [(kind, family) for kind, about in KINDS.items() for family in about.families]
OTHERS = sorted({*product(KINDS, FAMILIES)} - {*FITTING})
