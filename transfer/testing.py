"""The test split of a run that was trained with `test=false`: looked at later, once, without training again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from transfer import architecture, evaluation, freezing, hardware, legs, models, multitask, records, tasks
from transfer.config import Freezing
from transfer.errors import Problem, UserError
from transfer.plan import Plan
from transfer.progress import progress_bar, quiet
from transfer.records import Record
from transfer.tracking import Tracking

log = logging.getLogger(__name__)

# The weights of a scratch arm at the equal steps, kept until they are tested too; empty where they are the best ones.
EQUAL_WEIGHTS = "equal_steps.safetensors"


def postpone(folder: Path, equal: dict[str, torch.Tensor] | None) -> None:
    """Leave beside a run what its test will need apart from `model/`, and nothing that belongs to an earlier test."""
    (folder / evaluation.PREDICTIONS).unlink(missing_ok=True)
    (folder / EQUAL_WEIGHTS).unlink(missing_ok=True)
    if equal is not None:
        # Tied weights share their memory, which safetensors does not write.
        save_file({name: tensor.clone().contiguous() for name, tensor in equal.items()}, folder / EQUAL_WEIGHTS)


def test(plan: Plan, record: Record) -> None:
    """Add test metrics, predictions and floors to a complete run. Its record is replaced last, whole or not at all.

    Raises:
        UserError: the weights of the run are gone.
    """
    quiet()
    folder = Path(record["_folder"])
    log.info("%s is trained: testing it", folder)
    leg = legs.load(plan)
    task = tasks.make(plan.task, leg.splits.labels, key=f"{plan.leg}.task")
    task.fit(leg.train)
    further = multitask.load(plan, task)
    tokenized = "features" not in leg.train.column_names
    model, tokenizer = _load(folder / "model", task, tokenized=tokenized)
    model = multitask.restore(plan, further, folder / "model", model)
    limit = architecture.input_limit(model.config, tokenizer)
    data = legs.batches(plan, leg, task, tokenizer, limit, splits=["test"])
    data = multitask.mix(plan, further, data, limit, splits=["test"])
    frozen = freezing.FreezingCallback(model, freezing.make(model, Freezing()))
    module = multitask.module(further, model, task, plan, frozen)
    equal = load_file(folder / EQUAL_WEIGHTS) if (folder / EQUAL_WEIGHTS).is_file() else None
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predictions = evaluation.Predictions()
    tested = {name: value for name, value in record.items() if name != "_folder"}
    tested["metrics"] = record["metrics"] | evaluation.test(
        of_one_device(plan, folder), module, data, best, equal, predictions
    )
    floors = evaluation.floors(plan, task, leg.by_split, leg.subset_hash) if plan.arm and plan.config.floors else {}
    evaluation.add_floor_metrics(tested, task, floors, leg.splits.test)
    evaluation.write_predictions(folder, task, leg.splits.test, predictions, floors)
    tracking = Tracking(plan, folder, curves=False)
    try:
        tracking.summarise(tested)
        tracking.log_model(tested)
    finally:
        tracking.finish(0)
    records.write(folder, tested)
    (folder / EQUAL_WEIGHTS).unlink(missing_ok=True)


def _load(folder: Path, task: Any, *, tokenized: bool) -> tuple[Any, Any]:
    models.register()
    auto = getattr(transformers, task.auto_class)
    try:
        model = auto.from_pretrained(folder, dtype=torch.float32)
        return model, task.load_tokenizer(folder) if tokenized else None
    except OSError as error:
        reason = str(error).splitlines()[0]
        allowed, action = "the weights of the run, to be tested", f"force=true trains it again ({reason})"
        raise UserError(Problem(str(folder), "nothing that can be loaded", allowed, action)) from error


def of_one_device(plan: Plan, folder: Path) -> Trainer:
    """Of one device: every row is looked at once, so that more of them would change nothing but the time."""
    settings, bar = plan.trainer, progress_bar()
    return Trainer(
        accelerator=settings.accelerator,
        devices=1,
        plugins=hardware.one_process(),
        precision=hardware.precision(settings.precision, settings.accelerator),  # type: ignore[arg-type]
        limit_test_batches=settings.limit_eval_batches,
        default_root_dir=folder,
        logger=False,
        callbacks=[bar] if bar else [],
        enable_progress_bar=bar is not None,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
