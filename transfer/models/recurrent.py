"""Word embeddings followed by LSTM or GRU layers, or by nothing but their average."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from transfer.errors import Problem, UserError, nearest

CELLS = ("lstm", "gru", "mean")
POOLINGS = ("max", "mean", "last")


class RecurrentConfig(PretrainedConfig):
    """Shape of a `recurrent` model.

    The fields that default to None follow the cell. `lstm` and `gru`: hidden_size 128, one layer, bidirectional,
    pooling max. `mean` averages the word embeddings, so there they are fixed: hidden_size is embedding_size, no layer,
    pooling mean.
    `hidden_size` is the size of a layer's output, over both directions.

    Raises:
        UserError: for values outside of what is allowed, and for settings that the `mean` cell would ignore.
    """

    model_type = "recurrent"

    vocab_size: int = 20000
    embedding_size: int = 100
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    cell: str = "lstm"
    bidirectional: bool | None = None
    dropout: float | int = 0.2
    pooling: str | None = None
    pad_token_id: int | None = 0
    # Of the language model, the only one with output embeddings.
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        problems = self._follow_cell()
        problems += self._check_values()
        if problems:
            raise UserError(problems)
        super().__post_init__(**kwargs)

    def _follow_cell(self) -> list[Problem]:
        """Fill what follows from the cell; a value of the user's own that the `mean` cell would ignore is a problem."""
        layered: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 1, "bidirectional": True, "pooling": "max"}
        averaging = dict(zip(layered, (self.embedding_size, 0, False, "mean"), strict=True))
        problems = []
        for name, default in layered.items():
            received = getattr(self, name)
            follows = averaging[name] if self.cell == "mean" else default
            if received is None:
                setattr(self, name, follows)
            elif self.cell == "mean" and received != follows:
                # the default of the other cells is nobody's wish: it comes from a config whose cell was changed later
                if received != default:
                    action = f"leave {name} out, or choose model.config.cell=lstm"
                    problems.append(Problem(f"model.config.{name}", received, f"{follows} with cell mean", action))
                setattr(self, name, follows)
        return problems

    def _check_values(self) -> list[Problem]:
        problems = []

        def check(name: str, right: bool, allowed: str, action: str) -> None:
            if not right:
                problems.append(Problem(f"model.config.{name}", getattr(self, name), allowed, action))

        for name, words in (("cell", CELLS), ("pooling", POOLINGS)):
            guess = nearest(str(getattr(self, name)), words) or words[0]
            check(name, getattr(self, name) in words, ", ".join(words), f"write model.config.{name}={guess}")
        least_layers = 0 if self.cell == "mean" else 1
        sizes = {"vocab_size": 1, "embedding_size": 1, "hidden_size": 1, "num_hidden_layers": least_layers}
        for name, least in sizes.items():
            enough = _is_whole(getattr(self, name), least)
            check(name, enough, f"a whole number, {least} or more", "give another number")
        if _is_whole(self.hidden_size, 1) and self.hidden_size % 2 and self.bidirectional:
            check("hidden_size", False, "an even number when bidirectional", "the two directions share it")
        in_range = isinstance(self.dropout, (int, float)) and 0 <= self.dropout < 1
        check("dropout", in_range, "0 <= dropout < 1", "give the probability of dropping a value")
        rows = self.vocab_size if _is_whole(self.vocab_size, 1) else 1
        is_row = _is_whole(self.pad_token_id, 0) and self.pad_token_id < rows
        check("pad_token_id", is_row, "a row of the embeddings, less than vocab_size", "give the tokenizer's own")
        return problems


def _is_whole(value: Any, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class RecurrentPreTrainedModel(PreTrainedModel):
    """What the base model and the classifiers share: where the embeddings are and how weights begin."""

    config_class = RecurrentConfig
    base_model_prefix = "backbone"
    _input_embed_layer = "embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            fresh = not getattr(module.weight, "_is_hf_initialized", False)
            init.normal_(module.weight, mean=0.0, std=0.1)
            if fresh and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, (nn.LSTM, nn.GRU)):
            _init_recurrent(module)
        else:
            super()._init_weights(module)


