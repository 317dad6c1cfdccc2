"""Hidden tokens of a text from those around them (Devlin et al. 2019), for example to adapt a model to a domain."""

from __future__ import annotations

from typing import Any

import numpy as np

from transfer.errors import Problem, UserError
from transfer.tasks import likelihood
from transfer.tasks.base import Batch
from transfer.tasks.likelihood import IGNORED, LanguageTask

# Of the predicted tokens, how many show the mask; half of the others show a random token, half themselves.
MASKED = 0.8


class Task(LanguageTask):
    """Of every row's tokens `mlm_probability`, rounded and at least one, are predicted.

    Which ones is drawn anew in every epoch of training, from the seed of the order. In evaluation it is drawn from the
    row's number alone: epochs, arms and ranks are asked the same. With `whole_word` all pieces of a word are predicted
    or none, save that a last word may be cut so that the number comes out.

    With `block_size` the training texts are put behind each other, special tokens included, and cut into blocks; with
    `separate` each is read as if it were alone, by models whose attention can be told so. In evaluation a text is a
    row, cut at `max_length`.
    """

    auto_class = "AutoModelForMaskedLM"
    pipeline = "fill-mask"
    one_way = False
    special_tokens = {"mask_token": "[MASK]"}  # noqa: RUF012
    default_options = {"mlm_probability": 0.15, "whole_word": False, "block_size": None, "separate": False}  # noqa: RUF012

    def problems(self, key: str) -> list[Problem]:
        found = super().problems(key) + likelihood.block_problems(self.options, self.task.max_length, key)
        share, whole = self.options["mlm_probability"], self.options["whole_word"]
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            found.append(Problem(f"{key}.options.mlm_probability", share, "a fraction between 0 and 1", ""))
        if not isinstance(whole, bool):
            found.append(Problem(f"{key}.options.whole_word", whole, "true or false", ""))
        return found

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        return self._encoded({**self._tokens(columns, tokenizer, max_length), "row": columns["row"]})

    def encode_training(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        size = self.options["block_size"]
        if size is None:
            return self.encode(columns, tokenizer, max_length)
        whole = {**self._tokens(columns, tokenizer, None), "row": columns["row"]}
        return self._encoded(likelihood.blocks(whole, min(size, max_length), separate=self.options["separate"]))

    def _tokens(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int | None) -> dict[str, list[Any]]:
        """Token ids, and the number of the word that each belongs to: -1 for special tokens."""
        tokenizer = likelihood.require_tokenizer(tokenizer)
        if tokenizer.mask_token_id is None:
            action = "train its vocabulary in a run of this task, or choose a model like BERT or RoBERTa"
            raise UserError(Problem("model.tokenizer", "no mask token", "a tokenizer with a mask token", action))
        made = tokenizer(
            likelihood.texts(columns),
            truncation=max_length is not None,
            max_length=max_length,
            return_special_tokens_mask=True,
            verbose=False,
        )
        numbers = range(len(made["input_ids"]))
        words = [
            list(made.word_ids(i)) if tokenizer.is_fast else list(range(len(made["input_ids"][i]))) for i in numbers
        ]
        special = made["special_tokens_mask"]
        marked = [
            [-1 if hidden or word is None else word for word, hidden in zip(*row, strict=True)]
            for row in zip(words, special, strict=True)
        ]
        return {"input_ids": made["input_ids"], "word": marked}

    def _encoded(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        maskable = [sum(word >= 0 for word in words) for words in columns["word"]]
        share = self.options["mlm_probability"]
        predicted = [min(number, max(1, round(share * number))) for number in maskable]
        return {**columns, "length": [len(ids) for ids in columns["input_ids"]], "num_predicted": predicted}

    def encoding_options(self) -> dict[str, Any]:
        return super().encoding_options() | {"mlm_probability": self.options["mlm_probability"]}

    def draws_inputs(self) -> bool:
        return True

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        shown, labels = zip(*(self._masked(row, tokenizer) for row in rows), strict=True)
        return {**likelihood.inputs(rows, shown, self, tokenizer), "labels": likelihood.pad(labels, IGNORED)}

    def _masked(self, row: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
        """What the model is shown of a row, and what it has to predict."""
        random = np.random.default_rng(row.get("draw", [row["index"]]))
        ids, words = np.asarray(row["input_ids"]), np.asarray(row["word"])
        draw = _whole_words if self.options["whole_word"] else _tokens
        chosen = draw(words, row["num_predicted"], random)
        labels = np.full(len(ids), IGNORED)
        labels[chosen] = ids[chosen]
        shown, dice = ids.copy(), random.random(len(chosen))
        shown[chosen[dice < MASKED]] = tokenizer.mask_token_id
        other = chosen[dice >= (1 + MASKED) / 2]
        shown[other] = random.integers(len(tokenizer), size=len(other))
        return shown.tolist(), labels.tolist()


def _tokens(words: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    return random.choice(np.flatnonzero(words >= 0), number, replace=False)


def _whole_words(words: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """Words in a random order, as long as they fit into the number; the first that did not fills what is left."""
    begins = np.flatnonzero((words >= 0) & (words != np.concatenate([[-1], words[:-1]])))
    ends = [next((i for i in range(begin, len(words)) if words[i] != words[begin]), len(words)) for begin in begins]
    chosen: list[int] = []
    left_out: list[int] = []
    for place in random.permutation(len(begins)):
        pieces = range(begins[place], ends[place])
        (chosen if len(chosen) + len(pieces) <= number else left_out).extend(pieces)
    return np.array([*chosen, *left_out[: number - len(chosen)]], dtype=np.int64)
