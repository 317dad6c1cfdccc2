"""A tag for every word: entities (IOB2, scored as entities) or plain classes such as parts of speech."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from transfer import config
from transfer.data import tagging
from transfer.errors import Problem, UserError
from transfer.tasks import class_weights, text
from transfer.tasks.base import BaseTask, Batch, Predicted

IGNORED = -100  # what transformers' own losses leave out
UNSEEN = ""  # no answer: a word of which the model saw nothing
Entity = tuple[str, int, int]


class Task(BaseTask):
    """Cross-entropy over the words of all rows, each word being judged by its first piece.

    A word beyond `max_length`, or without a piece, gets no answer: it is outside of every entity, and counts as wrong.
    """

    auto_class = "AutoModelForTokenClassification"
    problem_type = "tags"
    pipeline = "token-classification"

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        self.scheme = tagging.is_scheme(labels)
        self.index = {label: i for i, label in enumerate(labels)}
        self.types = list(dict.fromkeys(label[2:] for label in labels if label != tagging.OUTSIDE))
        self.metric_names = ("precision", "recall", "f1", "accuracy") if self.scheme else ("accuracy", "f1")
        super().__init__(task, labels, key=key)
        self.class_weights = class_weights.listed(task.class_weights)

    def problems(self, key: str) -> list[Problem]:
        return class_weights.problems(self.task.class_weights, self.labels, key)

    def model_settings(self) -> dict[str, Any]:
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "label2id": self.index, "problem_type": None}

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """The words joined by blanks, as token ids; `place` and `label` of each first piece, and `word`, its number.

        Joined, and not one by one, so that any tokenizer does it, and as it does with a text given to a pipeline.

        Raises:
            UserError: the tokenizer does not say which characters a token stands for.
        """
        if not getattr(tokenizer, "is_fast", False):
            allowed = "a tokenizer that says which characters each token stands for (a fast one)"
            raise UserError(Problem("model.tokenizer", type(tokenizer).__name__, allowed, "choose another model"))
        texts = [" ".join(words) for words in columns["tokens"]]
        encoded = dict(tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True))
        first = [
            first_pieces(words, offsets)
            for words, offsets in zip(columns["tokens"], encoded.pop("offset_mapping"), strict=True)
        ]
        labels = [
            [self.index[tags[word]] for _, word in pieces] for tags, pieces in zip(columns["label"], first, strict=True)
        ]
        return {
            **encoded,
            "length": [len(ids) for ids in encoded["input_ids"]],
            "row": columns["row"],
            "place": [[place for place, _ in pieces] for pieces in first],
            "word": [[word for _, word in pieces] for pieces in first],
            "unseen": [len(words) - len(pieces) for words, pieces in zip(columns["tokens"], first, strict=True)],
            "label": labels,
        }

    def notes(self, encoded: Dataset) -> list[str]:
        unseen = encoded["unseen"][:]
        if not any(unseen):
            return []
        rows = sum(number > 0 for number in unseen)
        total = sum(unseen) + sum(map(len, encoded["word"][:]))
        return [
            f"{sum(unseen):,} of {total:,} words ({rows:,} of {len(encoded):,} rows) are not seen by the model: they "
            "lie beyond max_length, or the tokenizer has nothing for them. Each counts as a wrong answer"
        ]

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """`labels` [rows, length]: -100 wherever no word begins."""
        batch = text.collate(rows, tokenizer)
        length = batch["inputs"]["input_ids"].shape[1]
        labels = torch.full((len(rows), length), IGNORED)
        for number, row in enumerate(rows):
            begin = length - row["length"] if tokenizer.padding_side == "left" else 0
            labels[number, torch.tensor(row["place"], dtype=torch.long) + begin] = torch.tensor(row["label"])
        return {**batch, "labels": labels}

    def fit(self, rows: Dataset) -> None:
        if self.task.class_weights == class_weights.BALANCED:
            counted = Counter(tag for tags in rows["label"][:] for tag in tags)
            self.class_weights = class_weights.balanced(torch.tensor([counted[label] for label in self.labels]))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Mean over the words of all rows, each by its class weight."""
        weights = None if self.class_weights is None else self.class_weights.to(outputs.logits.device)
        logits = outputs.logits.float().flatten(0, 1)
        return F.cross_entropy(logits, batch["labels"].flatten(), weight=weights, ignore_index=IGNORED)

    def example_weights(self, encoded: Dataset) -> np.ndarray:
        weights = np.ones(len(self.labels)) if self.class_weights is None else self.class_weights.double().numpy()
        return np.array([weights[labels].sum() if labels else 0.0 for labels in encoded["label"][:]])

    def answers(self, model: Any, outputs: Any, batch: Batch) -> list[tuple[list[int], float | None]]:
        """For each row the class of every word that was seen, and the least of their probabilities."""
        best = outputs.logits.float().softmax(dim=-1).max(dim=-1)
        classes, sure = best.indices.cpu(), best.values.cpu()
        kept = batch["labels"].cpu() != IGNORED
        return [
            (classes[i, seen].tolist(), float(sure[i, seen].min()) if seen.any() else None)
            for i, seen in enumerate(kept)
        ]

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        values = []
        for (classes, _), places, words in zip(answers, encoded["word"][:], rows["tokens"][:], strict=True):
            tags = [UNSEEN] * len(words)
            for place, number in zip(places, classes, strict=True):
                tags[place] = self.labels[number]
            values.append(tags)
        made = self.predicted(values, rows)
        if self.scheme:
            made.values = [[tag or tagging.OUTSIDE for tag in tags] for tags in values]
        made.scores = [sure for _, sure in answers]
        return made

    def predicted(self, values: list[Any], rows: Dataset) -> Predicted:
        """With the counts of which the metrics are made: "METRIC:num" and "METRIC:den", or "f1:0", "f1:1", ..."""
        pairs = list(zip(rows["label"][:], values, strict=True))
        right = np.array([sum(a == b for a, b in zip(*pair, strict=True)) for pair in pairs], dtype=float)
        terms = {"accuracy:num": right, "accuracy:den": np.array([len(tags) for tags, _ in pairs], dtype=float)}
        if self.scheme:
            hits, true, said = _entity_counts(pairs, self.types).sum(axis=2).T
            terms |= {"precision:num": hits, "precision:den": said, "recall:num": hits, "recall:den": true}
            terms |= {"f1:num": 2 * hits, "f1:den": true + said}
        else:
            counts = _class_counts(pairs, self.index).reshape(len(pairs), -1)
            terms |= {f"f1:{number}": column for number, column in enumerate(counts.T)}
        return Predicted(values, terms={name: column.tolist() for name, column in terms.items()})

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        sums = {name: float(sum(column)) for name, column in predicted.terms.items()}
        pairs = list(zip(rows["label"][:], predicted.values, strict=True))
        counts = (_entity_counts(pairs, self.types) if self.scheme else _class_counts(pairs, self.index)).sum(axis=0)
        classes = {
            name: _rates(*counts[:, i]) for i, name in enumerate(self.types if self.scheme else self.labels)
        }  # of each class
        if self.scheme:
            computed = {name: _ratio(sums[f"{name}:num"], sums[f"{name}:den"]) for name in self.metric_names}
        else:
            found = [rates["f1"] for i, rates in enumerate(classes.values()) if counts[1:, i].any()]
            computed = {
                "accuracy": _ratio(sums["accuracy:num"], sums["accuracy:den"]),
                "f1": sum(found) / max(len(found), 1),
            }
        if per_class:
            computed |= {f"{name}/{label}": rates[name] for label, rates in classes.items() for name in rates}
        return computed

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """`majority`: no entity at all, or the commonest tag; `lexicon`: what the training rows say of the words."""
        sentences, tags, words = train["tokens"][:], train["label"][:], test["tokens"][:]
        common = Counter(tag for row in tags for tag in row)
        most = tagging.OUTSIDE if self.scheme else min(common, key=lambda tag: (-common[tag], tag))
        lexicon = _known_entities(sentences, tags, words) if self.scheme else _commonest(sentences, tags, words, most)
        return {"majority": [[most] * len(row) for row in words], "lexicon": lexicon}


