"""The answer to a question as a part of its context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from torch import Tensor

from transfer.errors import Problem, UserError
from transfer.tasks import answer_floors, answer_scores, text
from transfer.tasks.answer_floors import Span
from transfer.tasks.base import BaseTask, Batch, Predicted

# Answers of a window that are kept, the best ones, to be compared with those of the other windows of its row.
N_BEST = 20
# More than any tokenizer adds to a pair of texts.
SPECIAL = 4
METRICS = ("exact_match", "f1")


@dataclass
class Window:
    """What the model says of one encoded row: the best answers, and no answer.

    Attributes:
        scores: logit of the begin plus logit of the end of each answer, the best first.
        begins, ends: their first and last tokens, counted from the first token of the context in this window.
        null: the score of no answer.
    """

    scores: list[float]
    begins: list[int]
    ends: list[int]
    null: float


class Task(BaseTask):
    """Where in its context the answer begins and ends (Devlin et al. 2019, section 4.2 and 4.3).

    A context that does not fit into `max_length` with its question is read in windows that share `stride` tokens (null:
    a third of max_length); a question is cut to `max_query_length` tokens, or a third of max_length if that is less.
    A window without the answer points to the first token of the input, the place of "no answer". The answer to a row is
    that with the largest sum of logits in any window, at most `max_answer_length` tokens long. With `null_threshold` a
    question has no answer where the score of none is above that of the best by more than this.

    Metrics from 0 to 1: exact match and F1 of words (`transfer.tasks.answer_scores`), the best over the right answers.
    """

    auto_class = "AutoModelForQuestionAnswering"
    problem_type = "spans"
    metric_names = METRICS
    default_options: ClassVar[dict[str, Any]] = {
        "stride": None,
        "max_query_length": 64,
        "max_answer_length": 30,
        "null_threshold": None,
    }

    def problems(self, key: str) -> list[Problem]:
        found = super().problems(key)
        for name in ("max_query_length", "max_answer_length"):
            if not _is_whole(self.options[name], 1):
                found.append(Problem(f"{key}.options.{name}", self.options[name], "a whole number of at least 1", ""))
        stride, threshold = self.options["stride"], self.options["null_threshold"]
        if stride is not None and not _is_whole(stride, 0):
            allowed = "a whole number of tokens of at least 0, or null for a third of max_length"
            found.append(Problem(f"{key}.options.stride", stride, allowed, ""))
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool) and math.isfinite(threshold)
        if threshold is not None and not number:
            allowed = "a number, or null where every question has an answer"
            found.append(Problem(f"{key}.options.null_threshold", threshold, allowed, "0 to begin with"))
        return found or self._room_problems(self.task.max_length, f"{key}.options.stride")

    def _room_problems(self, max_length: int, key: str) -> list[Problem]:
        """Whether windows get on, whatever the question is."""
        query, stride = self._query_limit(max_length), self._stride(max_length)
        room = max_length - query - SPECIAL
        if stride < room:
            return []
        allowed = f"less than {room}: of max_length={max_length} tokens the question may take {query}"
        return [Problem(key, stride, allowed, "a larger max_length, or a smaller stride or max_query_length")]

    def _query_limit(self, max_length: int) -> int:
        return max(1, min(self.options["max_query_length"], max_length // 3))

    def _stride(self, max_length: int) -> int:
        stride = self.options["stride"]
        return max_length // 3 if stride is None else stride

    def model_settings(self) -> dict[str, Any]:
        names = {0: "LABEL_0", 1: "LABEL_1"}  # as the published ones have it: begin and end
        labels = {name: number for number, name in names.items()}
        return {"num_labels": 2, "id2label": names, "label2id": labels, "problem_type": None}

    def same_head(self, config: Any) -> bool:
        models = getattr(transformers, self.auto_class)._model_mapping
        return type(config) in models and models[type(config)].__name__ in (config.architectures or [])

    def encoding_options(self) -> dict[str, Any]:
        return {name: self.options[name] for name in ("stride", "max_query_length")}

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """Windows. `context`: its first token and their number, and the place of no answer; `offsets`: the characters
        of each of its tokens; `label`: the first and last token of the answer.

        Raises:
            UserError: the tokenizer does not say which characters a token stands for, or windows have no room.
        """
        if not getattr(tokenizer, "is_fast", False):
            allowed = "a tokenizer that says which characters each token stands for (a fast one)"
            raise UserError(Problem("model.tokenizer", type(tokenizer).__name__, allowed, "choose another model"))
        if problems := self._room_problems(max_length, "task.options.stride"):
            raise UserError(problems)
        encoded = tokenizer(
            _cut(columns["text"], tokenizer, self._query_limit(max_length)),
            columns["text_pair"],
            truncation="only_second",
            max_length=max_length,
            stride=self._stride(max_length),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owner = encoded.pop("overflow_to_sample_mapping")
        offsets = encoded.pop("offset_mapping")
        made: dict[str, list[Any]] = dict(encoded)
        made |= {"context": [], "offsets": [], "label": []}
        for window, place in enumerate(owner):
            parts = encoded.sequence_ids(window)
            begin, size = (parts.index(1) if 1 in parts else 0), parts.count(1)
            null = _null_place(made["input_ids"][window], tokenizer)
            characters = [tuple(ends) for ends in offsets[window][begin : begin + size]]
            ends = _tokens_of(columns["label"][place], characters)
            made["context"].append([begin, size, null])
            made["offsets"].append(characters)
            made["label"].append([null, null] if ends is None else [begin + ends[0], begin + ends[1]])
        made["row"] = [columns["row"][place] for place in owner]
        made["length"] = [len(ids) for ids in made["input_ids"]]
        made["answered"] = [bool(columns["label"][place]) for place in owner]
        return made

    def notes(self, encoded: Dataset) -> list[str]:
        rows = dict(zip(encoded["row"][:], encoded["answered"][:], strict=True))
        found = []
        if len(encoded) > len(rows):
            found.append(f"{len(rows):,} contexts are read in {len(encoded):,} windows")
        without = sum(not answered for answered in rows.values())
        if 0 < without < len(rows) and self.options["null_threshold"] is None:
            found.append(
                f"{without:,} of {len(rows):,} questions have no answer in their context, and all will be given one: "
                "set task.options.null_threshold (0 to begin with)"
            )
        return found

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """`labels` [rows, 2] and `context` [rows, 3] as `encode` has them, but counted after padding."""
        batch = text.collate(rows, tokenizer)
        width = batch["inputs"]["input_ids"].shape[1]
        left = torch.tensor([[width - row["length"] if tokenizer.padding_side == "left" else 0] for row in rows])
        labels = torch.tensor([row["label"] for row in rows]) + left
        context = torch.tensor([row["context"] for row in rows]) + left * torch.tensor([1, 0, 1])
        return {**batch, "labels": labels, "context": context}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean cross-entropy of both ends over the tokens of the context and that of no answer.

        A model's own loss has question and padding among them, and so depends on what else is in the batch.
        """
        begin, size, null = batch["context"].T[..., None]
        place = torch.arange(outputs.start_logits.shape[1], device=begin.device)[None]
        outside = ((place < begin) | (place >= begin + size)) & (place != null)
        losses = [
            F.cross_entropy(logits.float().masked_fill(outside, -math.inf), labels)
            for logits, labels in zip((outputs.start_logits, outputs.end_logits), batch["labels"].T, strict=True)
        ]
        return torch.stack(losses).mean()

    def answers(self, model: Any, outputs: Any, batch: Batch) -> list[Window]:
        starts, ends = outputs.start_logits.float().cpu(), outputs.end_logits.float().cpu()
        found = []
        for start, end, (begin, size, null) in zip(starts, ends, batch["context"].tolist(), strict=True):
            part = slice(begin, begin + size)
            best = _best(start[part], end[part], self.options["max_answer_length"])
            found.append(Window(*best, null=float(start[null] + end[null])))
        return found

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        by_row: dict[int, list[tuple[Window, list[list[int]]]]] = {}
        for number, offsets, window in zip(encoded["row"][:], encoded["offsets"][:], answers, strict=True):
            by_row.setdefault(number, []).append((window, offsets))
        chosen = [
            self._answer(windows, context)
            for (_, windows), context in zip(sorted(by_row.items()), rows["text_pair"][:], strict=True)
        ]
        made = self.predicted([spans for spans, _ in chosen], rows)
        made.scores = [sure for _, sure in chosen]
        return made

    def _answer(self, windows: list[tuple[Window, list[list[int]]]], context: str) -> tuple[list[Span], float | None]:
        """The best answer of all windows, none where that is better; and its probability among the best ones."""
        scores: dict[tuple[int, int], float] = {}
        for window, offsets in windows:
            for score, begin, end in zip(window.scores, window.begins, window.ends, strict=True):
                part = (offsets[begin][0], offsets[end][1])
                if context[slice(*part)].strip():
                    scores[part] = max(score, scores.get(part, -math.inf))
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:N_BEST]
        if not ranked:
            return [], None
        # Where one window has the answer, another has good reason to find none.
        null, threshold = min(window.null for window, _ in windows), self.options["null_threshold"]
        considered = [score for _, score in ranked] + ([] if threshold is None else [null])
        probabilities = torch.tensor(considered, dtype=torch.float64).softmax(dim=0).tolist()
        if threshold is not None and null - ranked[0][1] > threshold:
            return [], probabilities[-1]
        (begin, end), _ = ranked[0]
        piece = context[begin:end]
        return [{"text": piece.strip(), "start": begin + len(piece) - len(piece.lstrip())}], probabilities[0]

    def predicted(self, values: list[Any], rows: Dataset) -> Predicted:
        terms: dict[str, list[float]] = {}
        pairs = list(zip(self.shown(values), self.shown(rows["label"][:]), strict=True))
        for name, metric in zip(METRICS, (answer_scores.exact_match, answer_scores.f1), strict=True):
            terms[f"{name}:num"] = [metric(said[0] if said else "", right) for said, right in pairs]
            terms[f"{name}:den"] = [1.0] * len(pairs)
        return Predicted(values, terms=terms)

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        """`per_class`: also over the questions with and without an answer, where there are both."""
        answered = np.array([bool(spans) for spans in rows["label"][:]])
        parts = {"": np.ones(len(answered), dtype=bool)}
        if per_class and 0 < answered.sum() < len(answered):
            parts |= {"/answered": answered, "/unanswerable": ~answered}
        columns = {name: np.asarray(predicted.terms[f"{name}:num"]) for name in METRICS}
        return {
            f"{name}{part}": float(column[chosen].mean())
            for part, chosen in parts.items()
            for name, column in columns.items()
        }

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        return answer_floors.floors(train["label"][:], test["text"][:], test["text_pair"][:])

    def shown(self, values: Sequence[Any]) -> Sequence[Any]:
        """The texts of the answers, each once."""
        return [list(dict.fromkeys(span["text"] for span in spans)) for spans in values]


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _cut(questions: list[str], tokenizer: Any, limit: int) -> list[str]:
    """The questions without what comes after their first `limit` tokens."""
    offsets = tokenizer(
        questions, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True
    )["offset_mapping"]
    return [
        question[: ends[-1][1]] if len(ends) == limit else question
        for question, ends in zip(questions, offsets, strict=True)
    ]


