"""A small convolutional network for images of some dozens of pixels, as a Hugging Face model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import can_return_tuple

from transfer.errors import Problem, UserError

# Channels that are normalised together (Wu & He 2018, table 3: 8 to 16 are as good as 32).
GROUP = 8


class CNNConfig(PretrainedConfig):
    """Shape of a `cnn` model.

    Attributes:
        hidden_sizes: the channels of each block; every block halves the side of the image.
    """

    model_type = "cnn"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128)
    dropout: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        problems = []
        sizes = list(self.hidden_sizes)
        if not sizes or any(size < 1 for size in sizes):
            allowed = "at least one number of channels, each 1 or more"
            problems.append(Problem("model.config.hidden_sizes", sizes, allowed, "[32, 64, 128] is the default"))
        if self.num_channels < 1:
            problems.append(Problem("model.config.num_channels", self.num_channels, "1 or more", ""))
        if not 0 <= self.dropout < 1:
            problems.append(Problem("model.config.dropout", self.dropout, "from 0 to below 1", ""))
        if problems:
            raise UserError(problems)
        super().__post_init__(**kwargs)


class CNNPreTrainedModel(PreTrainedModel):
    """What the base model and the head share: images as the input, and how weights begin."""

    config_class = CNNConfig
    base_model_prefix = "cnn"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.zeros_(module.bias)


class CNNBlock(nn.Module):
    """Two 3x3 convolutions, each normalised and rectified; then the side is halved.

    The norm is over groups of the channels of one image, not over the batch: it does the same in training and
    evaluation, with few rows, and when a batch is cut among devices.
    """

    def __init__(self, channels: int, wide: int, dropout: float) -> None:
        super().__init__()
        groups = wide // GROUP if wide % GROUP == 0 else 1
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(groups, wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(groups, wide),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True),  # 28, 14, 7, 4
            nn.Dropout(dropout),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(maps)
        return found


class CNNModel(CNNPreTrainedModel):
    """Blocks, then the mean over the last feature map, whatever its size."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        channels = [config.num_channels, *config.hidden_sizes]
        self.blocks = nn.ModuleList(CNNBlock(before, after, config.dropout) for before, after in pairwise(channels))
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """From [batch, num_channels, height, width] to `pooler_output` [batch, channels of the last block]."""
        maps = pixel_values
        for block in self.blocks:
            maps = block(maps)
        return BaseModelOutputWithPooling(last_hidden_state=maps, pooler_output=maps.mean(dim=(2, 3)))


class CNNForImageClassification(CNNPreTrainedModel):
    """The blocks with a linear classifier."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        assert config.num_labels is not None
        self.cnn = CNNModel(config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Logits [batch, num_labels]; the loss is there where labels are given."""
        logits = self.classifier(self.cnn(pixel_values).pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)
