"""A meta run, from its plan to its record: trained on episodes, then tested on episodes of unseen classes."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from transfer import architecture, fitting, freezing, hardware, initial, legs, recording, records, tasks
from transfer.errors import Problem, UserError
from transfer.evaluation import Predictions
from transfer.fewshot import baselines, results
from transfer.fewshot.data import EpisodeData, pool, way_names
from transfer.fewshot.module import BestStart, MetaModule, restore
from transfer.plan import Plan
from transfer.predict import ABOUT
from transfer.progress import quiet
from transfer.tracking import Tracking
from transfer.weights import WeightReport

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """All that a meta run begins with; `first` is a copy of the model as it starts."""

    leg: legs.Leg
    data: EpisodeData
    module: MetaModule
    first: Any
    tokenizer: Any
    report: WeightReport


def prepare(plan: Plan, parent: Path | None) -> Prepared:
    """Data, model and module.

    Raises:
        UserError: for what is wrong with data, model or weights.
    """
    leg = legs.load(plan)
    found = pool(plan, leg.splits)
    for note in [*leg.splits.notes, *found.notes]:
        log.info("%s", note)
    classes = way_names(plan.meta) if plan.task.name != "regression" else []
    task = tasks.make(plan.task, classes, key="source.task")
    seen = np.sort(np.concatenate([found.rows_of[unit] for unit in found.units["train"]]))
    leg = legs.Leg(leg.splits, found.rows.select(seen), leg.subset_hash)
    model, tokenizer, report = initial.initial(plan, task, leg.train, lambda: legs.vocabulary_texts(plan), parent)
    _differentiable(model)
    data = EpisodeData(plan, found, task, tokenizer, architecture.input_limit(model.config, tokenizer))
    module = MetaModule(model, task, plan, data.num_support)
    log.info("weights: %s", report.summary())
    return Prepared(leg, data, module, copy.deepcopy(model), tokenizer, report)


def _differentiable(model: Any) -> None:
    """Attention that is made of differentiable parts: the fused kernels' backward has no derivative of its own."""
    chosen = getattr(model.config, "_attn_implementation", None)
    if chosen not in (None, "eager"):
        model.set_attn_implementation("eager")
        log.info("attention: eager in place of %s, for gradients of gradients", chosen)


def choose_mapping(module: MetaModule, data: EpisodeData) -> None:
    """Episodes of a step at once where the model allows it, else one after another; tried on two of them.

    On a CPU texts go one after another all the same: what is saved by not padding them alike is more.

    Raises:
        UserError: this model cannot be differentiated as the algorithm asks for.
    """
    batch = data.batch([data.episode("train", number) for number in range(2)])
    episodes = {name: batch[name] for name in ("inputs", "labels")}

    def tried(*, batched: bool) -> Tensor:
        module.batched = batched
        try:
            objective, shown = module.over(module.objective)(episodes)
            objective.sum().backward()
            return shown.detach()
        finally:
            module.zero_grad()

    try:
        alone = tried(batched=False)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        allowed = "an algorithm that this model can be differentiated for: fomaml, reptile or prototypes"
        reason = " ".join(str(error).split())[:160]
        raise UserError(Problem("source.meta.algorithm", module.meta.algorithm, allowed, reason)) from error
    if not hardware.on_gpu(module.plan.trainer.accelerator) and "attention_mask" in batch["inputs"]:
        return
    try:
        together = tried(batched=True)
        looks_back = any(getattr(part, "is_causal", False) is True for part in module.model.modules())
        same = torch.allclose(alone, together, rtol=1e-4, atol=1e-5) and not looks_back
        reason = "" if same else "it takes masks of padding alone for other ones"
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
    module.batched = not reason
    if reason:
        log.info("the episodes of a step one after another: vmap does not go through this model (%s)", reason)
    else:
        log.info("the episodes of a step at once, through vmap")