def _null_place(ids: list[int], tokenizer: Any) -> int:
    """The place of the token that stands for the whole input; the first one where there is none."""
    return ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0


def _tokens_of(spans: list[Span], offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and last token of the first answer, None where it is not all in this window."""
    if not spans or not offsets:
        return None
    answer, begin = spans[0]["text"], spans[0]["start"]
    begin, end = begin + len(answer) - len(answer.lstrip()), begin + len(answer.rstrip())
    if offsets[0][0] > begin or offsets[-1][1] < end:
        return None
    first = next(place for place, (_, after) in enumerate(offsets) if after > begin)
    last = max(place for place, (before, _) in enumerate(offsets) if before < end)
    return (first, last) if first <= last else None


def _best(start: Tensor, end: Tensor, longest: int) -> tuple[list[float], list[int], list[int]]:
    """The best pairs of a first and a last token, from logits [tokens]: scores, first and last tokens."""
    if not len(start):
        return [], [], []
    width = min(longest, len(start))
    later = F.pad(end, (0, width - 1), value=-math.inf).unfold(0, width, 1)  # [tokens, number of tokens - 1]
    best = (start[:, None] + later).flatten().topk(min(N_BEST, len(start)))
    first = best.indices // width
    return best.values.tolist(), first.tolist(), (first + best.indices % width).tolist()
