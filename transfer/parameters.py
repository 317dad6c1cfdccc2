"""Names, depth and counts of a model's parameters.

Depth is 0 for the embeddings, then one per layer; whatever stands above the layers in the backbone (a pooler, a last
norm) has the depth of the top layer, since it changes together with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

EMBEDDINGS = re.compile(r"(.*\.)?(\w*embed\w*|wte|wpe|shared)(\..*)?")
# The outermost number counts: T5's `block.0.layer.1` is its first layer.
LAYER = re.compile(r"(?:.*?\.)?(?:layers?|h|blocks?|stages|transformer_layers)\.(\d+)\..*")


def backbone_prefix(model: PreTrainedModel) -> str:
    """What the names of the backbone's tensors begin with; empty when the model is all backbone."""
    return f"{model.base_model_prefix}." if model.base_model is not model else ""


def is_backbone(name: str, prefix: str) -> bool:
    """Whether a tensor belongs to `model.base_model`; everything else is the head."""
    return name.startswith(prefix)


def depths(model: PreTrainedModel) -> dict[str, int | None]:
    """Parameter name -> depth in the backbone; None for the head."""
    prefix = backbone_prefix(model)
    names = [name for name, _ in model.named_parameters()]
    top = num_layers(names)
    return {name: _depth(name, top) if is_backbone(name, prefix) else None for name in names}


def num_layers(names: Iterable[str]) -> int:
    """How many numbered layers these names speak of."""
    found = [int(match[1]) for name in names if (match := LAYER.fullmatch(name))]
    return max(found) + 1 if found else 0


def _depth(name: str, top: int) -> int:
    layer = LAYER.fullmatch(name)
    if layer:
        return int(layer[1]) + 1
    return 0 if EMBEDDINGS.fullmatch(name) else top


def counts(model: nn.Module) -> dict[str, int]:
    """Number of parameters, in all and with a gradient."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trains in sizes if trains)}
