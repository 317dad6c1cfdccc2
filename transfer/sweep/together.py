"""Jobs of a sweep that train nothing but a head on the same features: their heads are trained in one pass."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from transfer import records
from transfer import run as running
from transfer.errors import UserError
from transfer.identity import identity
from transfer.plan import Plan

log = logging.getLogger(__name__)

# What of a run's identity is its own where the heads of several are trained together.
OWN = ("optimizer", "scheduler", "clip")


def prepare(plans: Iterable[Plan]) -> None:
    """Train the heads of those that can be trained together; each of these jobs then has only to be tested.

    What goes wrong here goes wrong again, and is told, in the job itself.
    """
    for group in groups(plans):
        first = group[0]
        try:
            with records.lock(first.output_dir, f"heads-{_key(first)}"):
                _train(group)
        except (UserError, running.BusyError):
            continue


def groups(plans: Iterable[Plan]) -> list[list[Plan]]:
    """Plans that differ in optimizer, schedule, clipping and seeds alone, and train a head alone."""
    found: dict[str, list[Plan]] = {}
    for plan in plans:
        if _fits(plan):
            found.setdefault(_key(plan), []).append(plan)
    return [group for group in found.values() if len(group) > 1]


def _fits(plan: Plan) -> bool:
    trainer = plan.trainer
    alone = trainer.devices * trainer.num_nodes == 1 and trainer.accumulate_grad_batches == 1
    cut = trainer.limit_train_batches is not None or trainer.limit_eval_batches is not None
    methods = {plan.adaptation.name, plan.regularizer.name, plan.averaging.name}
    return (
        plan.freezing.policy == "head_only"
        and trainer.feature_cache
        and alone
        and not cut
        and methods == {"none"}
        and plan.config.search is None
        and plan.budget.tokens_per_batch is None
        and trainer.precision != "16-mixed"
    )


def _key(plan: Plan) -> str:
    shared = {name: value for name, value in identity(plan).items() if name not in OWN}
    shared["seeds"] = plan.seeds.data
    return records.fingerprint(shared | {"accelerator": plan.trainer.accelerator, "folder": str(plan.output_dir)})


def _train(group: list[Plan]) -> None:
    from transfer.prefix import together

    todo = [plan for plan in group if not (together.is_there(plan) or _begun(plan))]
    if len(todo) > 1:
        parent = running.trained_parent(todo[0])
        together.train(todo, parent)


def _begun(plan: Plan) -> bool:
    """Whether the run is complete, or was interrupted in a training of its own, with which it goes on."""
    record = records.read(plan.folder)
    return (record is not None and record["status"] == "complete") or (plan.folder / "checkpoints").is_dir()
