"""VGG (Simonyan & Zisserman 2015) as a Hugging Face model whose tensors have torchvision's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import can_return_tuple

from transfer.errors import Problem, UserError

# Convolutions in each of the five blocks (table 1 of the paper: A, B, D, E), and their widths.
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGGConfig(PretrainedConfig):
    """Shape of a `vgg` model; the defaults are those of torchvision's.

    Attributes:
        num_layers: 11, 13, 16 or 19: convolutions and fully connected layers together.
        width: what the numbers of channels are multiplied with, such as 0.25 for a narrow one.
        pooled_size: side of the last feature map, to which one of any size is averaged.
        hidden_size: width of the two fully connected layers.
    """

    model_type = "vgg"

    num_layers: int = 11
    num_channels: int = 3
    width: float = 1.0
    pooled_size: int = 7
    hidden_size: int = 4096
    dropout: float = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        problems = []
        if self.num_layers not in CONVOLUTIONS:
            allowed = ", ".join(map(str, CONVOLUTIONS))
            problems.append(Problem("model.config.num_layers", self.num_layers, allowed, ""))
        if not self.width > 0:
            problems.append(Problem("model.config.width", self.width, "a number above 0", "1 is that of the paper"))
        if not 0 <= self.dropout < 1:
            problems.append(Problem("model.config.dropout", self.dropout, "from 0 to below 1", ""))
        for name in ("num_channels", "pooled_size", "hidden_size"):
            if getattr(self, name) < 1:
                problems.append(Problem(f"model.config.{name}", getattr(self, name), "1 or more", ""))
        if problems:
            raise UserError(problems)
        super().__post_init__(**kwargs)


class VGGPreTrainedModel(PreTrainedModel):
    """What the base model and the head share: images as the input, and how weights begin."""

    config_class = VGGConfig
    base_model_prefix = "vgg"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # He et al. 2015, so that signals keep their size on the way up. torchvision keeps that of gradients in the
        # convolutions and gives the linear layers a fixed 0.01: a narrow network, or one on grey images, stands still.
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)


class VGGModel(VGGPreTrainedModel):
    """Convolutions, and the first two fully connected layers, which published weights have as features too.

    The depth of a layer, for freezing, is the number of its convolution; the fully connected layers go with the last.
    """

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        channels = config.num_channels
        for width, number in zip(WIDTHS, CONVOLUTIONS[config.num_layers], strict=True):
            for _ in range(number):
                wide = max(1, round(width * config.width))
                layers += [nn.Conv2d(channels, wide, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                channels = wide
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(config.pooled_size)
        hidden = config.hidden_size
        self.classifier = nn.Sequential(
            nn.Linear(channels * config.pooled_size**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
        )
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """From [batch, num_channels, height, width] to `pooler_output` [batch, hidden_size].

        `last_hidden_state` is the last feature map, [batch, channels, height / 32, width / 32]. What has become too
        small to be halved stays as it is, so that images of less than 32 pixels can be read.
        """
        maps = pixel_values
        for layer in self.features:
            if not isinstance(layer, nn.MaxPool2d) or min(maps.shape[-2:]) > 1:
                maps = layer(maps)
        pooled = self.classifier(self.avgpool(maps).flatten(1))
        return BaseModelOutputWithPooling(last_hidden_state=maps, pooler_output=pooled)


class VGGForImageClassification(VGGPreTrainedModel):
    """VGG with a linear classifier on its last hidden layer."""

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(config)
        assert config.num_labels is not None
        self.vgg = VGGModel(config)
        # The name that it has in torchvision: classifier.0 and classifier.3 are the layers below.
        self.classifier = nn.ModuleDict({"6": nn.Linear(config.hidden_size, config.num_labels)})
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Logits [batch, num_labels]; the loss is there where labels are given."""
        logits = self.classifier["6"](self.vgg(pixel_values).pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)
