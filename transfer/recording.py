"""The record of a run, put together from its plan and from what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transfer import hardware, records
from transfer.config import OF_THE_CALL, to_plain
from transfer.data import files
from transfer.plan import Plan, data_name, has_data, source_name
from transfer.weights import WeightReport

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from transfer.fitting import Outcome
    from transfer.legs import Leg
    from transfer.module import TransferModule


def unfinished(plan: Plan, status: str, started: str, error: str = "") -> dict[str, Any]:
    """The record of a run that did not come to its end, with every field and what is known of it."""
    return _frame(plan, status, started) | ({"error": error} if error else {})


def _frame(plan: Plan, status: str, started: str) -> dict[str, Any]:
    """What stands in a record before anything has been trained."""
    monitor = f"val/{plan.task.monitor}"
    return {
        "schema": records.SCHEMA,
        "run_id": records.run_name(plan.stage, plan.fingerprint),
        "fingerprint": plan.fingerprint,
        "experiment": plan.experiment,
        "stage": plan.stage,
        "arm": plan.arm,
        "status": status,
        "seed": plan.seed,
        "model": plan.model.name or plan.model.config.get("cell") or plan.model.config.get("model_type"),
        "freezing": plan.freezing.policy,
        "task": plan.task.name,
        "source": source_name(plan.config),
        "target": data_name(plan.config.target.data) if has_data(plan.config.target.data) else None,
        "train_size": plan.data.train_size,
        "metrics": {},
        "monitor": {"name": monitor, "mode": plan.task.mode, "best": None},
        "parents": list(plan.parents),
        "weights": {"loaded": [], "reinitialised": [], "dropped": [], "fraction_loaded": 0.0},
        "parameters": {"total": 0, "trainable": 0},
        "data": {"fingerprint": files.fingerprint(plan.data, key=f"{plan.leg}.data"), **_fold(plan)},
        "time": {"started": started, "wall_s": 0.0, "train_s": 0.0},
        "throughput": {"examples_per_s": 0.0, "tokens_per_s": 0.0, "padding_fraction": 0.0, **_computed()},
        "memory": {"peak_rss_bytes": None, "peak_gpu_bytes": None},
        "versions": hardware.versions(),
        "git": hardware.git(),
        "hardware": {},
        "overrides": list(plan.config.overrides),
        "config": {name: value for name, value in to_plain(plan.config).items() if name not in OF_THE_CALL},
    }


def _utilisation(plan: Plan, trainer: Trainer) -> dict[str, float | None]:
    """What all ranks have computed in their training steps, and what part that is of what their devices can."""
    from transfer.operations import Operations
    from transfer.peak import matrix_peak

    counted = next((each for each in trainer.callbacks if isinstance(each, Operations)), None)  # type: ignore[attr-defined]
    if counted is None or not counted.seconds or not trainer.is_global_zero:
        return _computed()
    device = trainer.strategy.root_device.type
    peak = matrix_peak(str(trainer.precision), device, plan.config.cache_dir) * trainer.world_size
    per_s = counted.here / counted.seconds * trainer.world_size
    return _computed(counted.seconds, counted.total * trainer.world_size, per_s, peak)


def _computed(
    steps_s: float = 0.0, train_flops: float = 0.0, flops_per_s: float = 0.0, peak: float | None = None
) -> dict[str, float | None]:
    """Seconds in training steps, the operations in all of them and in a second, and those of the machine's peak."""
    return {
        "steps_s": round(steps_s, 3),
        "train_flops": float(f"{train_flops:.6g}"),
        "flops_per_s": float(f"{flops_per_s:.6g}"),
        "matrix_peak_flops_per_s": float(f"{peak:.6g}") if peak else None,
        "model_flops_utilisation": float(f"{flops_per_s / peak:.4g}") if peak else None,
    }


def _fold(plan: Plan) -> dict[str, Any]:
    """Which of how many folds was tested, in a cross-validation."""
    return {} if plan.data.folds is None else {"folds": plan.data.folds, "fold": plan.data.fold}


def describe(
    plan: Plan, leg: Leg, module: TransferModule, report: WeightReport, outcome: Outcome, started: str
) -> dict[str, Any]:
    """The record of a finished run; `time.wall_s` is filled in when it is written."""
    from transfer import legs

    trainer, best = outcome.trainer, outcome.best
    record = _frame(plan, "complete", started)
    record["metrics"] = outcome.metrics
    record["monitor"]["best"] = best.metrics.get(record["monitor"]["name"])
    record["weights"] = report.to_dict()
    record["parameters"] = outcome.parameters
    if module.features is not None:
        record["features"] = module.features.describe() | {"num_runs_together": outcome.num_together}
    if outcome.averaging is not None:
        record["averaging"] = outcome.averaging
    record["data"] |= {
        "num_train": leg.num_train,
        "num_val": len(leg.splits.validation),
        "num_test": len(leg.splits.test),
        "subset_hash": leg.subset_hash,
    }
    vocabulary = legs.overlap(plan, leg).vocabulary
    if vocabulary is not None:
        record["data"]["vocabulary_overlap"] = round(vocabulary, 4)
    record["time"]["train_s"] = round(outcome.train_s, 3)
    # Each rank counts its own share of every batch.
    record["throughput"] = {
        "examples_per_s": round(module.num_examples * trainer.world_size / max(outcome.train_s, 1e-9), 2),
        "tokens_per_s": round(module.num_tokens * trainer.world_size / max(outcome.train_s, 1e-9), 1),
        "padding_fraction": round(int(module.num_padding) / max(module.num_tokens, 1), 4),
        **_utilisation(plan, trainer),
    }
    record["memory"] = hardware.peak_memory()
    if module.splits != plan.trainer.accumulate_grad_batches:
        record["notes"] = [f"memory ran out: each batch of {plan.budget.batch_size} was cut in {module.splits} parts"]
    record["hardware"] = hardware.describe(plan.trainer.accelerator, plan.trainer.devices, str(trainer.precision))
    # As chosen, or as the first steps showed to be worth it.
    record["hardware"]["num_workers"] = getattr(trainer.train_dataloader, "num_workers", 0)
    if outcome.rank_checksums:
        record["hardware"]["rank_checksums"] = outcome.rank_checksums
    return record
