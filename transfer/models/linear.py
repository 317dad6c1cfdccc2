"""Linear and logistic regression on standardised features, or a small perceptron on them, as a Hugging Face model."""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import can_return_tuple

from transfer.errors import Problem, UserError


class LinearConfig(PretrainedConfig):
    """Shape of a `linear` model: how many features it reads, and of how many units the hidden layers are, if any.

    With `standardise` features, and the labels of a regression, are scaled by their mean and deviation in training.
    """

    model_type = "linear"

    num_features: int = 1
    hidden_sizes: list[int] = field(default_factory=list)
    standardise: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_features < 1:
            action = "name the feature columns in data.columns.features"
            raise UserError(Problem("model.config.num_features", self.num_features, "1 or more", action))
        if any(size < 1 for size in self.hidden_sizes):
            raise UserError(Problem("model.config.hidden_sizes", self.hidden_sizes, "sizes of 1 or more", ""))
        super().__post_init__(**kwargs)


class LinearPreTrainedModel(PreTrainedModel):
    """What the base model and the head share: features as the input, and how weights and scales begin."""

    config_class = LinearConfig
    base_model_prefix = "backbone"
    main_input_name = "features"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and self.config.hidden_sizes:
            bound = module.in_features**-0.5  # torch's own: from zero, hidden units would never differ
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Linear):
            init.zeros_(module.weight)  # the problem is convex: zero is as good a start as any, and predicts the mean
            init.zeros_(module.bias)
        elif isinstance(module, LinearModel):
            init.zeros_(module.mean)
            init.ones_(module.scale)
        elif isinstance(module, LinearForSequenceClassification):
            init.zeros_(module.label_mean)
            init.ones_(module.label_scale)


class LinearModel(LinearPreTrainedModel):
    """z = (x - mean) / scale, with the scaling kept in the weights so that a saved model reads the user's own units.

    Hidden layers, where there are any, turn z into the activations of the last one: z <- relu(W z + b).
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.num_features))
        self.register_buffer("scale", torch.ones(config.num_features))
        sizes = [config.num_features, *config.hidden_sizes]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.post_init()

    # transformers asks the first parameter for these two, and there is none
    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @can_return_tuple
    def forward(self, features: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Features are [batch, num_features] in the user's units; `pooler_output` holds them standardised.

        Or what the hidden layers make of them, [batch, hidden_sizes[-1]].
        """
        hidden = (features.to(self.mean.dtype) - self.mean) / self.scale
        for layer in self.layers:
            hidden = layer(hidden).relu()
        return BaseModelOutputWithPooling(last_hidden_state=hidden[:, None, :], pooler_output=hidden)


class LinearForSequenceClassification(LinearPreTrainedModel):
    """logits = classifier(z) * label_scale + label_mean; they are 1 and 0 but for a regression."""

    label_mean: torch.Tensor
    label_scale: torch.Tensor

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        assert config.num_labels is not None
        self.backbone = LinearModel(config)
        self.classifier = nn.Linear([config.num_features, *config.hidden_sizes][-1], config.num_labels)
        self.register_buffer("label_mean", torch.zeros(config.num_labels))
        self.register_buffer("label_scale", torch.ones(config.num_labels))
        self.post_init()

    @property
    def is_regression(self) -> bool:
        problem_type = self.config.problem_type
        return problem_type == "regression" or (problem_type is None and self.config.num_labels == 1)

    @can_return_tuple
    def forward(
        self, features: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Features [batch, num_features] and logits [batch, num_labels] are in the user's units.

        The regression loss is the MSE in units of `label_scale`, so that a learning rate, a weight decay and a gradient
        clip mean the same for a label in millimetres and one in kilometres. On the examples of `fit_scaling` it is the
        fraction of the variance left unexplained.
        """
        scaled = self.classifier(self.backbone(features).pooler_output)
        logits = scaled * self.label_scale + self.label_mean
        loss = None
        if labels is not None and self.is_regression:
            wanted = (labels.view_as(logits).to(logits.dtype) - self.label_mean) / self.label_scale
            loss = nn.functional.mse_loss(scaled, wanted)
        elif labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def fit_scaling(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """Set the scaling buffers from training data: features [n, num_features], labels [n] or [n, num_labels].

        Labels are read for a regression only. A column that does not vary keeps the scale 1. Without `standardise` only
        the values are checked.

        Raises:
            UserError: features or labels hold values that are not finite, or there are none.
        """
        self._fit(features, self.backbone.mean, self.backbone.scale, "features")
        if labels is not None and self.is_regression:
            self._fit(labels.reshape(len(labels), -1), self.label_mean, self.label_scale, "labels")

    def _fit(self, values: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, what: str) -> None:
        assert values.shape[1:] == mean.shape, f"{what}: {tuple(values.shape)} for {tuple(mean.shape)}"
        if not len(values):
            raise UserError(Problem(what, "no example", "one example or more", "check the training data"))
        values = values.double()  # a column of large numbers that differ little would lose its deviation in float32
        wrong = (~values.isfinite()).any(dim=0).nonzero().flatten().tolist()
        if wrong:
            action = "fill in or drop the examples with missing values"
            raise UserError(Problem(what, f"missing or infinite values in columns {wrong}", "finite numbers", action))
        if not self.config.standardise:
            return
        deviation = values.std(dim=0, correction=0)
        varies = values.amax(dim=0) > values.amin(dim=0)
        mean.copy_(values.mean(dim=0))
        scale.copy_(torch.where(varies & (deviation > 0), deviation, torch.ones_like(deviation)))

    @torch.no_grad()
    def coefficients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(w [num_labels, num_features], b [num_labels]) in float64 and the user's units: logits = w x + b."""
        assert not self.config.hidden_sizes, "hidden layers are not linear"
        weight, bias = self.classifier.weight.double(), self.classifier.bias.double()
        w = self.label_scale.double()[:, None] * weight / self.backbone.scale.double()
        b = self.label_scale.double() * bias + self.label_mean.double() - w @ self.backbone.mean.double()
        return w, b