def train(plan: Plan, parent: Path | None) -> None:
    """Train, test on episodes of unseen classes, write everything and last the record.

    Raises:
        UserError: for what is wrong with data, model or weights, before any training.
    """
    started, clock = records.now(), time.monotonic()
    hardware.forget_peak_memory()
    quiet()
    run = prepare(plan, parent)
    choose_mapping(run.module, run.data)
    tracking = Tracking(plan, plan.folder)
    try:
        best = BestStart(plan.task.monitor, plan.task.mode)
        trainer = fitting.trainer_of(plan, fitting.callbacks_of(plan, run.module, [best], tracking), tracking)
        began = time.monotonic()
        fitting.fit(plan, trainer, run.module, run.data, best)
        train_s = time.monotonic() - began
        restore(run.module, best.weights)
        run.module.to(trainer.strategy.root_device)
        made = _test(plan, run, plan.folder)
        metric = run.module.measured
        own = next(each for each in made if each["own"])
        metrics = {**best.metrics, "num_steps": float(best.step), f"test/{metric}": own["mean"]}
        metrics[f"test/{metric}_half_width"] = own["half_width"]
        counts = freezing.counts(run.module.freezing.plan, run.module.model)
        outcome = fitting.Outcome(trainer, tracking, best, metrics, Predictions(), train_s, [], counts)
        record = recording.describe(plan, run.leg, run.module, run.report, outcome, started)  # type: ignore[arg-type]
        record["fewshot"] = _about(run, made)
        save(plan, run)
        tracking.summarise(record)
        tracking.log_model(record)
        record["time"]["wall_s"] = round(time.monotonic() - clock, 3)
    except BaseException:
        tracking.finish(1)
        raise
    tracking.finish(0)
    records.write(plan.folder, record)
    shutil.rmtree(plan.folder / "checkpoints", ignore_errors=True)


def _test(plan: Plan, run: Prepared, folder: Path) -> list[dict[str, Any]]:
    meta, module = plan.meta, run.module
    limit = plan.trainer.limit_eval_batches
    num = min(meta.num_test_episodes, max(2, limit * meta.tasks_per_step)) if limit else meta.num_test_episodes
    starts = {"meta": module.model, plan.init: run.first.to(next(module.model.parameters()).device)}
    if module.joint is not None:
        starts["all_tasks"] = module.joint
    found = baselines.answer(module, run.data, starts, num)
    made = results.summaries(found)
    results.write_episodes(folder / results.EPISODES, found)
    results.draw(made, module.measured, folder)
    kind = f"{meta.ways}-way {meta.shots}-shot" if run.data.classes else f"{meta.shots}-shot"
    units = f"{len(run.data.pool.units['test'])} unseen {'classes' if run.data.classes else 'domains'}"
    title = f"{num} {kind} test episodes of {units}; 95 % intervals over episodes"
    console = Console(width=110)
    console.print(title, highlight=False)
    console.print(results.table(made, module.measured))
    return made


def _about(run: Prepared, made: list[dict[str, Any]]) -> dict[str, Any]:
    module = run.module
    rates = {name: round(rate.item(), 6) for name, rate in module.rates().items()} if module.meta.learn_inner_lr else {}
    return {
        "metric": module.measured,
        "algorithm": module.meta.algorithm,
        "batched": module.batched,
        "units": run.data.pool.units,
        "results": made,
        **({"inner_lr": rates} if rates else {}),
    }


def save(plan: Plan, run: Prepared) -> None:
    """The Hugging Face folder of the best start, whole or not at all."""
    final, new = plan.folder / "model", plan.folder / ".model.new"
    shutil.rmtree(new, ignore_errors=True)
    run.module.model.save_pretrained(new)
    if run.tokenizer is not None:
        run.tokenizer.save_pretrained(new)
    known = {"meta": plan.meta.algorithm, "task": plan.task.name}
    (new / ABOUT).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
