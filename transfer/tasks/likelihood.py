"""What all language models share: how likely they find the tokens of a text, and texts cut into blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from transfer.errors import Problem, UserError
from transfer.tasks import packing
from transfer.tasks.base import BaseTask, Batch, Predicted

# The label of a token that is not predicted, as in torch and transformers.
IGNORED = -100


class LanguageTask(BaseTask):
    """Cross-entropy over the predicted tokens of a row, each token of a batch counting the same.

    Metrics: perplexity, exp of the mean over all predicted tokens of a split, and the accuracy of the likeliest token.
    Both depend on the vocabulary, so that only models with the same one can be compared by them.
    """

    problem_type = "none"
    metric_names: tuple[str, ...] = ("perplexity", "accuracy")
    # Whether a token reads only those before it.
    one_way: ClassVar[bool] = True
    first_position = 0

    def model_settings(self) -> dict[str, Any]:
        return {}

    def meet(self, model: PreTrainedModel, tokenizer: Any, key: str) -> None:
        """Find out how this model is told where each text of a block begins."""
        if self.options.get("separate"):
            size = min(self.options["block_size"], self.task.max_length)
            self.first_position = packing.first_position(
                model, pad_id(tokenizer), size, one_way=self.one_way, key=f"{key}.options.separate"
            )

    def same_head(self, config: Any) -> bool:
        models = getattr(transformers, self.auto_class)._model_mapping
        head = models[type(config)].__name__ if type(config) in models else None
        return head is not None and head in (config.architectures or [])

    def encoding_options(self) -> dict[str, Any]:
        chosen = {name: self.options[name] for name in ("block_size",) if name in self.options}
        return chosen | ({"separate": True} if self.options.get("separate") else {})

    def example_weights(self, encoded: Dataset) -> np.ndarray:
        """How many tokens are predicted of each row."""
        return np.asarray(encoded["num_predicted"][:], dtype=np.float64)

    def predictions(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [rows, positions, vocabulary] and what they predict [rows, positions], `IGNORED` where nothing."""
        return outputs.logits, batch["labels"]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits, labels = self.predictions(outputs, batch)
        chosen = labels != IGNORED
        return F.cross_entropy(logits[chosen].float(), labels[chosen])

    def answers(self, model: Any, outputs: Any, batch: Batch) -> Tensor:
        """Summed negative log-likelihood, number of predicted tokens, number of right ones [rows, 3]."""
        logits, labels = self.predictions(outputs, batch)
        chosen = labels != IGNORED
        picked, wanted = logits[chosen].float(), labels[chosen]
        sums = torch.zeros(len(labels), 3, dtype=torch.float64)
        row = chosen.nonzero()[:, 0].cpu()
        losses = F.cross_entropy(picked, wanted, reduction="none")
        right = picked.argmax(dim=-1) == wanted
        for column, values in enumerate((losses, torch.ones_like(losses), right)):
            sums[:, column].index_add_(0, row, values.cpu().double())
        return sums

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        """The perplexity of each text."""
        sums = per_row(answers, encoded)
        return Predicted([perplexity(nll, tokens) for nll, tokens, _ in sums.tolist()], terms=terms(sums))

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        total = {name: math.fsum(values) for name, values in predicted.terms.items()}
        return {
            "perplexity": perplexity(total["perplexity:num"], total["perplexity:den"]),
            "accuracy": total["accuracy:num"] / total["accuracy:den"] if total["accuracy:den"] else math.nan,
        }


def per_row(sums: Tensor, encoded: Dataset) -> Tensor:
    """The sums over the encoded rows that a row of the split became [rows, 3]."""
    numbers, place = np.unique(np.asarray(encoded["row"][:]), return_inverse=True)
    return torch.zeros(len(numbers), sums.shape[1], dtype=sums.dtype).index_add_(0, torch.from_numpy(place), sums)


def terms(sums: Tensor) -> dict[str, list[float]]:
    """What perplexity and accuracy are made of, a row each."""
    nll, tokens, right = sums.T.tolist()
    return {"perplexity:num": nll, "perplexity:den": tokens, "accuracy:num": right, "accuracy:den": tokens}


