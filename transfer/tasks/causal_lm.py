"""The next token of a text: a language model that reads from left to right."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from transfer.errors import Problem
from transfer.tasks import likelihood
from transfer.tasks.base import Batch
from transfer.tasks.likelihood import IGNORED, LanguageTask


class Task(LanguageTask):
    """Every token from those before it; a text begins with a beginning and ends with an end token.

    With `block_size` the training texts are put behind each other and cut into blocks of so many tokens, and nothing of
    them is lost; with `separate` each is read as if it were alone, by models whose attention can be told so. In
    evaluation a text is a row, cut at `max_length`, so that each has its own perplexity.
    """

    auto_class = "AutoModelForCausalLM"
    pipeline = "text-generation"
    default_options = {"block_size": None, "separate": False}  # noqa: RUF012

    def problems(self, key: str) -> list[Problem]:
        return super().problems(key) + likelihood.block_problems(self.options, self.task.max_length, key)

    def model_settings(self) -> dict[str, Any]:
        # Models that can read in both directions (BERT) look ahead unless they are told.
        return {"is_decoder": True}

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        ids = [whole[:max_length] for whole in self._ids(columns, tokenizer)]
        return _encoded(ids, columns["row"])

    def encode_training(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        size = self.options["block_size"]
        if size is None:
            return self.encode(columns, tokenizer, max_length)
        whole = {"input_ids": self._ids(columns, tokenizer), "row": columns["row"]}
        cut = likelihood.blocks(whole, min(size, max_length), separate=self.options["separate"])
        made = _encoded(cut["input_ids"], cut["row"])
        if "position" in cut:
            made["position"] = cut["position"]
            made["num_predicted"] = [sum(place > 0 for place in places) for places in cut["position"]]
        # The last block may be a single token, which predicts nothing.
        kept = [place for place, number in enumerate(made["num_predicted"]) if number]
        return {name: [values[place] for place in kept] for name, values in made.items()}

    def _ids(self, columns: dict[str, list[Any]], tokenizer: Any) -> list[list[int]]:
        begin, end = delimiters(likelihood.require_tokenizer(tokenizer))
        texts = tokenizer(likelihood.texts(columns), add_special_tokens=False, verbose=False)["input_ids"]
        return [[begin, *ids, end] for ids in texts]

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        labels = [row["input_ids"] for row in rows]
        if rows and "position" in rows[0]:
            labels = [
                [token if place else IGNORED for token, place in zip(row["input_ids"], row["position"], strict=True)]
                for row in rows
            ]
        return collate(self, rows, labels, tokenizer)

    def predictions(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of each position predict the token after it."""
        return outputs.logits[:, :-1], batch["labels"][:, 1:]


def _encoded(ids: list[list[int]], row: list[int]) -> dict[str, list[Any]]:
    lengths = [len(one) for one in ids]
    return {"input_ids": ids, "row": row, "length": lengths, "num_predicted": [length - 1 for length in lengths]}


def delimiters(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The tokens before and after a text. Where there is no end token (BERT) it is that between texts; where there is
    no beginning token (GPT-2 has one for both) it is the end token."""
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    assert end is not None, "a tokenizer has an end or a separator token"
    return int(end if begin is None else begin), int(end)


def collate(
    task: LanguageTask, rows: list[dict[str, Any]], labels: list[list[int]], tokenizer: PreTrainedTokenizerBase
) -> Batch:
    """Padded on the right; `labels` a token each, `IGNORED` where it is not predicted."""
    shown = [row["input_ids"] for row in rows]
    return {**likelihood.inputs(rows, shown, task, tokenizer), "labels": likelihood.pad(labels, IGNORED)}
