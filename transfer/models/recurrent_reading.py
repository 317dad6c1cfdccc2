"""Recurrent models that read a question: where its answer begins and ends, or which of several answers is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MultipleChoiceModelOutput, QuestionAnsweringModelOutput
from transformers.utils import can_return_tuple

from transfer.models.recurrent import RecurrentConfig, RecurrentModel, RecurrentPreTrainedModel


class RecurrentForQuestionAnswering(RecurrentPreTrainedModel):
    """The state at each token of question and context -> dropout -> one linear layer to the logits of both ends.

    What the question asks reaches the context through the states alone; there is no attention between the two.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        assert config.hidden_size is not None
        self.backbone = RecurrentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> QuestionAnsweringModelOutput:
        """Both logits are [batch, length]."""
        outputs = self.backbone(input_ids, attention_mask, **kwargs)
        start, end = self.qa_outputs(self.dropout(outputs.last_hidden_state)).unbind(dim=-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end, hidden_states=outputs.hidden_states)


class RecurrentForMultipleChoice(RecurrentPreTrainedModel):
    """The pooled vector of a question with each of its answers -> dropout -> one number each."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        assert config.hidden_size is not None
        self.backbone = RecurrentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> MultipleChoiceModelOutput:
        """Ids and mask are [batch, choices, length], logits [batch, choices]."""
        mask = None if attention_mask is None else attention_mask.flatten(0, 1)
        outputs = self.backbone(input_ids.flatten(0, 1), mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(input_ids.shape[:2])
        return MultipleChoiceModelOutput(logits=logits, hidden_states=outputs.hidden_states)