def first_pieces(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(place among the tokens, number of the word) of the first token of each word that has one.

    Args:
        words: of one row.
        offsets: begin and end of each token in the words joined by blanks; (0, 0) for special tokens.
    """
    owner: list[int] = []
    for number, word in enumerate(words):
        owner += [number] * len(word) + [-1]
    found: dict[int, int] = {}
    for place, (begin, end) in enumerate(offsets):
        # Some tokenizers give the blank before a word to its first token.
        number = next((owner[at] for at in range(begin, end) if owner[at] >= 0), -1)
        if number >= 0:
            found.setdefault(number, place)
    return [(place, number) for number, place in sorted(found.items())]


def _entity_counts(pairs: Sequence[tuple[list[str], list[str]]], types: Sequence[str]) -> np.ndarray:
    """Entities found, there, and answered, [rows, 3, types]; one is found where type and both ends are right."""
    index = {kind: i for i, kind in enumerate(types)}
    counts = np.zeros((len(pairs), 3, len(types)))
    for row, (true, said) in enumerate(pairs):
        there, answered = tagging.entities(true), tagging.entities(said)
        for place, entities in enumerate((there & answered, there, answered)):
            for kind, _, _ in entities:
                counts[row, place, index[kind]] += 1
    return counts


def _class_counts(pairs: Sequence[tuple[list[str], list[str]]], index: dict[str, int]) -> np.ndarray:
    """Words right, there, and answered, [rows, 3, classes]."""
    counts = np.zeros((len(pairs), 3, len(index)))
    for row, (true, said) in enumerate(pairs):
        for place, tags in enumerate(([a for a, b in zip(true, said, strict=True) if a == b], true, said)):
            for tag, number in Counter(tags).items():
                if tag != UNSEEN:
                    counts[row, place, index[tag]] += number
    return counts


def _rates(hits: float, true: float, said: float) -> dict[str, float]:
    return {"precision": _ratio(hits, said), "recall": _ratio(hits, true), "f1": _ratio(2 * hits, true + said)}


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0


def _commonest(
    sentences: list[list[str]], tags: list[list[str]], test: list[list[str]], unknown: str
) -> list[list[str]]:
    """The commonest tag of each word in the training rows, of equals the first; ``unknown`` for a new word.

    The usual floor of part-of-speech tagging (Charniak et al. 1993, Equations for part-of-speech tagging).
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row, labels in zip(sentences, tags, strict=True):
        for word, tag in zip(row, labels, strict=True):
            seen[word][tag] += 1
    best = {word: min(counted, key=lambda tag: (-counted[tag], tag)) for word, counted in seen.items()}
    return [[best.get(word, unknown) for word in row] for row in test]


def _known_entities(sentences: list[list[str]], tags: list[list[str]], test: list[list[str]]) -> list[list[str]]:
    """Phrases that are entities of one type in the training rows, the longest first.

    The floor of the CoNLL shared task (Tjong Kim Sang and De Meulder 2003).
    """
    kinds: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row, labels in zip(sentences, tags, strict=True):
        for kind, begin, end in tagging.entities(labels):
            kinds[tuple(row[begin:end])].add(kind)
    known = {phrase: next(iter(found)) for phrase, found in kinds.items() if len(found) == 1}
    longest = max(map(len, known), default=0)
    made = []
    for row in test:
        labels, at = [tagging.OUTSIDE] * len(row), 0
        while at < len(row):
            sizes = range(min(longest, len(row) - at), 0, -1)
            size = next((size for size in sizes if tuple(row[at : at + size]) in known), 0)
            if size:
                kind = known[tuple(row[at : at + size])]
                labels[at : at + size] = [f"B-{kind}", *[f"I-{kind}"] * (size - 1)]
            at += max(size, 1)
        made.append(labels)
    return made