def _init_recurrent(layer: nn.LSTM | nn.GRU) -> None:
    """Orthogonal recurrent and Xavier input weights, gate by gate; forget bias 1 (Jozefowicz et al. 2015)."""
    size = layer.hidden_size
    for name, parameter in layer.named_parameters():
        if getattr(parameter, "_is_hf_initialized", False):
            continue  # read from a checkpoint; the slices below would not carry the mark
        if name.startswith("bias"):
            parameter.zero_()
            # torch adds two biases, so only one of them gets the 1; its gate order is input, forget, cell, output
            if isinstance(layer, nn.LSTM) and name.startswith("bias_ih"):
                parameter[size : 2 * size].fill_(1.0)
            continue
        fill = init.orthogonal_ if name.startswith("weight_hh") else init.xavier_uniform_
        for gate in parameter.split(size):
            fill(gate)


class RecurrentModel(RecurrentPreTrainedModel):
    """Embeddings (depth 0), then one LSTM or GRU a layer (`layers.k` is depth k + 1), then a pooled vector a text."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        assert config.hidden_size is not None
        assert config.num_hidden_layers is not None
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        cell = nn.GRU if config.cell == "gru" else nn.LSTM
        directions = 2 if config.bidirectional else 1
        self.layers = nn.ModuleList(
            cell(
                config.hidden_size if k else config.embedding_size,
                config.hidden_size // directions,
                bidirectional=directions == 2,
                batch_first=True,
            )
            for k in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Ids and mask are [batch, length], states [batch, length, hidden_size], pooled output [batch, hidden_size].

        Without a mask, what equals `pad_token_id` is padding. Padding may stand on either side; its states are zero.
        `hidden_states` holds the embeddings and each layer's output.
        """
        mask = (input_ids != self.config.pad_token_id) if attention_mask is None else attention_mask.bool()
        # packing wants the words first; a text without any keeps one pad embedding, which is zero
        order = torch.argsort(mask.long(), dim=1, descending=True, stable=True)
        back = torch.argsort(order, dim=1)
        lengths = mask.sum(dim=1).clamp(min=1)
        words_first = torch.arange(mask.size(1), device=mask.device) < lengths[:, None]

        embedded = self.dropout(self.embeddings(input_ids.gather(1, order))) * words_first[..., None]
        states = [embedded]
        if len(self.layers):
            states += self._run_layers(embedded, lengths)
        pooled = self._pool(states[-1], words_first, lengths)

        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        kept = [_reorder(state, back) for state in (states if wanted else states[-1:])]
        return BaseModelOutputWithPooling(
            last_hidden_state=kept[-1], pooler_output=pooled, hidden_states=tuple(kept) if wanted else None
        )

    def _run_layers(self, embedded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Each layer's output, padded with zeros to the length of `embedded`."""
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs = []
        for k, layer in enumerate(self.layers):
            if k:
                packed = PackedSequence(
                    self.dropout(packed.data), packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
                )
            packed, _ = layer(packed)
            outputs.append(pad_packed_sequence(packed, batch_first=True, total_length=embedded.size(1))[0])
        return outputs

    def _pool(self, states: torch.Tensor, words_first: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "max":
            return states.masked_fill(~words_first[..., None], float("-inf")).amax(dim=1)
        if self.config.pooling == "mean":
            return states.sum(dim=1) / lengths[:, None]
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        if not self.config.bidirectional:
            return last
        # the backward direction has read the whole text where it ends, at the first word
        half = states.size(-1) // 2
        return torch.cat([last[:, :half], states[:, 0, half:]], dim=1)


def _reorder(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return states.gather(1, index[..., None].expand_as(states))


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """Pooled vector -> dropout -> one linear layer; classes, several labels or numbers by `config.problem_type`."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        assert config.hidden_size is not None
        assert config.num_labels is not None
        self.backbone = RecurrentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits are [batch, num_labels]; the loss is that of transformers for the config's `problem_type`."""
        outputs = self.backbone(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class RecurrentForTokenClassification(RecurrentPreTrainedModel):
    """The state at each token -> dropout -> one linear layer. Its backbone is that of the text classifier."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        assert config.hidden_size is not None
        assert config.num_labels is not None
        self.backbone = RecurrentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Logits are [batch, length, num_labels]; labels [batch, length], -100 where none is asked for."""
        outputs = self.backbone(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, config=self.config)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
