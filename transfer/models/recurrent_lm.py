"""A recurrent language model whose backbone is that of the classifiers in `transfer.models.recurrent`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import can_return_tuple

from transfer.errors import Problem, UserError
from transfer.models.recurrent import RecurrentConfig, RecurrentModel, RecurrentPreTrainedModel


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """State at each token -> dropout -> linear to the size of an embedding -> the embeddings themselves.

    The output weights are the input embeddings (Press and Wolf 2017, "Using the output embedding to improve language
    models"), plus a bias a word. What is learned of a language goes to a classifier with the backbone, as in Howard and
    Ruder 2018 (ULMFiT).

    Raises:
        UserError: the config reads in both directions, or averages words: the next word would be known, or their order
            not.
    """

    _tied_weights_keys = {"decoder.weight": "backbone.embeddings.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_missing = ["decoder.weight"]  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        problems = []
        if config.cell == "mean":
            allowed = "lstm or gru: a language model reads words in their order"
            action = "model=lstm model.config.bidirectional=false"
            problems.append(Problem("model.config.cell", "mean", allowed, action))
        elif config.bidirectional:
            allowed = "false: a language model reads from left to right"
            action = "model.config.bidirectional=false, for source and target alike"
            problems.append(Problem("model.config.bidirectional", True, allowed, action))
        if problems:
            raise UserError(problems)
        assert config.hidden_size is not None
        self.backbone = RecurrentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(config.hidden_size, config.embedding_size)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        assert isinstance(new_embeddings, nn.Linear)
        self.decoder = new_embeddings

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole text at every step: nothing of the steps before is kept."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits are [batch, length, vocab_size]; `labels` are the ids themselves, which the loss shifts by one."""
        outputs = self.backbone(input_ids, attention_mask, **kwargs)
        logits = self.decoder(self.projection(self.dropout(outputs.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
