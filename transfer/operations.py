"""Floating point operations of a training, counted in the matrix products of one row and scaled to the batches seen.

A product with a matrix of N entries takes 2N operations a token forward. The backward pass takes as many again for the
gradient of the matrix, where it trains, and as many for that of its input, where anything before it trains: 6N in all
where everything does (Kaplan et al. 2020, section 2.1), 2N in a frozen prefix. Attention adds 12 operations a token for
each layer, unit of width and token of the text (Chowdhery et al. 2022, appendix B), 4 of them forward. What is looked
up, added or normalised is not counted, nor what is computed a second time to save memory. Padding is: it is computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transfer.data.mixing import MixedData
from transfer.data.module import Rows, TransferData
from transfer.freezing import FreezingCallback
from transfer.shared import SharedModel

# What the operations of a product grow with: the rows, the tokens that are read, the tokens that a decoder writes, and
# in attention the pairs of them. An array of rates has their order.
UNITS = ("row", "read", "written", "read x read", "written x written", "read x written")
# The texts of the row that is counted are cut to such lengths, the first that no size of the model is a multiple of:
# a size that is one belongs to the text.
LENGTHS = (7, 11, 13, 17, 19, 23, 5, 29, 31, 3)
PRODUCTS = ("linear", "matmul", "__matmul__", "bmm", "addmm", "baddbmm")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d")
RECURRENT = ("lstm", "gru")


def amounts(inputs: dict[str, Any]) -> np.ndarray:
    """How many of each of `UNITS` are in these inputs of a model, padding included."""
    ids, labels = inputs.get("input_ids"), inputs.get("labels")
    rows = len(next(iter(inputs.values())))
    read, width = (0, 0) if ids is None else (ids.numel(), ids.shape[-1])
    written, length = (0, 0) if labels is None else (labels.numel(), labels.shape[-1])
    return np.array([rows, read, written, read * width, written * length, written * width], dtype=float)


def count(model: nn.Module, inputs: dict[str, Any]) -> np.ndarray:
    """Operations of a training step for one of each of `UNITS`, with gradients for what asks for them now.

    Returns:
        [2, 6]: of the frozen part, which no gradient goes through, and of all others.

    Args:
        model: on the CPU.
        inputs: of one row.
    """
    sizes = {size for parameter in model.parameters() for size in parameter.shape if size > 1}
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(heads, int):
        sizes |= {heads, getattr(config, "hidden_size", heads) // heads}
    known: list[int] = []
    cut = dict(inputs)
    for name in ("input_ids", "labels"):
        length = inputs[name].shape[-1] if name in inputs else 0
        chosen = next((n for n in LENGTHS if n <= length and n not in known and all(s % n for s in sizes)), length)
        known.append(chosen)
        same = [name] if name == "labels" else [n for n, t in inputs.items() if n != "labels" and t.shape[-1] == length]
        cut |= {n: _end(inputs[n], chosen) for n in same if length}
    training = {module: module.training for module in model.modules()}
    model.eval()  # nothing is drawn, and no running statistics change
    try:
        with torch.enable_grad(), _Counting(known[0], known[1]) as counting:
            model(**cut)
    finally:
        for module, mode in training.items():
            module.training = mode
    return np.divide(counting.found, amounts(cut), out=np.zeros((2, len(UNITS))), where=amounts(cut) > 0)


def _end(value: Tensor, length: int) -> Tensor:
    """The last tokens, where some models look for the end token; of a mask of pairs of tokens, both ways."""
    return value[..., -length:, -length:] if value.ndim == 4 else value[..., -length:]


class _Counting(TorchFunctionMode):
    """Adds up the operations of all products, by what they grow with: a text of `read` tokens, one of `written`."""

    def __init__(self, read: int, written: int) -> None:
        super().__init__()
        self.read = read
        self.written = written
        self.found = np.zeros((2, len(UNITS)))

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        given = [*args, *(kwargs or {}).values()]
        if name in PRODUCTS:
            tensors = [value for value in given if isinstance(value, Tensor)]
            left, right = tensors[1:3] if name in ("addmm", "baddbmm") else tensors[:2]
            self._add((*out.shape, left.shape[-1]), left, right)
        elif name in CONVOLUTIONS:
            entering, weight = given[:2]
            sizes = (*out.shape, weight[0].numel()) if "transpose" not in name else (*entering.shape, weight[0].numel())
            self._add(sizes, entering, weight)
        elif name == "scaled_dot_product_attention":
            query, key, value = given[:3]
            self._add((*query.shape, key.shape[-2]), query, key)
            self._add((*out.shape, key.shape[-2]), query if query.requires_grad else key, value)
        elif name in RECURRENT:
            entering = args[0]
            matrices = next(a for a in args if isinstance(a, (list, tuple)) and a and a[0].ndim == 2)
            for weight in (each for each in matrices if each.ndim == 2):
                # What enters all but the first is of the layer's own making.
                self._add((*entering.shape[:-1], weight.numel()), entering if weight is matrices[0] else out[0], weight)
        return out

    def _add(self, sizes: Sequence[int], left: Tensor, right: Tensor) -> None:
        """A product of these two, which goes over all of these sizes."""
        gradients = int(left.requires_grad) + int(right.requires_grad)
        read = sum(bool(self.read) and size > 0 and size % self.read == 0 for size in sizes)
        written = sum(bool(self.written) and size > 0 and size % self.written == 0 for size in sizes)
        unit = {(0, 0): 0, (1, 0): 1, (0, 1): 2, (2, 0): 3, (0, 2): 4, (1, 1): 5}.get((read, written), 0)
        self.found[min(gradients, 1), unit] += 2.0 * math.prod(sizes) * (1 + gradients)


class Operations(Callback):
    """Counts the operations of this rank's training steps, and the seconds they take without the evaluations.

    `total` are those of the whole training; `here` and `seconds` those since it was last resumed.

    Args:
        model: what is trained, still on the CPU; its `models()`, where it is several with one backbone.
        frozen: what of it trains, and when.
    """

    def __init__(self, model: Any, frozen: FreezingCallback, data: TransferData) -> None:
        models = model.models() if isinstance(model, SharedModel) else [model]
        samples = [_sample(part) for part in (data.parts if isinstance(data, MixedData) else [data])]
        starts = sorted({0.0, *(start for start in frozen.plan.values() if start is not None)})
        self.rates: list[tuple[float, list[np.ndarray]]] = []
        for start in starts:
            with _asking_for_gradients(model, frozen, start):
                self.rates.append((start, [count(m, sample) for m, sample in zip(models, samples, strict=True)]))
        self.total = self.here = self.seconds = 0.0
        self._since = 0.0

    def of_a_step(self, inputs: dict[str, Any], epoch: float, number: int = 0, *, kept: bool = False) -> float:
        """Operations of one training step in this epoch on these inputs, which are of the data set of this number.

        Args:
            kept: whether what comes out of the frozen part is there already.
        """
        frozen, others = next(rates for start, rates in reversed(self.rates) if start <= epoch)[number]
        return float((others if kept else frozen + others) @ amounts(inputs))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        number = int(batch["set"][0]) if "set" in batch else 0
        features: Any = getattr(pl_module, "features", None)
        kept = features is not None and ("train", features.at.get(float(trainer.current_epoch))) in features.readers
        done = self.of_a_step(batch["inputs"], trainer.current_epoch, number, kept=kept)
        self.total += done
        self.here += done
        self._tick()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            if pl_module.device.type == "cuda":  # which may be some steps behind
                torch.cuda.synchronize(pl_module.device)
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total = state_dict["total"]


def _sample(data: TransferData) -> dict[str, Any]:
    """The inputs of the longest of the first training rows."""
    lengths = np.asarray(data.encoded["train"][:100]["length"])
    rows = Rows(data.encoded["train"], np.ones(len(data.encoded["train"])), data.seed)
    inputs: dict[str, Any] = data.collate([rows[int(lengths.argmax()), 1.0, 0]])["inputs"]
    return inputs


@contextmanager
def _asking_for_gradients(model: nn.Module, frozen: FreezingCallback, epoch: float) -> Iterator[None]:
    """Of what trains in this epoch; afterwards of what was asked for before."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for name, parameter in model.named_parameters():
        start = frozen.plan[name]
        parameter.requires_grad_(start is not None and start <= epoch)
    try:
        yield
    finally:
        for parameter, asked in before.items():
            parameter.requires_grad_(asked)
