"""The record of a finished run, put together from what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transfer import hardware, parameters, records
from transfer.config import to_plain
from transfer.data import files
from transfer.plan import Plan, data_name, has_data
from transfer.weights import WeightReport

if TYPE_CHECKING:
    from transfer.legs import Leg
    from transfer.module import TransferModule
    from transfer.stages import Outcome


def describe(
    plan: Plan, leg: Leg, module: TransferModule, report: WeightReport, outcome: Outcome, started: str
) -> dict[str, Any]:
    trainer, best = outcome.trainer, outcome.best
    frozen_total = parameters.counts(module.model)["total"]
    sizes = {name: parameter.numel() for name, parameter in module.model.named_parameters()}
    trainable = sum(size for name, size in sizes.items() if module.freezing.plan[name] is not None)
    return {
        "schema": records.SCHEMA,
        "run_id": records.run_name(plan.stage, plan.fingerprint),
        "fingerprint": plan.fingerprint,
        "experiment": plan.experiment,
        "stage": plan.stage,
        "arm": plan.arm,
        "status": "complete",
        "seed": plan.seed,
        "model": plan.model.name or plan.model.config.get("cell") or plan.model.config.get("model_type"),
        "freezing": plan.freezing.policy,
        "task": plan.task.name,
        "source": data_name(plan.config.source.data) if has_data(plan.config.source.data) else None,
        "target": data_name(plan.config.target.data) if has_data(plan.config.target.data) else None,
        "train_size": plan.data.train_size,
        "metrics": outcome.metrics,
        "monitor": {
            "name": f"val/{plan.task.monitor}",
            "mode": plan.task.mode,
            "best": best.metrics.get(f"val/{plan.task.monitor}"),
        },
        "parents": list(plan.parents),
        "weights": report.to_dict(),
        "parameters": {"total": frozen_total, "trainable": trainable},
        "data": {
            "fingerprint": files.fingerprint(plan.data, key=f"{plan.leg}.data"),
            "num_train": len(leg.train),
            "num_val": len(leg.splits.validation),
            "num_test": len(leg.splits.test),
            "subset_hash": leg.subset_hash,
        },
        "time": {"started": started, "wall_s": 0.0, "train_s": round(outcome.train_s, 3)},
        "throughput": {
            "examples_per_s": round(module.num_examples / max(outcome.train_s, 1e-9), 2),
            "tokens_per_s": round(module.num_tokens / max(outcome.train_s, 1e-9), 1),
        },
        "versions": hardware.versions(),
        "git": hardware.git(),
        "hardware": hardware.describe(plan.trainer.accelerator, plan.trainer.devices, str(trainer.precision)),
        "config": to_plain(plan.config),
    }
