"""What the processes of one run have to agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

from transfer import sharding


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits of BLAKE2b over the names and the bytes of the tensors; a second for a gigabyte.

    Of sharded tensors all processes have to ask, and each sees them whole, one after another.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        flat = whole.cpu().contiguous().flatten()
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_equal_weights(trainer: Trainer, model: torch.nn.Module, best: Mapping[str, torch.Tensor]) -> list[str]:
    """The checksums of the ranks, all equal: of the parameters as training left them, and of the best weights.

    Ranks that drift apart train as many models as there are ranks and report the metrics of none: no number of such a
    run may be written. Of a sharded model the first rank alone has the best weights. Empty for one process.
    """
    if trainer.world_size == 1:
        return []
    sharded = sharding.is_sharded(trainer)
    assert sharded or isinstance(trainer.strategy, DDPStrategy), trainer.strategy
    # Buffers of the last steps (running means) may differ until the next forward pass; those of the best may not.
    own = checksum(dict(model.named_parameters())) + checksum({} if sharded else best)
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, own)
    require_equal(found)
    return found


def require_equal(checksums: Sequence[str]) -> None:
    """Raises AssertionError: every process has to end with the same weights."""
    assert len(set(checksums)) == 1, f"the processes of this run ended with different weights: {', '.join(checksums)}"
