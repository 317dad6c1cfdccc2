"""Bottleneck adapters beside the feed-forward layers, which merge into them.

The scaled parallel adapter (He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning", table 1)
adds ``s * f(x W_down) W_up`` to a feed-forward layer ``f(x W_1) W_2``. With the layer's own activation for ``f`` this
is the same layer with more hidden units, ``W_1`` and ``W_down`` side by side, ``W_2`` above ``s * W_up``: it is trained
like that, and after training the two become one.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from transfer import parameters
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# In the config of a merged model: how many of its hidden units were adapters.
UNITS = "adapter_units"


@dataclass(frozen=True)
class FeedForward:
    """Where the two sides of an architecture's feed-forward layers are, and what its config calls their width."""

    into: str
    out: str
    width: str


_BERT = FeedForward(r"intermediate\.dense", r"(?<!attention\.)output\.dense", "intermediate_size")
_GATED = FeedForward(r"mlp\.(?:gate|up)_proj", r"mlp\.down_proj", "intermediate_size")
FEED_FORWARD = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "deberta-v2"), _BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2"), _GATED),
    "distilbert": FeedForward(r"ffn\.lin1", r"ffn\.lin2", "hidden_dim"),
    "gpt2": FeedForward(r"mlp\.c_fc", r"mlp\.c_proj", "n_inner"),
    "t5": FeedForward(r"DenseReluDense\.wi(?:_[01])?", r"DenseReluDense\.wo", "d_ff"),
    "vit": FeedForward(r"mlp\.fc1", r"mlp\.fc2", "intermediate_size"),
    "wav2vec2": FeedForward(r"feed_forward\.intermediate_dense", r"feed_forward\.output_dense", "intermediate_size"),
}


class Side(nn.Module, ABC):
    """One side of a feed-forward layer, `base_layer`, with the adapter's."""

    def __init__(self, base_layer: Any, adapter: nn.Linear) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.adapter = adapter

    @property
    def weight(self) -> Any:
        """The base's; T5 asks for its type."""
        return self.base_layer.weight

    @abstractmethod
    def merged(self) -> nn.Module:
        """The same function in the base's own architecture, its feed-forward layers wider by the adapter's."""


class Into(Side):
    """[..., size] -> [..., width + r]: the layer's hidden units, then the adapter's."""

    def forward(self, states: Tensor) -> Tensor:
        return torch.cat([self.base_layer(states), self.adapter(states)], dim=-1)

    def merged(self) -> nn.Module:
        weight, bias = torch.cat([_weight(self.base_layer), self.adapter.weight]), self.base_layer.bias
        return _like(self.base_layer, weight, None if bias is None else torch.cat([bias, self.adapter.bias]))


class Out(Side):
    """[..., width + r] -> [..., size]."""

    def __init__(self, base_layer: Any, adapter: nn.Linear, scale: float, dropout: float) -> None:
        super().__init__(base_layer, adapter)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        r = self.adapter.in_features
        added: Tensor = self.adapter(self.dropout(states[..., -r:]))
        return self.base_layer(states[..., :-r]) + self.scale * added

    def merged(self) -> nn.Module:
        weight = torch.cat([_weight(self.base_layer), self.scale * self.adapter.weight], dim=1)
        return _like(self.base_layer, weight, self.base_layer.bias)


def _weight(layer: Any) -> Tensor:
    """[out, in], as nn.Linear has it."""
    weight: Tensor = layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight


def _like(layer: nn.Module, weight: Tensor, bias: Any) -> nn.Module:
    """A layer of the same kind with this weight [out, in]."""
    made: Any
    if isinstance(layer, Conv1D):
        made = Conv1D(weight.shape[0], weight.shape[1])
        weight = weight.T
    else:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made.to(weight.device)


def insert(model: PreTrainedModel, r: int, scale: float, dropout: float) -> None:
    """Put an adapter of `r` units beside every feed-forward layer of the backbone. Its output starts at zero.

    Raises:
        UserError: the architecture has no feed-forward layers that are known here.
    """
    inside = parameters.in_backbone(model)
    found = 0
    for config, prefix in _parts(model):
        where = FEED_FORWARD.get(config.model_type)
        if where is None:
            continue
        for name, layer in list(model.named_modules()):
            if not (name.startswith(prefix) and inside(f"{name}.weight") and isinstance(layer, (nn.Linear, Conv1D))):
                continue
            size_out, size_in = _weight(layer).shape
            side: Side
            if re.search(rf"(?:^|\.){where.into}$", name):
                side = Into(layer, nn.Linear(size_in, r, bias=layer.bias is not None))
                nn.init.kaiming_uniform_(side.adapter.weight, a=math.sqrt(5))
                if side.adapter.bias is not None:
                    nn.init.zeros_(side.adapter.bias)
            elif re.search(rf"(?:^|\.){where.out}$", name):
                side = Out(layer, nn.Linear(r, size_out, bias=False), scale, dropout)
                nn.init.zeros_(side.adapter.weight)
            else:
                continue
            model.set_submodule(name, side.to(layer.weight.device))
            found += 1
    if not found:
        kind, allowed = model.config.model_type, ", ".join(FEED_FORWARD)
        raise UserError(Problem("adaptation.name", f"adapter, with a model {kind}", f"adapter with {allowed}", ""))


def merge(model: PreTrainedModel) -> None:
    """Make each layer and its adapter one wider layer, and say so in the config."""
    sides = [(name, module) for name, module in model.named_modules() if isinstance(module, Side)]
    for name, side in sides:
        model.set_submodule(name, side.merged())
    for config, prefix in _parts(model):
        where = FEED_FORWARD.get(config.model_type)
        outs = [side for name, side in sides if name.startswith(prefix) and isinstance(side, Out)]
        if where and outs:
            r = outs[0].adapter.in_features
            setattr(config, where.width, _weight(outs[0].base_layer).shape[1] + r)
            setattr(config, UNITS, getattr(config, UNITS, 0) + r)


def adopt(config: Any, folder: Path | None) -> None:
    """Where the weights to start from have adapters in their layers, give the model to be built the same width."""
    if folder is None or not (folder / "config.json").is_file():
        return
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pairs = [(config, found)]
    if config.model_type == found.get("model_type") == "encoder-decoder":
        pairs = [(getattr(config, part), found[part]) for part in ("encoder", "decoder")]
    for own, theirs in pairs:
        where = FEED_FORWARD.get(own.model_type)
        if where and own.model_type == theirs.get("model_type") and theirs.get(UNITS):
            setattr(own, where.width, theirs[where.width])
            setattr(own, UNITS, theirs[UNITS])


def _parts(model: PreTrainedModel) -> list[tuple[Any, str]]:
    """The configs that speak of feed-forward layers, each with what the names of its modules begin with."""
    if parameters.is_composed(model):
        return [(model.config.encoder, "encoder."), (model.config.decoder, "decoder.")]
    return [(model.config, "")]
