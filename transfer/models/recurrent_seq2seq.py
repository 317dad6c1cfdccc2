"""A recurrent encoder, read by a recurrent decoder with attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from transfer.errors import Problem, UserError
from transfer.models.recurrent import RecurrentConfig, RecurrentModel, RecurrentPreTrainedModel

States = tuple[torch.Tensor, ...]


class RecurrentForSeq2SeqLM(RecurrentPreTrainedModel, GenerationMixin):
    """The encoder is the `backbone` of the classifiers, so that weights go from one to the other; the rest is the head.

    Global attention of Luong et al. 2015: with decoder state h and encoder states s, weights softmax(h' W s) (eq. 8,
    general), context c, and h~ = tanh(W_c [c; h]) (eq. 5), from which the vocabulary is predicted (eq. 6). There is no
    input feeding, so that all steps of a known target are one call. One embedding serves both languages and the output
    (Press & Wolf 2017). The decoder starts from the mean encoder state, through a layer of its own.

    Raises:
        UserError: the cell averages words: it cannot write.
    """

    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}  # noqa: RUF012 (transformers reads it so)

    def __init__(self, config: RecurrentConfig) -> None:
        if config.cell == "mean":
            action = "model.config.cell=lstm, or another task"
            raise UserError(Problem("model.config.cell", "mean", "lstm or gru: a decoder writes in order", action))
        assert config.hidden_size is not None
        assert config.num_hidden_layers is not None
        config.is_encoder_decoder = True
        config.tie_word_embeddings = True
        super().__init__(config)
        size, layers = config.hidden_size, config.num_hidden_layers
        self.num_states = 2 if config.cell == "lstm" else 1
        self.backbone = RecurrentModel(config)
        self.bridge = nn.Linear(size, size * layers * self.num_states)
        cell = nn.GRU if config.cell == "gru" else nn.LSTM
        between = config.dropout if layers > 1 else 0.0
        self.decoder = cell(config.embedding_size, size, num_layers=layers, dropout=between, batch_first=True)
        self.score = nn.Linear(size, size, bias=False)
        self.combine = nn.Linear(2 * size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.backbone

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: States | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Ids and mask are [batch, source], labels and decoder ids [batch, target], logits [batch, target, vocabulary].

        Labels of -100 count nothing; without decoder ids, they are the labels one place to the right.
        `past_key_values` are the decoder's states [layers, batch, hidden_size] after the tokens that came before.
        """
        if encoder_outputs is None:
            assert input_ids is not None
            encoder_outputs = self.backbone(input_ids, attention_mask)
        elif isinstance(encoder_outputs, tuple):
            encoder_outputs = BaseModelOutput(last_hidden_state=encoder_outputs[0])
        memory = encoder_outputs.last_hidden_state
        # The states of padding are zero, and no others are.
        mask = (memory != 0).any(dim=-1) if attention_mask is None else attention_mask.bool()
        if decoder_input_ids is None:
            assert labels is not None, "a decoder is given its input or its labels"
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if past_key_values is None:
            past_key_values = self._first_states(memory, mask)

        embedded = self.dropout(self.backbone.embeddings(decoder_input_ids))
        given = past_key_values if self.num_states == 2 else past_key_values[0]
        states, last = self.decoder(embedded, given)
        scores = self.score(states) @ memory.transpose(1, 2)
        scores = scores.masked_fill(~mask[:, None, :], torch.finfo(scores.dtype).min)
        context = scores.softmax(dim=-1) @ memory
        attended = torch.tanh(self.combine(self.dropout(torch.cat([context, states], dim=-1))))
        logits = self.lm_head(self.dropout(attended))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        after: Any = (last if self.num_states == 2 else (last,)) if use_cache else None
        return Seq2SeqLMOutput(loss=loss, logits=logits, past_key_values=after, encoder_last_hidden_state=memory)

    def _first_states(self, memory: torch.Tensor, mask: torch.Tensor) -> States:
        mean = (memory * mask[..., None]).sum(dim=1) / mask.sum(dim=1).clamp(min=1)[:, None]
        flat = torch.tanh(self.bridge(mean)).view(len(mean), self.num_states, self.decoder.num_layers, -1)
        return tuple(states.transpose(0, 1).contiguous() for states in flat.unbind(dim=1))

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels one place to the right, after the start token; -100 as padding."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] < 0, self.config.pad_token_id)], dim=1)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # a recurrent state is all there is to keep

    def _reorder_cache(self, past_key_values: States, beam_idx: torch.Tensor) -> States:
        return tuple(states.index_select(1, beam_idx) for states in past_key_values)
