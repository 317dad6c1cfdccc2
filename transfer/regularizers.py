"""What holds a target run near the weights that it starts from.

- `l2_sp` (Li, Grandvalet & Davoine 2018, equation 2): the loss gains ``alpha/2 * |w_S - w_S0|^2 + beta/2 * |w_new|^2``,
  with ``w_S`` what came from the source, ``w_S0`` its initial values and ``w_new`` the rest. Its gradient is added
  once a step, whatever the number of parts, processes or bits, before the gradient is clipped.
- `delta` (Li et al. 2019): the loss gains ``alpha`` times the squared distance between the features of each layer and
  those of the initial model on the same rows. The paper weighs a layer's channels by how much the source needs them;
  here all count alike (its DELTA without attention). Features are the hidden states of all layers; the distance is a
  mean over layers, tokens and channels, so that `alpha` means the same for every model.
- `mixout` (Lee, Cho & Kang 2020, equation 4): in every forward pass of the training, each entry of the backbone's
  weight matrices is the initial one with probability `p`, and the rest stands in for it, so that the mean stays. The
  model's dropout stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from transfer import parameters
from transfer.config import Regularizer
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward(Protocol):
    """A regularizer that takes part in the forward pass of the training."""

    def outputs(self, model: PreTrainedModel, inputs: dict[str, Any]) -> Any: ...

    def penalty(self, outputs: Any, batch: dict[str, Any]) -> Tensor | None:
        """What these rows add to the mean loss of the global batch."""


class L2SP(Callback):
    """Adds the penalty's gradient. `pulled` are the names of what came from the source."""

    def __init__(self, model: PreTrainedModel, settings: Regularizer, pulled: Iterable[str]) -> None:
        self.model = model
        self.settings = settings
        names = set(pulled)
        self.initial = {name: p.detach().clone() for name, p in model.named_parameters() if name in names}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        total = torch.zeros((), device=pl_module.device)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is None:  # frozen, or not yet awake
                continue
            factor: float = self.settings.beta
            offset: Tensor = parameter
            if name in self.initial:
                self.initial[name] = self.initial[name].to(parameter)
                factor, offset = self.settings.alpha, parameter - self.initial[name]
            parameter.grad.add_(offset, alpha=factor)
            total += factor / 2 * offset.square().sum()
        pl_module.log("train/penalty", total)


class Delta:
    """Features near those of the initial model, a copy of which looks at the same rows."""

    def __init__(self, model: PreTrainedModel, settings: Regularizer) -> None:
        self.alpha = settings.alpha
        self.source = copy.deepcopy(model).eval().requires_grad_(False)
        self.kind = model.config.model_type

    def outputs(self, model: PreTrainedModel, inputs: dict[str, Any]) -> Any:
        self.source.to(device=model.device, dtype=model.dtype)
        return model(**inputs, output_hidden_states=True)

    def penalty(self, outputs: Any, batch: dict[str, Any]) -> Tensor:
        inputs, share = batch["inputs"], batch["share"]
        with torch.no_grad():
            before = features(self.source(**inputs, output_hidden_states=True))
        now = features(outputs)
        if not now:
            allowed = "l2_sp or mixout: this model does not give its hidden states"
            raise UserError(Problem("regularizer.name", f"delta, with a model {self.kind}", allowed, ""))
        mask = inputs.get("attention_mask")
        rows = torch.stack([distances(a, b, mask, len(share)) for a, b in zip(now, before, strict=True)]).mean(dim=0)
        return self.alpha * (share.to(rows.dtype) * rows).sum()


def features(outputs: Any) -> list[Tensor]:
    """What each layer gives, of encoder and decoder; not the embeddings."""
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    return [states for name in names for states in (outputs.get(name) or ())[1:]]


def distances(now: Tensor, before: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    """[rows]: the mean squared difference of [rows * m, ...] features, without the tokens that `mask` leaves out."""
    squared = (now.float() - before.float()).square()
    if mask is not None and squared.ndim == 3 and mask.numel() == squared.shape[0] * squared.shape[1]:
        words = mask.reshape(squared.shape[:2]).to(squared.dtype)
        per_word = squared.mean(dim=2) * words
        return per_word.reshape(rows, -1).sum(dim=1) / words.reshape(rows, -1).sum(dim=1).clamp(min=1)
    return squared.reshape(rows, -1).mean(dim=1)


class Mixout:
    """Mixes the backbone's weight matrices with their initial values."""

    def __init__(self, model: PreTrainedModel, settings: Regularizer, pulled: Iterable[str]) -> None:
        self.p = settings.p
        inside, names = parameters.in_backbone(model), set(pulled)
        matrices = (f"{n}.weight" for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, Conv1D)))
        mixed = {name for name in matrices if inside(name) and name in names}
        self.initial = {name: p.detach().clone() for name, p in model.named_parameters() if name in mixed}
        if not self.initial:
            allowed = "l2_sp or delta: mixout is for linear and convolutional layers that come from the source"
            raise UserError(Problem("regularizer.name", f"mixout, with a model {model.config.model_type}", allowed, ""))

    def outputs(self, model: PreTrainedModel, inputs: dict[str, Any]) -> Any:
        mixed = {}
        for name, parameter in model.named_parameters():
            if name in self.initial and parameter.requires_grad:
                source = self.initial[name] = self.initial[name].to(parameter)
                # (M w + (1 - M) u - p u) / (1 - p), with M of mean 1 - p, is u + dropout(w - u)
                mixed[name] = source + F.dropout(parameter - source, self.p)
        return functional_call(model, mixed, args=(), kwargs=inputs)

    def penalty(self, outputs: Any, batch: dict[str, Any]) -> None:
        return None


def make(model: PreTrainedModel, settings: Regularizer, new: Iterable[str]) -> tuple[Forward | None, L2SP | None]:
    """The chosen regularizer, as what takes part in the forward pass or as a callback.

    Args:
        new: names of tensors without initial weights.

    Raises:
        UserError: it does not fit this model.
    """
    apart = set(new)
    pulled = [name for name, _ in model.named_parameters() if name not in apart]
    if settings.name == "l2_sp":
        return None, L2SP(model, settings, pulled)
    if settings.name == "delta":
        return Delta(model, settings), None
    if settings.name == "mixout":
        return Mixout(model, settings, pulled), None
    return None, None
