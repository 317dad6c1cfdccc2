"""Names, depth and counts of a model's parameters.

Depth is 0 for the embeddings, then one per layer; whatever stands above the layers in the backbone (a pooler, a last
norm) has the depth of the top layer, since it changes together with it. Where an encoder is read by a decoder, the
layers of the encoder come first, then those of the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

EMBEDDINGS = re.compile(r"(.*\.)?(\w*embed\w*|\w*stem|wte|wpe|shared)(\..*)?")
# The outermost number counts: T5's `block.0.layer.1` is its first layer.
LAYER = re.compile(r"(?:.*?\.)?(?:layers?|h|blocks?|stages|transformer_layers)\.(\d+)\..*")
# A sequence as torchvision has it, in which activations and pooling have numbers too: those with weights are counted.
SEQUENCE = re.compile(r"(?:.*?\.)?features\.(\d+)\..*")
# The outermost word counts: a BERT that decodes is `decoder.bert.encoder`.
STACK = re.compile(r"(?:.*?\.)??(encoder|decoder)\..*")
# Where a model that answers questions has its layers beside its head, and not in a backbone of their own (T5).
QUESTION_HEAD = {"qa_outputs"}
CROSS_ATTENTION = re.compile(r"(?:.*\.)?(?:crossattention|ln_cross_attn)\..*")


def backbone_prefix(model: PreTrainedModel) -> str:
    """What the names of the backbone's tensors begin with; empty where the backbone is no module of its own."""
    return f"{model.base_model_prefix}." if model.base_model is not model else ""


def in_backbone(model: PreTrainedModel) -> Callable[[str], bool]:
    """Whether a tensor of this name belongs to the backbone; everything else is the head.

    The backbone is `model.base_model`. Of an encoder and a decoder that were put together from two models, it is what
    these two bring: the attention between them is new, and so part of the head.
    """
    prefix = backbone_prefix(model)
    if prefix:
        return lambda name: name.startswith(prefix)
    if is_composed(model):
        decoder: Any = model.decoder
        parts = ("encoder.", f"decoder.{decoder.base_model_prefix}.")
        return lambda name: name.startswith(parts) and not CROSS_ATTENTION.fullmatch(name)
    output = model.get_output_embeddings()
    heads = {name for name, module in model.named_modules() if output is not None and module is output}
    beginnings = tuple(f"{name}." for name in heads | QUESTION_HEAD)
    return lambda name: not name.startswith(beginnings)


def is_composed(model: PreTrainedModel) -> bool:
    """Whether the model is an encoder and a decoder that were put together (`EncoderDecoderModel`)."""
    return bool(model.config.model_type == "encoder-decoder")


def idle(model: PreTrainedModel) -> set[str]:
    """Parameters that no output depends on: nobody asks for the pooled text of an encoder that is read by a decoder."""
    names = [name for name, _ in model.named_parameters()] if is_composed(model) else []
    return {name for name in names if name.startswith("encoder.pooler.")}


def depths(model: PreTrainedModel) -> dict[str, int | None]:
    """Parameter name -> depth in the backbone; None for the head."""
    inside = in_backbone(model)
    names = [name for name, _ in model.named_parameters()]
    own = [name for name in names if inside(name)]
    num_encoder, num_decoder = (num_layers(n for n in own if _stack(n) == stack) for stack in ("encoder", "decoder"))
    two = num_encoder > 0 and num_decoder > 0
    counted = sorted({int(match[1]) for name in own if (match := SEQUENCE.fullmatch(name))})
    top = num_encoder + num_decoder if two else num_layers(own) or len(counted)

    def depth(name: str) -> int:
        first, last = 0, top
        if two and _stack(name) == "encoder":
            last = num_encoder
        elif two and _stack(name) == "decoder":
            first = num_encoder
        layer = LAYER.fullmatch(name)
        if layer:
            return first + int(layer[1]) + 1
        if placed := SEQUENCE.fullmatch(name):
            return counted.index(int(placed[1])) + 1
        return 0 if EMBEDDINGS.fullmatch(name) else last

    return {name: depth(name) if inside(name) else None for name in names}


def layers(model: PreTrainedModel) -> dict[int, str]:
    """Depth -> name of the module that is the layer there; nothing for two stacks of layers."""
    found = {}
    for name, depth in ({} if has_two_stacks(model) else depths(model)).items():
        match = LAYER.fullmatch(name) or SEQUENCE.fullmatch(name)
        if match and depth is not None:
            found[depth] = name[: match.end(1)]
    return found


def has_two_stacks(model: PreTrainedModel) -> bool:
    """Whether one stack of layers reads and another one writes."""
    return bool(model.config.is_encoder_decoder) or is_composed(model)


def _stack(name: str) -> str:
    found = STACK.fullmatch(name)
    return found[1] if found else ""


def num_layers(names: Iterable[str]) -> int:
    """How many numbered layers these names speak of."""
    found = [int(match[1]) for name in names if (match := LAYER.fullmatch(name))]
    return max(found) + 1 if found else 0


def counts(model: nn.Module) -> dict[str, int]:
    """Number of parameters, in all and with a gradient."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trains in sizes if trains)}
