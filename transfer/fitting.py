"""One training with its test: the Trainer, the callbacks, and what comes of them."""

from __future__ import annotations

import functools
import logging
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from transfer import (
    adaptation,
    evaluation,
    freezing,
    hardware,
    interruption,
    ranks,
    sharding,
    testing,
)
from transfer.averaging import AveragedWeights
from transfer.checkpoints import LAST, BestWeights, PatientStopping, Resumable
from transfer.data.module import TransferData
from transfer.errors import Problem, UserError
from transfer.gradients import GradientNorms
from transfer.identity import local_folder
from transfer.module import TransferModule
from transfer.plan import Plan
from transfer.prefix import together
from transfer.progress import progress_bar
from transfer.tracking import Tracking

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What came of training and testing."""

    trainer: Trainer
    tracking: Tracking
    best: BestWeights
    metrics: dict[str, float]
    predictions: evaluation.Predictions
    train_s: float
    rank_checksums: list[str]
    parameters: dict[str, int]
    averaging: dict[str, Any] | None = None
    num_together: int = 1


def fit_and_test(
    plan: Plan, module: TransferModule, data: TransferData, callbacks: list[Callback], parent: Path | None
) -> Outcome:
    """Fit and test, with these callbacks before all others; adapters are merged in between."""
    tracking = Tracking(plan, plan.folder)
    try:
        best = BestWeights(plan.task.monitor, plan.task.mode)
        mean = None if plan.averaging.name == "none" else AveragedWeights(plan.averaging)
        equal = _within_equal_steps(plan, data)
        keeping = [*callbacks, *(each for each in (mean, best, equal) if each is not None)]
        trainer = trainer_of(plan, callbacks_of(plan, module, keeping, tracking), tracking)
        clock = time.monotonic()
        shared = together.adopt(plan, trainer, module, best)
        if shared is None:
            fit(plan, trainer, module, data, best)
        averaged = mean.evaluate(trainer, module, data, best) if mean else None
        train_s = time.monotonic() - clock + (shared["train_s"] if shared else 0.0)
        checksums = ranks.require_equal_weights(trainer, module.model, best.weights)
        counts = freezing.counts(module.freezing.plan, module.model)
        _merge(plan, module, best, parent, write=trainer.is_global_zero)
        metrics = dict(best.metrics)
        metrics["num_steps"] = float(best.step)
        predictions = evaluation.Predictions()
        others = None if equal is None else equal.weights if equal.step != best.step else {}
        if plan.config.test:
            metrics |= evaluation.test(trainer, module, data, best.weights, others, predictions)
        else:
            sharding.load(module.model, best.weights)
            if trainer.is_global_zero:
                testing.postpone(plan.folder, others)
        num_together = shared["together"] if shared else 1
        return Outcome(
            trainer, tracking, best, metrics, predictions, train_s, checksums, counts, averaged, num_together
        )
    except BaseException:
        tracking.finish(1)
        raise


def fit(plan: Plan, trainer: Trainer, module: Any, data: Any, best: BestWeights) -> None:
    if plan.freezing.policy == "all":
        with interruption.through_lightning():
            trainer.validate(module, datamodule=data, verbose=False)
        return
    last = plan.folder / LAST
    if last.is_file():
        log.info("going on from %s", last)
        if not zipfile.is_zipfile(last):
            received, action = f"{last.stat().st_size:,} bytes, cut off", "delete it to train the run from its start"
            raise UserError(Problem(str(last), received, "a checkpoint that can be read", action))
    with interruption.through_lightning():
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=str(last) if last.is_file() else None,
            weights_only=False if last.is_file() else None,
        )
    if trainer.interrupted:
        raise KeyboardInterrupt
    if best.seen_step != trainer.global_step:  # max_steps ended the training within an epoch
        with interruption.through_lightning():
            trainer.validate(module, datamodule=data, verbose=False)


def _within_equal_steps(plan: Plan, data: TransferData) -> BestWeights | None:
    """Keeps the best weights within the other arms' steps, for the scratch arm."""
    if plan.equal_epochs is None:
        return None
    within = plan.equal_epochs * min(data.num_batches, plan.trainer.limit_train_batches or data.num_batches)
    return BestWeights(plan.task.monitor, plan.task.mode, until_step=min(within, plan.budget.max_steps or within))


def callbacks_of(plan: Plan, module: Any, keeping: list[Callback], tracking: Tracking) -> list[Callback]:
    """All of a training's but the progress bar; ``keeping`` come first."""
    settings, budget, monitor = plan.trainer, plan.budget, f"val/{plan.task.monitor}"
    callbacks = [
        *keeping,
        Resumable(plan.folder, settings.checkpoint_every_s),
        GradientNorms(module.model, settings.log_every_n_steps),
    ]
    if budget.patience is not None:
        callbacks.append(PatientStopping(monitor, budget.patience, plan.task.mode, min_steps=budget.min_steps))
    if plan.config.search is not None and plan.config.search.pruner != "none":
        from transfer.sweep.pruning import Pruning

        callbacks.append(Pruning(plan.config.search, monitor))
    return [*callbacks, LearningRateMonitor("step"), *tracking.callbacks]


def trainer_of(plan: Plan, callbacks: list[Callback], tracking: Tracking) -> Trainer:
    settings, budget = plan.trainer, plan.budget
    hardware.exact_float32()
    bar = progress_bar()
    make = functools.partial(
        Trainer,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=sharding.strategy(settings),
        plugins=hardware.one_process() if settings.devices * settings.num_nodes == 1 else None,
        precision=hardware.precision(settings.precision, settings.accelerator),  # type: ignore[arg-type]
        max_epochs=budget.max_epochs,
        max_steps=budget.max_steps or -1,
        gradient_clip_val=settings.gradient_clip_val,
        log_every_n_steps=settings.log_every_n_steps,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_eval_batches,
        limit_test_batches=settings.limit_eval_batches,
        detect_anomaly=settings.detect_anomaly,
        deterministic=settings.deterministic,
        default_root_dir=plan.folder,
        logger=tracking.loggers,
        callbacks=[*callbacks, bar] if bar else callbacks,
        enable_progress_bar=bar is not None,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    try:
        return make()
    except (MisconfigurationException, ValueError) as error:
        received = f"accelerator={settings.accelerator}, devices={settings.devices}, strategy={settings.strategy}"
        allowed = "what Lightning's Trainer takes on this machine"
        raise UserError(Problem("trainer", received, allowed, str(error).splitlines()[0])) from error


def _merge(plan: Plan, module: TransferModule, best: BestWeights, parent: Path | None, *, write: bool) -> None:
    """Adapters become part of the best weights, so that what is tested and saved is a plain model."""
    if module.adapted is None:
        return
    module.model.load_state_dict(best.weights)
    if write:
        base = parent or plan.weights_from or local_folder(plan.model.name) or plan.model.name
        module.adapted.save(plan.folder / adaptation.FOLDER, str(base))
    module.adapted.merge()
    best.weights = sharding.held(module.model)
