"""Where the frozen part of a model ends, what comes out of it there, and how the model goes on from that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from transfer import parameters
from transfer.freezing import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What is kept of a tensor: the outputs for the tokens of a row, for its first token, or for the row as a whole.
TOKENS, FIRST, ROWS = "tokens", "first", "rows"
HIDDEN = "hidden"


@dataclass(frozen=True)
class Boundary:
    """Up to where nothing trains.

    Attributes:
        module: the name of the last module that is frozen together with all below it.
        depth: its depth; None for the whole backbone.
        below: the names of the layers that come before it.
    """

    module: str
    depth: int | None
    below: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.depth is None:
            return "the backbone"
        return f"the embeddings and the first {f'{self.depth} layers' if self.depth > 1 else 'layer'}"


@dataclass(frozen=True)
class Kept:
    """What is kept at a boundary, by name, and the kind of each tensor.

    Attributes:
        kinds: TOKENS, FIRST or ROWS.
        output: what the module returned: the class of a mapping, tuple, or None for a tensor.
        unused: what else the mapping has and nobody reads: whether it is of each token, and its shape behind that.
    """

    boundary: Boundary
    kinds: dict[str, str]
    output: Any = None
    unused: dict[str, tuple[bool, tuple[int, ...]]] = field(default_factory=dict)


class UnsupportedError(Exception):
    """Nothing can be kept at this boundary; the message says why."""


def find(model: PreTrainedModel, frozen: Plan, epoch: float) -> Boundary | None:
    """The highest boundary below which nothing trains in this epoch (`inf`: ever); None where there is none.

    A model that reads with one stack of layers and writes with another has none here.
    """
    if parameters.has_two_stacks(model):
        return None
    depths = parameters.depths(model)
    training = [
        depth
        for name, depth in depths.items()
        if depth is not None and (start := frozen[name]) is not None
        if start <= epoch
    ]
    if not training:
        whole = model.base_model is not model
        return Boundary(model.base_model_prefix, None) if whole else None
    layers = parameters.layers(model)
    under = sorted(depth for depth in layers if depth < min(training))
    return Boundary(layers[under[-1]], under[-1], tuple(layers[d] for d in under[:-1])) if under else None


def tensors(model: PreTrainedModel, boundary: Boundary) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers on which the output at the boundary depends, by name."""
    depths = parameters.depths(model)
    inside = parameters.in_backbone(model)
    top = boundary.depth
    above = [f"{name}." for depth, name in parameters.layers(model).items() if top is not None and depth > top]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        depth = depths.get(name, 0)
        if inside(name) and not name.startswith(tuple(above)) and (top is None or depth is None or depth <= top):
            yield name, tensor


@contextmanager
def watched(model: PreTrainedModel, boundaries: list[Boundary]) -> Iterator[dict[Boundary, list[Any]]]:
    """What the modules at these boundaries return meanwhile, in the order of the calls."""
    seen: dict[Boundary, list[Any]] = {boundary: [] for boundary in boundaries}

    def keep(boundary: Boundary) -> Callable[..., None]:
        return lambda module, arguments, output: seen[boundary].append(output)

    with ExitStack() as stack:
        for boundary in boundaries:
            stack.callback(model.get_submodule(boundary.module).register_forward_hook(keep(boundary)).remove)
        yield seen


class _ReachedError(Exception):
    """The highest boundary is behind us: what comes above it is not asked for."""


def compute(model: PreTrainedModel, wanted: list[Boundary], inputs: dict[str, Tensor]) -> dict[Boundary, Any]:
    """What the modules at these boundaries return for these rows; the model runs no further than that."""
    last = max(wanted, key=lambda boundary: math.inf if boundary.depth is None else boundary.depth)

    def stop(module: Any, arguments: Any, output: Any) -> None:
        raise _ReachedError

    with watched(model, wanted) as seen:
        handle = model.get_submodule(last.module).register_forward_hook(stop)
        try:
            model(**inputs)
        except _ReachedError:
            pass
        finally:
            handle.remove()
    return {boundary: outputs[0] for boundary, outputs in seen.items()}


def values(kept: Kept, output: Any) -> dict[str, Tensor]:
    """Of a module's output what is kept."""
    if kept.boundary.depth is None:
        return {name: output[name] for name in kept.kinds}
    return {HIDDEN: output[0] if kept.output is tuple else output}


