"""`trainer.compile`: torch.compile, where it is asked for, or where a run is so long that it pays."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from transfer.config import Config
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from transfer.data.module import TransferData
    from transfer.operations import Operations
    from transfer.plan import Plan

log = logging.getLogger(__name__)

CHOICES = ("auto", "always", "never")
# Compiled models train 1.41 times as fast in the geometric mean of 180 on an A100 (Ansel et al. 2024, PyTorch 2). What
# compiling costs, with passes forward and backward, in training and in evaluation, is set high: not measured on a GPU.
GAIN, COST_S = 1.41, 180.0
# Of the matrix peak, what a small model in training steps comes to; less would be a longer run.
UTILISATION = 0.4
COMPILERS = ("g++", "clang++", "c++")


def problems(config: Config) -> Iterable[Problem]:
    """What does not go with `trainer.compile=always`."""
    trainer = config.trainer
    if trainer.compile not in CHOICES:
        yield Problem("trainer.compile", trainer.compile, ", ".join(CHOICES), "")
    if trainer.compile != "always":
        return
    if trainer.strategy == "fsdp":
        yield Problem("trainer.compile", "always", "auto or never, with trainer.strategy=fsdp", "")
    if config.source.also:
        yield Problem("trainer.compile", "always", "auto or never, with source.also", "its models share their modules")


def pays(seconds: float) -> bool:
    """Whether a run that takes so long as it is would be done sooner with its model compiled first."""
    return seconds - seconds / GAIN > COST_S


def apply(plan: Plan, model: Any, counted: Operations, data: TransferData, *, kept: bool) -> None:
    """Compile the model in its place; names and content of its state stay as they are.

    Args:
        kept: whether what comes out of the frozen part is read from disk.

    Raises:
        UserError: it has to be done, and cannot.
    """
    choice = plan.trainer.compile
    if choice == "never":
        return
    reason = _obstacle(kept=kept)
    if choice == "always" and reason:
        raise UserError(Problem("trainer.compile", "always", *reason))
    if choice == "auto" and (reason or not _is_worth_it(plan, model, counted, data)):
        return
    # Texts are of many lengths: without it each would be compiled for itself.
    model.compile(dynamic=not plan.data.columns.image)
    log.info("the model is compiled in its first steps")


def _obstacle(*, kept: bool) -> tuple[str, str] | None:
    """What is allowed in place of compiling, and what to do for it."""
    if kept:
        return "auto or never, where the outputs of the frozen part are kept", "trainer.feature_cache=false"
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "", *COMPILERS) if name):
        return "auto or never, on a machine without a C++ compiler", "install g++, or name another in CXX"
    return None


def _is_worth_it(plan: Plan, model: Any, counted: Operations, data: TransferData) -> bool:
    """On one GPU, by how long the run would take at the usual part of the matrix peak; on a CPU it is not.

    Neither is a decoder that writes in each evaluation, a word at a time, nor what changes while it trains.
    """
    import torch

    from transfer import hardware
    from transfer.peak import matrix_peak

    trainer = plan.trainer
    alone = trainer.devices * trainer.num_nodes == 1 and not plan.also and plan.regularizer.name == "none"
    fixed = plan.freezing.policy not in ("gradual", "all") and not model.config.is_encoder_decoder
    if trainer.accelerator == "cpu" or not torch.cuda.is_available() or not (alone and fixed):
        return False
    batch = next(iter(data.train_dataloader()))
    steps = plan.budget.max_steps or plan.budget.max_epochs * data.num_batches
    precision = hardware.precision(trainer.precision, trainer.accelerator)
    peak = matrix_peak(precision, "cuda", plan.config.cache_dir)
    return pays(steps * counted.of_a_step(batch["inputs"], 0) / (peak * UTILISATION))