def perplexity(nll: float, tokens: float) -> float:
    """exp(nll / tokens); the largest number that fits where a model has diverged, nan where nothing is predicted."""
    return math.exp(min(nll / tokens, 700.0)) if tokens else math.nan


def texts(columns: dict[str, list[Any]]) -> list[str]:
    """All that is written in each row, its label aside: words joined by spaces, several texts by a line break."""
    if "tokens" in columns:
        return [" ".join(words) for words in columns["tokens"]]
    parts: list[Any] = [columns[name] for name in ("text", "text_pair") if name in columns]
    parts += list(zip(*columns["choices"], strict=True)) if "choices" in columns else []
    return ["\n".join(row) for row in zip(*parts, strict=True)]


def require_tokenizer(tokenizer: Any) -> PreTrainedTokenizerBase:
    """The tokenizer.

    Raises:
        UserError: there is none, since the data are no texts.
    """
    if tokenizer is None:
        action = "choose a column of texts, or another task"
        raise UserError(Problem("data.columns", "numbers or images", "texts: a language model is asked for", action))
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def block_problems(options: dict[str, Any], max_length: int, key: str) -> list[Problem]:
    """What is wrong with `block_size` and `separate`."""
    size, separate = options["block_size"], options["separate"]
    found = []
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= max_length):
        allowed = f"null (a row for each text), or 2 to {max_length} tokens ({key}.max_length)"
        found.append(Problem(f"{key}.options.block_size", size, allowed, ""))
    if not isinstance(separate, bool) or (separate and size is None):
        allowed = "true with a block_size, or false" if isinstance(separate, bool) else "true or false"
        found.append(Problem(f"{key}.options.separate", separate, allowed, ""))
    return found


def blocks(columns: dict[str, list[Any]], size: int, *, separate: bool = False) -> dict[str, list[Any]]:
    """All rows behind each other and cut into blocks of `size` tokens; the rest is a shorter block.

    Args:
        columns: `row`, and lists of the same length a row. A block has the number of the row in which it begins.
        separate: with `position`, the place of each token in its text, as far as that is in the block.
    """
    lists = {name: values for name, values in columns.items() if name != "row"}
    lengths = [len(ids) for ids in next(iter(lists.values()))]
    owner = np.repeat(columns["row"], lengths)
    starts = range(0, len(owner), size)
    joined = {name: [value for ids in values for value in ids] for name, values in lists.items()}
    cut = {name: [values[start : start + size] for start in starts] for name, values in joined.items()}
    if separate:
        texts = np.repeat(np.arange(len(lengths)), lengths)
        cut["position"] = [packing.positions(texts[start : start + size].tolist()) for start in starts]
    return {**cut, "row": [int(owner[start]) for start in starts]}


def inputs(rows: list[dict[str, Any]], shown: Sequence[Sequence[int]], task: LanguageTask, tokenizer: Any) -> Batch:
    """The tokens that are shown of each row, padded on the right, as `inputs` of a batch, with its `index`."""
    made = {"input_ids": pad(shown, pad_id(tokenizer))}
    batch: Batch = {"inputs": made, "index": torch.tensor([row["index"] for row in rows])}
    if "position" in rows[0]:
        places = pad([row["position"] for row in rows], 0)
        made |= packing.inputs(places, one_way=task.one_way, first=task.first_position)
        batch["num_padding"] = torch.tensor([made["input_ids"].shape[1] - len(ids) for ids in shown])
    else:
        made["attention_mask"] = pad([[1] * len(ids) for ids in shown], 0)
    return batch


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """[rows, longest] of whole numbers."""
    longest = max(len(row) for row in rows)
    padded = [[*row, *[value] * (longest - len(row))] for row in rows]
    if left:
        padded = [[*[value] * (longest - len(row)), *row] for row in rows]
    return torch.tensor(padded)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills the positions that the attention mask hides."""
    found = tokenizer.pad_token_id
    assert found is not None, "transfer.initial gives every tokenizer a padding token"
    return int(found)
