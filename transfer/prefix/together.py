"""A group of runs whose heads train together, and what of that each of them finds when its turn comes."""

from __future__ import annotations

import copy
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from transfer import architecture, freezing, initial, legs, parameters, progress, sharding, tasks, testing
from transfer.checkpoints import BestWeights
from transfer.freezing import FreezingCallback
from transfer.module import TransferModule
from transfer.plan import Plan
from transfer.prefix import cache
from transfer.prefix.cache import EVER, FeatureCache
from transfer.prefix.heads import Heads, Job, Subset
from transfer.prefix.stacking import NotTogetherError

log = logging.getLogger(__name__)

# Beside a run's checkpoints, and like them until its record is written.
TRAINED = "checkpoints/head.pt"


def train(plans: list[Plan], parent: Path | None) -> None:
    """Train the heads of these runs, and leave in the folder of each what `adopt` takes from there.

    Args:
        plans: that differ in optimizer, schedule and seeds alone.
        parent: the model folder that all start from.

    Raises:
        UserError: for what is wrong with data, model or weights.
    """
    progress.quiet()
    clock = time.monotonic()
    try:
        jobs = _fitted(plans, parent)
    except NotTogetherError as reason:
        log.info("%d runs are trained one by one: %s", len(plans), reason)
        return
    share = (time.monotonic() - clock) / len(jobs)
    for job in jobs:
        if not job.failed:
            _save(job, share, len(jobs))
    log.info("the heads of %d runs are trained together: %.1f s", len(jobs), time.monotonic() - clock)


def _fitted(plans: list[Plan], parent: Path | None) -> list[Job]:
    first = plans[0]
    device = testing.of_one_device(first, Path(first.output_dir))
    models = _Models(parent)
    made = []
    for plan in plans:
        leg = legs.load(plan)
        task = tasks.make(plan.task, leg.splits.labels, key=f"{plan.leg}.task")
        task.fit(leg.train)
        made.append((plan, leg, task, *models.of(plan, leg, task)))
    if len({_about_loss(task) for _, _, task, _, _ in made}) > 1:
        raise NotTogetherError("their losses are measured in units of their own labels")
    shared = made[0][3].to(device.strategy.root_device)
    frozen = FreezingCallback(shared, freezing.make(shared, first.freezing))
    frozen.prepare(distributed=False)
    subsets: dict[str, Subset] = {}
    jobs = []
    for plan, leg, task, model, tokenizer in sorted(made, key=lambda each: each[1].subset_hash):
        limit = architecture.input_limit(model.config, tokenizer)
        data = legs.batches(plan, leg, task, tokenizer, limit)
        if leg.subset_hash not in subsets:
            subsets[leg.subset_hash] = Subset(data, _features(plan, frozen, data, device), shared.device)
        jobs.append(Job(plan, task, data, model.to(shared.device), subsets[leg.subset_hash]))
    if len({len(subset.train["index"]) for subset in subsets.values()}) > 1:
        raise NotTogetherError("a long text is several rows, and so their subsets differ in size")
    Heads(jobs, frozen, device.precision_plugin).fit()
    return jobs


class _Models:
    """Models that share one backbone, each with the head that its run alone would begin with."""

    def __init__(self, parent: Path | None) -> None:
        self.parent = parent
        self.by_seed: dict[int, Any] = {}
        self.tokenizer: Any = None

    def of(self, plan: Plan, leg: Any, task: Any) -> tuple[Any, Any]:
        """The model of a run, and the tokenizer of all."""
        seed = plan.seeds.init
        if seed not in self.by_seed:
            model, self.tokenizer, report = initial.initial(
                plan, task, leg.train, lambda: legs.vocabulary_texts(plan), self.parent, tokenizer=self.tokenizer
            )
            if self.by_seed:
                if any(map(parameters.in_backbone(model), report.reinitialised)):
                    raise NotTogetherError("parts of their backbone are drawn by each seed anew")
                backbone = next(iter(self.by_seed.values())).base_model
                setattr(model, model.base_model_prefix, backbone)
            self.by_seed[seed] = model
            return model, self.tokenizer
        model = self.by_seed[seed]
        return copy.deepcopy(model, {id(model.base_model): model.base_model}), self.tokenizer


def _about_loss(task: Any) -> str:
    """What a task took from its training rows and measures the loss by; where a head begins is no part of it."""
    plain = {name: value for name, value in vars(task).items() if isinstance(value, float | torch.Tensor)}
    return repr({name: value for name, value in plain.items() if name != "mean"})


def _features(plan: Plan, frozen: FreezingCallback, data: Any, trainer: Trainer) -> FeatureCache:
    features = cache.make(plan, frozen, data, plain=True)
    if features is None or features.at[EVER] is None:
        raise NotTogetherError("nothing is kept of their frozen part")
    features.before_training(trainer)
    if any((split, features.at[EVER]) not in features.readers for split in ("train", "validation")):
        raise NotTogetherError("nothing is kept of their frozen part")
    return features


def _save(job: Job, train_s: float, together: int) -> None:
    path = job.plan.folder / TRAINED
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {name: getattr(job, name) for name in ("num_examples", "num_tokens", "num_padding")}
    best = job.best.state_dict() | {"seen_step": job.steps}
    kept = {"fingerprint": job.plan.fingerprint, "best": best, "history": job.history, "counts": counts}
    temporary = path.with_suffix(".writing")
    torch.save(kept | {"train_s": train_s, "together": together}, temporary)
    os.replace(temporary, path)


def is_there(plan: Plan) -> bool:
    """Whether the head of this run was trained together with others, and waits for its turn."""
    return (plan.folder / TRAINED).is_file()


def adopt(plan: Plan, trainer: Trainer, module: TransferModule, best: BestWeights) -> dict[str, Any] | None:
    """Take the head that was trained for this run as what came of its training; None where there is none.

    Returns:
        `train_s`, this run's share of the time, and with how many others it was shared.
    """
    if not is_there(plan):
        return None
    found = torch.load(plan.folder / TRAINED, weights_only=True)
    if found["fingerprint"] != plan.fingerprint:
        return None
    best.load_state_dict(found["best"])
    best.weights = sharding.held(module.model) | best.weights
    for name, value in found["counts"].items():
        setattr(module, name, value)
    for step, values in found["history"]:
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
    log.info("its head was trained together with those of %d other runs", found["together"] - 1)
    return {"train_s": found["train_s"], "together": found["together"]}
