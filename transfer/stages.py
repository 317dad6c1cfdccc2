"""Which leg trains, on what, from which weights: one run of any stage, down to its record."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from transfer import (
    adaptation,
    architecture,
    compiling,
    evaluation,
    freezing,
    hardware,
    initial,
    legs,
    multitask,
    parameters,
    predict,
    recording,
    records,
    regularizers,
    sharding,
    tasks,
)
from transfer.checkpoints import BestWeights
from transfer.errors import Problem, UserError
from transfer.fewshot import stage as meta_stage
from transfer.fitting import fit_and_test
from transfer.module import TransferModule
from transfer.operations import Operations
from transfer.plan import Plan
from transfer.prefix import cache as prefix
from transfer.progress import quiet
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
    if plan.meta.algorithm != "none":
        meta_stage.train(plan, parent)
        return
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
    outcome = fit_and_test(plan, module, data, callbacks, parent)
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