def look(model: PreTrainedModel, boundary: Boundary, inputs: dict[str, Tensor]) -> Kept:
    """What there is to keep, as seen on a few rows.

    Raises:
        UnsupportedError: the module is called several times, or returns more than hidden states.
    """
    with watched(model, [boundary]) as seen, torch.no_grad():
        model(**inputs)
    if len(seen[boundary]) != 1:
        raise UnsupportedError(f"{boundary.module} is called {len(seen[boundary])} times")
    output = seen[boundary][0]
    mask = inputs.get("attention_mask")
    if boundary.depth is None:
        return _look_at_whole(model, boundary, inputs, output)
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor) or (isinstance(output, tuple) and any(v is not None for v in output[1:])):
        raise UnsupportedError(f"{boundary.module} returns more than hidden states")
    return Kept(boundary, {HIDDEN: _kind(hidden, mask)}, tuple if isinstance(output, tuple) else None)


def _kind(value: Tensor, mask: Tensor | None) -> str:
    if mask is None:
        return ROWS
    if mask.dim() != 2 or len(value) != len(mask):
        raise UnsupportedError("a row is more than one sequence")
    return TOKENS if value.dim() > 2 and value.shape[:2] == mask.shape else ROWS


def _look_at_whole(model: PreTrainedModel, boundary: Boundary, inputs: dict[str, Tensor], output: Any) -> Kept:
    """Which tensors of the backbone's output the head reads: those that have a gradient from what the model returns."""
    if not isinstance(output, Mapping):
        raise UnsupportedError(f"{boundary.module} returns no named tensors")
    mask = inputs.get("attention_mask")
    found = {name: value for name, value in output.items() if isinstance(value, Tensor) and value.is_floating_point()}
    kept = Kept(boundary, {name: _kind(value, mask) for name, value in found.items()}, type(output))
    # Lightning evaluates in inference mode, whose tensors no gradient can be asked of.
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {name: value.clone().float().requires_grad_() for name, value in found.items()}
        inputs = {name: value.clone() for name, value in inputs.items()}
        with resumed(model, kept, leaves, inputs):
            returned = model(**inputs)
        floats = [v for v in returned.values() if isinstance(v, Tensor) and v.requires_grad]
        if not floats:
            raise UnsupportedError("nothing that the model returns depends on the backbone")
        torch.stack([_weighed(value) for value in floats]).sum().backward()
    kinds, unused = {}, {}
    for name, leaf in leaves.items():
        if leaf.grad is None:
            by_token = kept.kinds[name] == TOKENS
            unused[name] = by_token, tuple(leaf.shape[1 + by_token :])
        else:
            alone = kept.kinds[name] == TOKENS and leaf.shape[1] > 1 and not leaf.grad[:, 1:].any()
            kinds[name] = FIRST if alone else kept.kinds[name]
    return replace(kept, kinds=kinds, unused=unused)


def _weighed(value: Tensor) -> Tensor:
    """A sum in which nothing cancels: that of a softmax's outputs has no gradient."""
    weights = torch.linspace(0.5, 1.5, value.numel(), device=value.device).view(value.shape)
    return (value.float() * weights).sum()


@contextmanager
def resumed(model: PreTrainedModel, kept: Kept, given: dict[str, Tensor], inputs: dict[str, Tensor]) -> Iterator[None]:
    """Meanwhile the model goes on from what was kept, and nothing below is computed.

    Args:
        given: the kept tensors, the rows first.
        inputs: of the same rows.
    """
    boundary = kept.boundary
    with ExitStack() as stack:
        if boundary.depth is None:
            outputs = {**given, **_blanks(kept, given, inputs)}
            output = kept.output(**outputs)
        else:
            output = (given[HIDDEN],) if kept.output is tuple else given[HIDDEN]
        stack.enter_context(replaced(model.get_submodule(boundary.module), lambda *args, **kwargs: output))
        for name in boundary.below:
            stack.enter_context(replaced(model.get_submodule(name), _unchanged(as_tuple=kept.output is tuple)))
        yield


def _blanks(kept: Kept, given: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros of the right shape, without memory, for what the head does not read but counts the places of."""
    first = next(iter(given.values()))
    made = {}
    for name, (by_token, shape) in kept.unused.items():
        leading = tuple(inputs["attention_mask"].shape) if by_token else (len(first),)
        made[name] = first.new_zeros(1).expand(*leading, *shape)
    return made


def _unchanged(*, as_tuple: bool) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    return forward


@contextmanager
def replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Meanwhile the module does something else."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
