"""A response to a prompt: a left-to-right language model that learns the responses alone, and writes its own."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from transfer import config
from transfer.errors import Problem
from transfer.tasks import causal_lm, likelihood
from transfer.tasks.base import Batch, Predicted
from transfer.tasks.likelihood import IGNORED, LanguageTask

# A character of a script without spaces, or a run of letters and digits.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
# The metrics of what the model writes.
WRITTEN = ("exact_match", "token_f1")


class Task(LanguageTask):
    """The tokens of the label after those of the text; in between, and after both, stands the end token.

    Perplexity and accuracy are those of the response with its end token, given the true tokens before each. With
    `max_new_tokens` above 0 the model also answers in testing (in validation too, where that is monitored), taking the
    likeliest token each time; `exact_match` and `token_f1` compare its words with those of the label, case and
    punctuation aside, in the mean over the rows.

    Where prompt and response are longer than `max_length`, the prompt loses its beginning; a response longer than half
    of it is cut if need be.
    """

    auto_class = "AutoModelForCausalLM"
    problem_type = "text"
    default_options = {"max_new_tokens": 32}  # noqa: RUF012

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        self.writes = bool((self.default_options | dict(task.options))["max_new_tokens"])
        if self.writes:
            self.metric_names = (*LanguageTask.metric_names, *WRITTEN)
        super().__init__(task, labels, key=key)

    def problems(self, key: str) -> list[Problem]:
        number = self.options["max_new_tokens"]
        found = super().problems(key)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self.task.max_length:
            allowed = f"0 (nothing is written), or a number of tokens below {key}.max_length={self.task.max_length}"
            found.append(Problem(f"{key}.options.max_new_tokens", number, allowed, ""))
        return found

    def model_settings(self) -> dict[str, Any]:
        return {"is_decoder": True}

    def encoding_options(self) -> dict[str, Any]:
        return {}

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        begin, end = causal_lm.delimiters(likelihood.require_tokenizer(tokenizer))
        prompts, responses = (
            tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for texts in (likelihood.texts(columns), columns["label"])
        )
        made: dict[str, list[Any]] = {name: [] for name in ("input_ids", "length", "num_predicted")}
        for prompt, response in zip(prompts, responses, strict=True):
            answer = [*response, end]
            room = max_length - 2  # the tokens before the prompt and after it
            answer = answer[: max(room - len(prompt), room // 2)]
            asked = [begin, *prompt[max(0, len(prompt) - (room - len(answer))) :], end]
            made["input_ids"].append(asked + answer)
            made["length"].append(len(asked) + len(answer))
            made["num_predicted"].append(len(answer))
        return {**made, "row": columns["row"]}

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        asked = [row["input_ids"][: row["length"] - row["num_predicted"]] for row in rows]
        labels = [
            [IGNORED] * len(prompt) + row["input_ids"][len(prompt) :] for prompt, row in zip(asked, rows, strict=True)
        ]
        batch = causal_lm.collate(self, rows, labels, tokenizer)
        if self.writes:
            batch["prompts"] = {
                "input_ids": likelihood.pad(asked, likelihood.pad_id(tokenizer), left=True),
                "attention_mask": likelihood.pad([[1] * len(ids) for ids in asked], 0, left=True),
            }
        return batch

    def predictions(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of each position predict the token after it."""
        return outputs.logits[:, :-1], batch["labels"][:, 1:]

    def answers(self, model: Any, outputs: Any, batch: Batch) -> Any:
        """The sums of the likelihood and, where the model writes, the tokens of its response."""
        sums = super().answers(model, outputs, batch)
        if not self.writes or not (self.testing or self.task.monitor in WRITTEN):
            return sums
        _, end = causal_lm.delimiters(self.tokenizer)
        prompts = batch["prompts"]
        written = model.generate(
            **prompts,
            max_new_tokens=self.options["max_new_tokens"],
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            pad_token_id=likelihood.pad_id(self.tokenizer),
        )[:, prompts["input_ids"].shape[1] :].tolist()
        ends = [ids.index(end) if end in ids else len(ids) for ids in written]
        return [(*row, ids[:stop]) for row, ids, stop in zip(sums.tolist(), written, ends, strict=True)]

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        """The responses that were written, each with its own words' score; without, the perplexity of the true one."""
        if isinstance(answers, Tensor):
            return super().predict(answers, encoded, rows)
        sums = torch.tensor([row[:3] for row in answers], dtype=torch.float64)
        responses = self.tokenizer.batch_decode([row[3] for row in answers], skip_special_tokens=True)
        made = self.predicted([text.strip() for text in responses], rows)
        return Predicted(made.values, terms=likelihood.terms(sums) | made.terms)

    def predicted(self, values: list[Any], rows: Dataset) -> Predicted:
        pairs = [(words(said), words(true)) for said, true in zip(values, rows["label"][:], strict=True)]
        ones = [1.0] * len(pairs)
        scores = {
            "exact_match": [float("".join(said) == "".join(true)) for said, true in pairs],
            "token_f1": [overlap(said, true) for said, true in pairs],
        }
        terms = {f"{name}:num": numbers for name, numbers in scores.items()}
        return Predicted(values, terms=terms | {f"{name}:den": ones for name in scores})

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        found = super().score(predicted, rows, per_class=per_class) if "perplexity:num" in predicted.terms else {}
        written = [name for name in WRITTEN if f"{name}:num" in predicted.terms]
        return found | {name: float(np.mean(predicted.terms[f"{name}:num"])) for name in written}

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """`majority`: the commonest response of the training rows."""
        if not self.writes:
            return {}
        common = Counter(train["label"][:])
        return {"majority": [min(common, key=lambda text: (-common[text], text))] * len(test)}


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def overlap(said: list[str], true: list[str]) -> float:
    """F1 over the words that both have, each as often as the rarer of the two has it (Rajpurkar et al. 2016)."""
    if not said or not true:
        return float(said == true)
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true))
