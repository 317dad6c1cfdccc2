"""Fully sharded data parallel: each process holds a part of every weight, of its gradient and of the optimizer's state.

By torch's `fully_shard` (FSDP2), in Lightning's strategy for it. What leaves a training is whole: weights and
checkpoints are those that one process would have written, so that either can go on from the other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from transfer import parameters
from transfer.config import Trainer as Settings
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel


def strategy(settings: Settings) -> str | ShardedStrategy:
    """What Lightning's Trainer takes as its strategy."""
    if settings.strategy != "fsdp":
        return settings.strategy
    return ShardedStrategy(settings.devices * settings.num_nodes)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy, which the module asks to shard the model, with the checkpoints of one process.

    Lightning's own count the optimizer's parameters in the order of the model, those of one process in that of the
    groups; and they cannot be read where the optimizer has no state, as with plain SGD (2.6).
    """

    def __init__(self, num_processes: int) -> None:
        super().__init__(data_parallel_size=num_processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return held(self.lightning_module)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(
            Path(checkpoint_path), map_location="cpu", mmap=True, weights_only=weights_only
        )
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        load(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state: dict[str, Any] = apply_to_collection(optimizer.state_dict(), DTensor, lambda part: part.full_tensor())
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            members = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {
                number: {name: _part_like(members[number], value) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": parts})


def _part_like(parameter: Tensor, value: Any) -> Any:
    """This process's part of a state that is there for each entry of the parameter; other states are every one's."""
    if not (isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape):
        return value
    # Each process has read the whole, so that nothing has to be sent.
    moved = value.to(parameter.device)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The repeated layers of the backbone, each of which is gathered, used and given up again on its own.

    Raises:
        UserError: the model has none, or batch norms, whose means would be other ones in each process, or recurrent
            layers, which keep their weights in one piece.
    """
    inside = parameters.in_backbone(model)
    layers = (parameters.LAYER.fullmatch(name) for name, _ in model.named_parameters() if inside(name))
    names = dict.fromkeys(layer.string[: layer.end(1)] for layer in layers if layer)
    wrong = "" if names else "without repeated layers"
    for kind, called in ((_BatchNorm, "with batch norms"), (nn.RNNBase, "with recurrent layers")):
        if any(isinstance(module, kind) for module in model.modules()):
            wrong = called
    if wrong:
        received = f"fsdp, with a model {model.config.model_type} {wrong}"
        action = "trainer=ddp keeps the whole model in each process"
        raise UserError(Problem("trainer.strategy", received, "fsdp for models of transformer layers", action))
    return [model.get_submodule(name) for name in names]


def shard(model: PreTrainedModel, mesh: DeviceMesh, precision: str) -> None:
    """Shard the model over the processes of the mesh, unless that is done; parameters stay named as they were.

    Each layer and the rest are given up after the forward pass, so that outside of one every parameter is sharded.
    """
    if isinstance(model, FSDPModule):
        return
    policy = MixedPrecisionPolicy()
    if precision == "bf16-mixed":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    # The loss is taken in float32.
    outermost = replace(policy, output_dtype=torch.float32)
    fully_shard(model, mesh=mesh, reshard_after_forward=True, mp_policy=outermost)
    sharded: Any = model
    if model.can_generate():
        # It goes on in every process until the last one is done.
        sharded._is_fsdp_managed_module = True
        register_fsdp_forward_method(sharded, "generate")


def is_sharded(trainer: Trainer) -> bool:
    return isinstance(trainer.strategy, ShardedStrategy)


def held(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights in main memory.

    Of a sharded module the first process has all of them, whole, and the others their names and shapes; all processes
    have to ask.
    """
    state = module.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    first, found = torch.distributed.get_rank() == 0, {}
    tied = {name: id(parameter) for name, parameter in module.named_parameters(remove_duplicate=False)}
    gathered: dict[Any, Tensor] = {}
    for name, tensor in state.items():
        key = tied.get(name, name)
        if key not in gathered:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            gathered[key] = full.detach().to("cpu", copy=True) if first else full.detach().to("meta")
        found[name] = gathered[key]
    return found


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights, as `held` gives them, into the module; into a sharded one, those of the first process."""
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        module.load_state_dict(weights)
        return
    first = torch.distributed.get_rank() == 0
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, dict(weights) if first else {}, options=options)
