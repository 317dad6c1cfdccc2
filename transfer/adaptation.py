"""Parameter-efficient fine-tuning: adapters in a model while it trains, merged into its weights when it is done.

LoRA and (IA)^3 are those of the library peft; the parallel adapter is in `transfer.parallel_adapter`. What trains is
the adapters, the head, and whatever else had no initial weights. Merged, the model is the plain architecture again.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from transfer import parallel_adapter, parameters
from transfer.config import Adaptation
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

FOLDER = "adapter"
_NAME = "default"
# Query and value, key and value, and the second side of the feed-forward layer, where peft knows no usual targets.
_TARGETS = {
    "camembert": (["query", "value"], ["key", "value", "output.dense"], ["output.dense"]),
    "distilbert": (["q_lin", "v_lin"], ["k_lin", "v_lin", "ffn.lin2"], ["ffn.lin2"]),
    "electra": (["query", "value"], ["key", "value", "output.dense"], ["output.dense"]),
    "mpnet": (["attn.q", "attn.v"], ["attn.k", "attn.v", "output.dense"], ["output.dense"]),
    "vit": (["q_proj", "v_proj"], ["k_proj", "v_proj", "mlp.fc2"], ["mlp.fc2"]),
    "wav2vec2": (["q_proj", "v_proj"], ["k_proj", "v_proj", "output_dense"], ["output_dense"]),
}


@dataclass
class Adapted:
    """The adapters in a model. `new` are the names of its other parameters without initial weights, the head aside."""

    model: PreTrainedModel
    settings: Adaptation
    names: frozenset[str]
    new: frozenset[str]
    tuner: Any = None

    @property
    def decays(self) -> bool:
        """Whether decay leads back to the source: where (IA)^3 has learned nothing it multiplies by 1, not by 0."""
        return self.settings.name != "ia3"

    def merge(self) -> None:
        """Put the adapters into the weights of the model, which is then a plain one."""
        if self.tuner is None:
            parallel_adapter.merge(self.model)
        else:
            self.tuner.merge_and_unload()

    def save(self, folder: Path, base: str) -> None:
        """Leave adapters, head and what else was new in peft's format, to be opened on the weights of `base`."""
        if self.tuner is None:
            return
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        own = parameters.in_backbone(self.model)
        trained = {name for name, _ in self.model.named_parameters() if not own(name)} | self.new
        modules = list(_topmost(self.model, trained))
        state = self.model.state_dict()
        adapters = get_peft_model_state_dict(self.model, adapter_name=_NAME, save_embedding_layers=False)
        kept = {name: tensor for name, tensor in state.items() if name.startswith(tuple(f"{m}." for m in modules))}
        tensors = {f"base_model.model.{name}": tensor for name, tensor in {**adapters, **kept}.items()}
        settings = self.tuner.peft_config[_NAME].to_dict()
        settings |= {"base_model_name_or_path": base, "modules_to_save": modules or None, "inference_mode": True}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}, folder / "adapter_model.safetensors"
        )
        text = json.dumps(settings, indent=2, default=_plain, sort_keys=True)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def adapt(model: PreTrainedModel, settings: Adaptation, new: Iterable[str], *, seed: int) -> Adapted | None:
    """Insert the adapters that the settings name; None where they name none. The model answers as before.

    Args:
        new: names of tensors that had no initial weights.
        seed: of the adapters' own initial weights.

    Raises:
        UserError: the method does not fit this architecture, or the named modules are not there.
    """
    if settings.name == "none":
        return None
    before = [name for name, _ in model.named_parameters()]
    inside = parameters.in_backbone(model)
    new = {name for name in new if inside(name)}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        if settings.name == "adapter":
            parallel_adapter.insert(model, settings.r, settings.alpha, settings.dropout)
            tuner = None
        else:
            tuner = _inject(model, settings, new)
    old = set(before)
    names = [name for name, _ in model.named_parameters()]
    adapters = frozenset(name for name in names if name.replace(".base_layer.", ".") not in old)
    others = frozenset(name for name in names if name.replace(".base_layer.", ".") in new)
    return Adapted(model, settings, adapters, others, tuner)


def _inject(model: PreTrainedModel, settings: Adaptation, new: set[str]) -> Any:
    """peft's tuner, which holds the model with its adapters in place."""
    import peft

    own: dict[str, Any] = dict(settings.options)
    targets = settings.target_modules
    usual: Any = ([], [], [])
    for kind in {part.model_type for part in _configs(model)}:
        usual = tuple(dict.fromkeys([*have, *more]) for have, more in zip(usual, _usual(kind), strict=True))
    common: dict[str, Any] = {"exclude_modules": _untouched(model, new), "fan_in_fan_out": _has_conv1d(model)}
    if settings.name == "lora":
        config: Any = peft.LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=targets or list(usual[0]),
            **common,
            **own,
        )
        tuner: Any = peft.LoraModel
    else:
        # What is named is scaled at its output, which is the feed-forward layers' input where they are named so.
        second = own.pop("feedforward_modules", [] if targets else list(usual[2]))
        config = peft.IA3Config(target_modules=targets or list(usual[1]), feedforward_modules=second, **common, **own)
        tuner = peft.IA3Model
    if not config.target_modules:
        _refuse(model, settings, f"no usual targets are known for a model {model.config.model_type}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            return tuner(model, config, _NAME)
    except (ValueError, TypeError, NotImplementedError) as error:
        _refuse(model, settings, str(error).strip().splitlines()[0], error)


def _usual(kind: str) -> tuple[list[str], list[str], list[str]]:
    """Modules that LoRA adapts, that (IA)^3 scales, and those of the latter that it scales at their input."""
    from peft.utils import constants

    if kind in _TARGETS:
        return _TARGETS[kind]
    lora = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind, [])
    scaled = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind, [])
    second = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, [])
    return list(lora), list(scaled), list(second)


def _refuse(model: PreTrainedModel, settings: Adaptation, reason: str, cause: Exception | None = None) -> Any:
    inside = parameters.in_backbone(model)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, Conv1D)) and inside(f"{name}.weight")
    ]
    ends = list(dict.fromkeys(_ending(name) for name in layers))
    received = settings.target_modules or f"{settings.name}, with a model {model.config.model_type}"
    key = "adaptation.target_modules" if settings.target_modules or ends else "adaptation.name"
    allowed = f"modules of its backbone: {', '.join(ends)}" if ends else "another method: it has no layer to adapt"
    raise UserError(Problem(key, received, allowed, reason)) from cause


def _ending(name: str) -> str:
    """What stands behind the last number: the same in each layer."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :]) or name


def _configs(model: PreTrainedModel) -> list[Any]:
    return [model.config.encoder, model.config.decoder] if parameters.is_composed(model) else [model.config]


def _has_conv1d(model: PreTrainedModel) -> bool:
    return any(isinstance(module, Conv1D) for module in model.modules())


def _untouched(model: PreTrainedModel, new: set[str]) -> list[str] | None:
    """Modules that train as they are: the head, and what had no initial weights."""
    inside = parameters.in_backbone(model)
    names = {name for name, _ in model.named_parameters() if not inside(name)} | new
    return sorted({name.rpartition(".")[0] for name in names}) or None


def _topmost(model: nn.Module, names: set[str], prefix: str = "") -> Iterable[str]:
    """The topmost modules with parameters that are all among `names`."""
    for child, module in model.named_children():
        own = {f"{prefix}{child}.{name}" for name, _ in module.named_parameters()}
        if own and own <= names:
            yield f"{prefix}{child}"
        else:
            yield from _topmost(module, names, f"{prefix}{child}.")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
