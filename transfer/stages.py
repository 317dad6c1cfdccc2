"""Which leg trains, on what, from which weights: one run of any stage, down to its record."""

from __future__ import annotations

import functools
import logging
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from transfer import (
    adaptation,
    architecture,
    compiling,
    evaluation,
    freezing,
    hardware,
    initial,
    interruption,
    legs,
    multitask,
    parameters,
    predict,
    ranks,
    recording,
    records,
    regularizers,
    sharding,
    tasks,
    testing,
)
from transfer.averaging import AveragedWeights
from transfer.checkpoints import LAST, BestWeights, PatientStopping, Resumable
from transfer.data.module import TransferData
from transfer.errors import Problem, UserError
from transfer.gradients import GradientNorms
from transfer.identity import local_folder
from transfer.module import TransferModule
from transfer.operations import Operations
from transfer.plan import Plan
from transfer.prefix import cache as prefix
from transfer.prefix import together
from transfer.progress import progress_bar, quiet
from transfer.tracking import Tracking
from transfer.weights import WeightReport

log = logging.getLogger(__name__)


def train(plan: Plan, parent: Path | None, splits: int | None = None, watching: Sequence[Callback] = ()) -> None:
    """Train, test once, write predictions, weights and the record.

    Args:
        plan: the run.
        parent: the model folder that it starts from.
        splits: into how many parts a step is cut, where memory has run out before.
        watching: callbacks that only look.

    Raises:
        UserError: for what is wrong with data, model or weights, before any training.
    """
    started, clock = records.now(), time.monotonic()
    hardware.forget_peak_memory()
    quiet()
    leg = legs.load(plan)
    for note in leg.splits.notes + legs.overlap(plan, leg).leaks:
        log.info("%s", note)
    task = tasks.make(plan.task, leg.splits.labels, key=f"{plan.leg}.task")
    task.fit(leg.train)
    further = multitask.load(plan, task)
    model, tokenizer, report = initial.initial(plan, task, leg.train, lambda: legs.vocabulary_texts(plan), parent)
    adapted = adaptation.adapt(model, plan.adaptation, report.reinitialised, seed=plan.seeds.init)
    regularizer, l2_sp = regularizers.make(model, plan.regularizer, report.reinitialised)
    whole = multitask.share(plan, further, model, tokenizer, parent)
    frozen = freezing.FreezingCallback(whole, freezing.make(whole, plan.freezing, adapted))
    _require_trained_head(plan, model, report)
    if plan.trainer.strategy == "fsdp":
        sharding.blocks(model)
    limit = architecture.input_limit(model.config, tokenizer)
    data = multitask.mix(plan, further, legs.batches(plan, leg, task, tokenizer, limit), limit)
    log.info("weights: %s", report.summary())
    for note in _on_new_weights(plan, model, report, frozen.plan):
        log.info("%s", note)
    names = ", ".join([f"freezing={plan.freezing.policy}", *([plan.adaptation.name] if adapted else [])])
    log.info("%s: %s", names, freezing.describe(frozen.plan, whole))
    frozen.prepare(distributed=plan.trainer.devices * plan.trainer.num_nodes > 1)
    plain = adapted is None and regularizer is None and l2_sp is None and not further
    features = prefix.make(plan, frozen, data, plain=plain)
    module = multitask.module(further, whole, task, plan, frozen, splits, adapted, regularizer, features)
    counted = Operations(whole, frozen, data)
    hardware.channels_last(whole)
    compiling.apply(plan, whole, counted, data, kept=features is not None)
    callbacks = [frozen, *([l2_sp] if l2_sp else []), counted, *watching]
    outcome = _fit_and_test(plan, module, data, callbacks, parent)
    try:
        record = recording.describe(plan, leg, module, report, outcome, started) | multitask.describe(further, data)
        with_floors = plan.arm and plan.config.floors and plan.config.test
        floors = evaluation.floors(plan, task, leg.by_split, leg.subset_hash) if with_floors else {}
        evaluation.add_floor_metrics(record, task, floors, leg.splits.test)
        if outcome.trainer.is_global_zero:
            model_folder = _save_model(plan, module, outcome.best, tokenizer, data.max_length)
            outcome.tracking.summarise(record)
            if plan.config.test:
                evaluation.write_predictions(plan.folder, task, leg.splits.test, outcome.predictions, floors)
                outcome.tracking.log_model(record)
            log.info("best weights: %s", model_folder)
        record["time"]["wall_s"] = round(time.monotonic() - clock, 3)
    except BaseException:
        outcome.tracking.finish(1)
        raise
    outcome.tracking.finish(0)
    if outcome.trainer.is_global_zero:
        records.write(plan.folder, record)
        shutil.rmtree(plan.folder / "checkpoints", ignore_errors=True)


