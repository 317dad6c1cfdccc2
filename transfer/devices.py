"""What goes with several devices, and with models that are sharded over them: the checks of these settings."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.config import Config
from transfer.errors import Problem, nearest

# Others of Lightning's are not known to save whole weights, to test each row once or to go on after an interruption.
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")
PRECISIONS = ("auto", "32", "32-true", "bf16-mixed")
# Their step for an entry of a parameter depends on no other entry of it.
OPTIMIZERS = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.RMSprop", "torch.optim.SGD")


def problems(config: Config) -> Iterable[Problem]:
    """What is wrong with `trainer.strategy`, and with what is asked of it."""
    chosen = config.trainer.strategy
    if chosen not in STRATEGIES:
        meant = nearest(chosen, STRATEGIES)
        action = f"did you mean {meant}?" if meant else "trainer=ddp, or trainer=fsdp for a model that fills a device"
        yield Problem("trainer.strategy", chosen, ", ".join(STRATEGIES), action)
    elif chosen == "fsdp":
        yield from _sharded(config)


def _sharded(config: Config) -> Iterable[Problem]:
    trainer = config.trainer
    if trainer.devices == 1 and trainer.num_nodes == 1:
        action = "trainer.devices=2, or trainer=gpu for one"
        yield Problem("trainer.devices", 1, "at least 2 processes, with trainer.strategy=fsdp", action)
    if trainer.precision not in PRECISIONS:
        allowed = f"{', '.join(PRECISIONS)}, with trainer.strategy=fsdp"
        yield Problem("trainer.precision", trainer.precision, allowed, "trainer.precision=bf16-mixed")
    if trainer.halve_on_out_of_memory:
        # Where memory runs out in one process, the others wait for its part of the weights.
        action = "trainer=fsdp has it false; where memory runs out, set trainer.accumulate_grad_batches"
        yield Problem("trainer.halve_on_out_of_memory", True, "false, with trainer.strategy=fsdp", action)
    methods = {
        "adaptation": (config.adaptation.name, "adapters are small: trainer=ddp"),
        "regularizer": (config.regularizer.name, "it holds a second, whole set of weights: trainer=ddp"),
        "averaging": (config.averaging.name, "it holds a second, whole set of weights: trainer=ddp"),
    }
    for group, (name, action) in methods.items():
        if name != "none":
            yield Problem(f"{group}.name", name, "none, with trainer.strategy=fsdp", action)
    if further := config.source.also:
        action = "the heads of its data sets take turns, and each step asks for the weights of all: trainer=ddp"
        yield Problem("source.also", ", ".join(further), "nothing, with trainer.strategy=fsdp", action)
    for key, optimizer in {"source.optimizer": config.source.optimizer, "optimizer": config.optimizer}.items():
        if optimizer._target_ not in OPTIMIZERS:
            allowed = f"{', '.join(OPTIMIZERS)}, with trainer.strategy=fsdp"
            action = "its step looks at more than one entry of a parameter, or is not known not to"
            yield Problem(f"{key}._target_", optimizer._target_, allowed, action)
