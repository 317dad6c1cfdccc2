"""What translation and summarization share: a text is read, another is written."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from transfer.errors import Problem
from transfer.tasks import text
from transfer.tasks.base import BaseTask, Batch, Predicted
from transfer.tasks.causal_lm import delimiters
from transfer.tasks.likelihood import IGNORED, require_tokenizer, texts

# What a model's own way of generating says of its tokens; how it searches is said by the task.
OF_THE_MODEL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
)


class SequenceToSequence(BaseTask):
    """Cross-entropy over the tokens of the target with its end token, given the true tokens before each.

    In evaluation the model writes on its own, by beam search: `num_beams` in testing, `validation_beams` while the
    weights are chosen. It stops at its end token, at `max_target_length` or at what its decoder can hold. Targets are
    cut there too. `length_penalty` and `no_repeat_ngram_size` are those of transformers; `source_prefix` stands before
    every source text (T5: "translate English to German: ").
    """

    auto_class = "AutoModelForSeq2SeqLM"
    problem_type = "text"
    default_options: ClassVar[dict[str, Any]] = {
        "max_target_length": 128,
        "num_beams": 4,
        "validation_beams": 1,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "source_prefix": "",
    }

    def problems(self, key: str) -> list[Problem]:
        found = super().problems(key)
        least = {"max_target_length": 2, "num_beams": 1, "validation_beams": 1, "no_repeat_ngram_size": 0}
        for name, smallest in least.items():
            value = self.options[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                found.append(Problem(f"{key}.options.{name}", value, f"a whole number of at least {smallest}", ""))
        penalty, prefix = self.options["length_penalty"], self.options["source_prefix"]
        if not isinstance(penalty, int | float) or isinstance(penalty, bool) or not math.isfinite(penalty):
            found.append(
                Problem(f"{key}.options.length_penalty", penalty, "a number; above 1 asks for longer texts", "")
            )
        if not isinstance(prefix, str):
            found.append(Problem(f"{key}.options.source_prefix", prefix, "a text", "put it in quotes"))
        return found

    def model_settings(self) -> dict[str, Any]:
        return {"is_encoder_decoder": True}

    def same_head(self, config: Any) -> bool:
        """A decoder goes on writing as it has learned to, whatever it is asked for."""
        models = getattr(transformers, self.auto_class)._model_mapping
        return type(config) in models and models[type(config)].__name__ in (config.architectures or [])

    def encoding_options(self) -> dict[str, Any]:
        options = {name: self.options[name] for name in ("source_prefix", "max_target_length")}
        return options | {"limit": None if self.tokenizer is None else self.target_limit(self.tokenizer)}

    def target_limit(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The most tokens of a target, its end token included."""
        return int(min(self.options["max_target_length"], tokenizer.model_max_length))

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        self.tokenizer = require_tokenizer(tokenizer)
        sources = [self.options["source_prefix"] + source for source in texts(columns)]
        encoded = text.encode({"text": sources, "row": columns["row"]}, tokenizer, max_length)
        return {**encoded, "label": self.targets(columns["label"], tokenizer)}

    def targets(self, labels: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """The ids that are to be written, up to the end token."""
        limit, (_, end) = self.target_limit(tokenizer), delimiters(tokenizer)
        encoded = tokenizer(text_target=labels, truncation=True, max_length=limit + 1)["input_ids"]
        finished = []
        for ids in encoded:
            if tokenizer.bos_token_id is None and ids[:1] == [tokenizer.cls_token_id]:
                ids = ids[1:]  # BERT's first token is what its decoder starts from
            if len(ids) > limit or end not in ids:
                ids = [*ids[: limit - 1], end]
            finished.append(ids)
        return finished

    def notes(self, encoded: Dataset) -> list[str]:
        if self.tokenizer is None:
            return []
        limit = self.target_limit(self.tokenizer)
        full = sum(len(ids) >= limit for ids in encoded["label"][:])
        share = full > 0.05 * len(encoded)
        return [f"{full} of {len(encoded)} targets have {limit} tokens or more and were cut there"] if share else []

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """Among the inputs are the labels [rows, target]: each model makes the input of its decoder of them."""
        self.tokenizer = tokenizer
        batch = text.collate(rows, tokenizer)
        labels = [torch.tensor(row["label"], dtype=torch.long) for row in rows]
        padded = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return {"inputs": {**batch["inputs"], "labels": padded}, "labels": padded, "index": batch["index"]}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Mean over the tokens, as the model has computed it from the labels among its inputs."""
        loss: Tensor = outputs.loss
        return loss

    def example_weights(self, encoded: Dataset) -> np.ndarray:
        """How many tokens are written for each row."""
        return np.array([len(ids) for ids in encoded["label"][:]], dtype=np.float64)

    def answers(self, model: Any, outputs: Any, batch: Batch) -> list[list[int]]:
        """The ids that the model writes, without padding."""
        model.generation_config = self.generation(model)
        written = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=outputs.encoder_last_hidden_state),
            attention_mask=batch["inputs"]["attention_mask"],
            use_cache=True,
        ).tolist()
        padding = model.generation_config.pad_token_id
        return [[token for token in ids if token != padding] for ids in written]

    def generation(self, model: Any) -> GenerationConfig:
        """How the model writes; saved with its weights, so that it writes the same elsewhere."""
        beams = self.options["num_beams" if self.testing else "validation_beams"]
        own = {name: getattr(model.generation_config, name, None) for name in OF_THE_MODEL}
        positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or math.inf
        search = {"early_stopping": True, "length_penalty": float(self.options["length_penalty"])} if beams > 1 else {}
        return GenerationConfig(
            **own,
            **search,
            do_sample=False,
            num_beams=beams,
            max_new_tokens=int(min(self.target_limit(self.tokenizer), positions)),
            no_repeat_ngram_size=self.options["no_repeat_ngram_size"],
        )

    def predict(self, answers: Any, encoded: Dataset, rows: Dataset) -> Predicted:
        decoded = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return self.predicted([written.strip() for written in decoded], rows)


def sums(predicted: Predicted, metric: str) -> list[float]:
    """What the terms METRIC:... of all rows come to, in their order."""
    return [float(np.sum(values)) for name, values in predicted.terms.items() if name.split(":")[0] == metric]