def _require_trained_head(plan: Plan, model: Any, report: WeightReport) -> None:
    inside = parameters.in_backbone(model)
    new = [name for name in report.reinitialised if not inside(name)]
    if plan.freezing.policy == "all" and new:
        raise UserError(
            Problem(
                "freezing.policy",
                "all",
                "a head that comes trained from the source (same labels)",
                f"nothing would train and the head is new ({', '.join(new)}): freezing=head_only trains it alone",
            )
        )


def _on_new_weights(plan: Plan, model: Any, report: WeightReport, frozen: freezing.Plan) -> list[str]:
    """Why a run from a source has a new head, and what of the backbone is neither from the source nor trained."""
    if plan.parent is None:
        return []
    inside = parameters.in_backbone(model)
    notes = []
    if plan.parent.task.name != plan.task.name and not all(map(inside, report.reinitialised)):
        notes.append(f"the head is new: the source's task is {plan.parent.task.name}")
    stuck = [name for name in report.reinitialised if inside(name) and name in frozen and frozen[name] is None]
    if stuck:
        names = ", ".join(stuck)
        notes.append(f"freezing={plan.freezing.policy} leaves as they were drawn at random, not in the source: {names}")
    return notes


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


def _fit_and_test(
    plan: Plan, module: TransferModule, data: TransferData, callbacks: list[Callback], parent: Path | None
) -> Outcome:
    """Fit and test, with these callbacks before all others; adapters are merged in between."""
    tracking = Tracking(plan, plan.folder)
    try:
        best = BestWeights(plan.task.monitor, plan.task.mode)
        mean = None if plan.averaging.name == "none" else AveragedWeights(plan.averaging)
        equal = _within_equal_steps(plan, data)
        keeping = [*callbacks, *(each for each in (mean, best, equal) if each is not None)]
        trainer = _trainer(plan, _callbacks(plan, module, keeping, tracking), tracking)
        clock = time.monotonic()
        shared = together.adopt(plan, trainer, module, best)
        if shared is None:
            _fit(plan, trainer, module, data, best)
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


def _fit(plan: Plan, trainer: Trainer, module: TransferModule, data: TransferData, best: BestWeights) -> None:
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
    within = plan.equal_epochs * data.num_batches
    return BestWeights(plan.task.monitor, plan.task.mode, until_step=min(within, plan.budget.max_steps or within))


def _callbacks(plan: Plan, module: TransferModule, keeping: list[Callback], tracking: Tracking) -> list[Callback]:
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


def _trainer(plan: Plan, callbacks: list[Callback], tracking: Tracking) -> Trainer:
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


def _save_model(plan: Plan, module: TransferModule, best: BestWeights, tokenizer: Any, max_length: int) -> Path:
    """The Hugging Face folder of the best weights, which the module holds, whole or not at all."""
    final, new = plan.folder / "model", plan.folder / ".model.new"
    shutil.rmtree(new, ignore_errors=True)
    module.model.save_pretrained(new, state_dict=dict(best.weights) if plan.trainer.strategy == "fsdp" else None)
    if tokenizer is not None:
        tokenizer.save_pretrained(new)
    predict.describe(new, module.task, plan.data.columns, max_length)
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
    return final
