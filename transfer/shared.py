"""Models that share one backbone, each with a head of its own: the first is the one that others know and save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from transfer import parameters

# In a model folder: of each further head its own tensors, and the config of the model that they complete.
HEADS = "heads"


class SharedModel(nn.Module):
    """A model, and the heads of further ones over its backbone.

    Parameters are `main.*` and, of head number i, `heads.i.*`; a tensor that several have is there once, under the
    first name. Part of a further head is also what its backbone has and the main one has not, such as BERT's pooler;
    where two further heads have that, they share it.

    Attributes:
        main: the model whose backbone it is.
        names: of the further heads.
    """

    def __init__(self, main: PreTrainedModel, others: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.main = main
        self.names = list(others)
        self.heads = nn.ModuleList(others.values())
        donors = [main]
        for other in others.values():
            for donor in donors:
                share(donor, other)
            other.tie_weights()
            donors.append(other)
        self._aliases = self._find_aliases()
        self.register_state_dict_post_hook(_without_aliases)
        self.register_load_state_dict_pre_hook(_with_aliases)

    @property
    def config(self) -> Any:
        return self.main.config

    @property
    def base_model(self) -> nn.Module:
        return self.main.base_model

    @property
    def base_model_prefix(self) -> str:
        """What the names of the backbone's tensors begin with, whether or not it is a module inside the main model."""
        return f"main.{parameters.backbone_prefix(self.main)}".rstrip(".")

    def models(self) -> list[PreTrainedModel]:
        """Each whole: the main model, then the further ones in their order."""
        return [self.main, *self.heads]  # type: ignore[list-item]

    def _find_aliases(self) -> dict[str, str]:
        """Names in `heads` -> the name under which their tensor is there already."""
        first: dict[int, str] = {}
        aliases = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            known = first.setdefault(id(tensor), name)
            if known != name and name.startswith("heads."):
                aliases[name] = known
        return aliases

    def own(self, name: str) -> dict[str, Tensor]:
        """The tensors that only this further head has, by their names in its model."""
        prefix = f"heads.{self.names.index(name)}."
        state = self.state_dict().items()
        return {key.removeprefix(prefix): tensor for key, tensor in state if key.startswith(prefix)}

    def save_pretrained(self, folder: Path, **options: Any) -> None:
        """The main model as transformers saves it, and each further head beside it."""
        self.main.save_pretrained(folder, **options)
        (folder / HEADS).mkdir()
        for name, model in zip(self.names, self.models()[1:], strict=True):
            # Copied, since tied tensors share their memory, which safetensors does not write.
            own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in self.own(name).items()}
            save_file(own, folder / HEADS / f"{name}.safetensors", metadata={"format": "pt"})
            model.config.architectures = [type(model).__name__]
            model.config.to_json_file(folder / HEADS / f"{name}.json")


def share(donor: PreTrainedModel, model: PreTrainedModel) -> None:
    """Put the donor's backbone into the model: every module that both have, with the same weights in it."""
    inside = parameters.in_backbone(model)
    prefix = parameters.backbone_prefix(model)
    _share(donor.base_model, model.base_model, lambda path: inside(prefix + path))


def _share(donor: nn.Module, module: nn.Module, inside: Callable[[str], bool], path: str = "") -> None:
    for name, child in list(module.named_children()):
        other, place = getattr(donor, name, None), f"{path}{name}."
        if not isinstance(other, nn.Module) or not inside(place):
            continue
        if type(other) is type(child) and _shapes(other) == _shapes(child):
            setattr(module, name, other)
        else:
            _share(other, child, inside, place)
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        other = getattr(donor, name, None)
        if isinstance(other, Tensor) and other.shape == tensor.shape and inside(f"{path}{name}"):
            setattr(module, name, other)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def missing(donor: PreTrainedModel, model: PreTrainedModel) -> list[str]:
    """Backbone tensors of either that the other has not in this shape, where neither backbone is a part of the other.

    BERT without its pooler is a part of BERT; a BERT of another width is none.
    """
    mine, theirs = _backbone_shapes(donor), _backbone_shapes(model)
    differing = {name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name]}
    if not differing and (mine.keys() <= theirs.keys() or theirs.keys() <= mine.keys()):
        return []
    return sorted(differing | (mine.keys() ^ theirs.keys()))


def _backbone_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    inside, prefix = parameters.in_backbone(model), parameters.backbone_prefix(model)
    return {name: shape for name, shape in _shapes(model.base_model).items() if inside(prefix + name)}


def _without_aliases(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, SharedModel)
    for name in module._aliases:
        state.pop(prefix + name, None)


def _with_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, SharedModel)
    for alias, name in module._aliases.items():
        if prefix + name in state:
            state[prefix + alias] = state[prefix + name]


def load(folder: Path, main: PreTrainedModel, tasks: Mapping[str, Any]) -> SharedModel:
    """The main model with the further heads that were saved beside it, each of which is of one of these tasks."""
    others = {}
    for name, task in tasks.items():
        config = AutoConfig.from_pretrained(folder / HEADS / f"{name}.json")
        others[name] = getattr(transformers, task.auto_class).from_config(config, dtype=torch.float32)
    shared = SharedModel(main, others)
    state = shared.state_dict()
    for number, name in enumerate(others):
        saved = load_file(folder / HEADS / f"{name}.safetensors")
        state |= {f"heads.{number}.{key}": tensor for key, tensor in saved.items()}
    shared.load_state_dict(state)
    return shared


def completed(
    folder: Path, state: dict[str, Tensor], task: Any, inside: Callable[[str], bool]
) -> tuple[dict[str, Tensor], bool]:
    """The weights in a folder whose main head predicts something else than this task, with what the further ones bring.

    That is their parts of the backbone (BERT's pooler), and the head itself of one that predicts the same.

    Args:
        inside: whether a name is one of the backbone, in the model that the weights are for.

    Returns:
        The weights, and whether their head predicts what this task does.
    """
    files = sorted((folder / HEADS).glob("*.safetensors"))
    heads = {file: load_file(file) for file in files}
    for head in heads.values():
        state = {name: tensor for name, tensor in head.items() if inside(name)} | state
    for file, head in heads.items():
        if task.same_head(AutoConfig.from_pretrained(file.with_suffix(".json"))):
            return state | head, True
    return state, False
