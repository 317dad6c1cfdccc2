"""Weights from a source into a target model, with every tensor of both accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer import parameters
from transfer.config import Weights
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SHOWN = 8


@dataclass
class WeightReport:
    """Names in the target that were loaded or reinitialised, names in the source that were dropped.

    `fraction_loaded` is counted in elements, over the target's backbone (over the whole model where it has no backbone
    tensors), since a new head is normal.
    """

    loaded: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    fraction_loaded: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        new = f", new: {_shorten(self.reinitialised)}" if self.reinitialised else ""
        left = f", left behind: {_shorten(self.dropped)}" if self.dropped else ""
        return f"{len(self.loaded)} tensors loaded ({self.fraction_loaded:.0%} of the backbone){new}{left}"


def read_state(path: Path, *, key: str = "init") -> dict[str, Tensor]:
    """The tensors of a model folder, a .safetensors file or a torch state dict, on the CPU.

    Raises:
        UserError: nothing there can be read as weights.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [path]
    if path.is_dir():
        files = (
            sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin")) or sorted(path.glob("*.pth"))
        )
        if not files:
            raise UserError(
                Problem(key, path, "a folder with *.safetensors, pytorch_model*.bin or *.pth", "choose a model folder")
            )
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            found: Any = (
                load_file(file)
                if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True)
            )
        except (
            SafetensorError,
            OSError,
            RuntimeError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise UserError(_unreadable(key, file, error)) from error
        except Exception as error:  # pickle's own errors have no narrower common type
            raise UserError(_unreadable(key, file, error)) from error
        if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
            found = found["state_dict"]
        if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
            raise UserError(
                Problem(key, file, "a mapping of names to tensors", "save model.state_dict(), best as .safetensors")
            )
        state.update(found)
    return state


def _unreadable(key: str, file: Path, error: Exception) -> Problem:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    size = file.stat().st_size if file.exists() else 0
    return Problem(
        key,
        f"{file} ({size:,} bytes): {reason}",
        "weights that can be read (.safetensors, or a torch state dict)",
        "the file may be cut off: copy it again",
    )


def transfer(
    source: Mapping[str, Tensor], model: PreTrainedModel, rules: Weights, *, with_head: bool, key: str = "init"
) -> WeightReport:
    """Copy into `model` every source tensor that the rules let through and whose name and shape fit.

    Names are first renamed (`rules.rename`: regex -> replacement, in order, `re.sub`), then must match one of `include`
    and none of `exclude` (full match). A backbone saved on its own is found under the model's backbone prefix, and a
    model that is a backbone on its own finds its weights in a whole model.

    The top layers that `reinit_top_k` counts, and what stands above them in the backbone, stay as they were drawn at
    random (Zhang et al. 2021, section 5).

    Args:
        with_head: whether the source predicts the same labels, so that its head means the same here.

    Raises:
        UserError: no tensor fits, less than `min_fraction_loaded` of the backbone does, or it has not so many layers.
    """
    import torch

    target = model.state_dict()
    prefix, inside = parameters.backbone_prefix(model), parameters.in_backbone(model)
    own = f"{model.base_model_prefix}."
    report = WeightReport()
    chosen: dict[str, Tensor] = {}
    came_as: dict[str, str] = {}
    shapes: dict[str, str] = {}
    for name, tensor in source.items():
        renamed = _rename(name, rules.rename)
        goal = next((n for n in (renamed, prefix + renamed, renamed.removeprefix(own)) if n in target), renamed)
        if goal not in target or goal in chosen or not _passes(goal, rules) or not (with_head or inside(goal)):
            report.dropped.append(name)
        elif tensor.shape != target[goal].shape:
            report.dropped.append(name)
            shapes[goal] = f"{list(tensor.shape)} -> {list(target[goal].shape)}"
        else:
            chosen[goal] = tensor
            came_as[goal] = name
    _account(report, target, model, chosen, inside)
    _require_enough(report, shapes, rules, inside, key)
    if rules.reinit_top_k:
        layers = top_layers(model, rules.reinit_top_k)
        for goal in [name for name in chosen if name in layers]:
            del chosen[goal]
            report.dropped.append(came_as[goal])
        _account(report, target, model, chosen, inside)
    with torch.no_grad():
        model.load_state_dict({name: tensor.to(target[name].dtype) for name, tensor in chosen.items()}, strict=False)
    return report


def _account(
    report: WeightReport,
    target: Mapping[str, Tensor],
    model: PreTrainedModel,
    chosen: Mapping[str, Tensor],
    inside: Callable[[str], bool],
) -> None:
    tied = _tied(model, chosen)
    report.loaded = [name for name in target if name in chosen or name in tied]
    report.reinitialised = [name for name in target if name not in chosen and name not in tied]
    report.fraction_loaded = _fraction(target, report.loaded, inside)


def top_layers(model: PreTrainedModel, k: int) -> set[str]:
    """Names of the tensors of the backbone's top `k` layers and of what stands above them, running means included.

    Raises:
        UserError: there are fewer layers.
    """
    depths = {name: depth for name, depth in parameters.depths(model).items() if depth is not None}
    top = max(depths.values(), default=0)
    if k > top:
        allowed = f"0 to {top}: this model has {top} layers above its embeddings"
        raise UserError(Problem("weights.reinit_top_k", k, allowed, "stage=scratch starts all of them at random"))
    modules = {name.rpartition(".")[0] for name, depth in depths.items() if depth > top - k}
    return {name for name in model.state_dict() if name.rpartition(".")[0] in modules}


def _rename(name: str, rules: Mapping[str, str]) -> str:
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def _passes(name: str, rules: Weights) -> bool:
    included = any(re.fullmatch(pattern, name) for pattern in rules.include)
    return included and not any(re.fullmatch(pattern, name) for pattern in rules.exclude)


def _tied(model: PreTrainedModel, chosen: Mapping[str, Tensor]) -> set[str]:
    """Names that share their storage with a chosen one, so that loading that one loads them too."""
    state = model.state_dict()
    stores = {state[name].data_ptr() for name in chosen if state[name].numel()}
    return {name for name, tensor in state.items() if tensor.numel() and tensor.data_ptr() in stores}


def _fraction(target: Mapping[str, Tensor], loaded: list[str], inside: Callable[[str], bool]) -> float:
    names = [name for name in target if inside(name)] or list(target)
    total = sum(target[name].numel() for name in names)
    here = set(loaded)
    return sum(target[name].numel() for name in names if name in here) / max(total, 1)


def _require_enough(
    report: WeightReport, shapes: Mapping[str, str], rules: Weights, inside: Callable[[str], bool], key: str
) -> None:
    if report.loaded and report.fraction_loaded >= rules.min_fraction_loaded:
        return
    backbone = [name for name in report.reinitialised if inside(name)]
    missing = [f"{name} (shape {shapes[name]})" if name in shapes else name for name in backbone]
    received = f"weights of which {report.fraction_loaded:.1%} of the backbone could be loaded"
    lines = [
        f"in the model, not in the source: {_shorten(missing, '- ')}",
        f"in the source, not in the model: {_shorten(report.dropped, '+ ')}",
    ]
    raise UserError(
        Problem(
            key,
            received if report.loaded else "weights that share no tensor with the model",
            f"at least {rules.min_fraction_loaded:.0%} (weights.min_fraction_loaded)"
            if report.loaded
            else "weights of the same architecture",
            "use the source's own architecture, or map names with weights.rename. " + "; ".join(lines),
        )
    )


def _shorten(names: list[str], sign: str = "") -> str:
    shown = ", ".join(sign + name for name in names[:SHOWN])
    return f"{shown}, and {len(names) - SHOWN} more" if len(names) > SHOWN else shown or "nothing"
