"""What this project costs beside a bare loop over the very same batches, in one process, one after the other.

The loop has the project's batches, optimizer, clipping, schedule, precision and random numbers, and no more than these.
Both must end with the same weights; only the epochs of training are compared, without the validation after each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed import ours


@dataclass
class Bare:
    """What a training needs, made by the parts of the project that make it."""

    model: Any
    data: Any
    groups: Any
    optimizer: Any
    schedule: Any
    loader: Any


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step in each round, of the project and of the loop; the first round warms up and is left out."""
    from transfer import plan
    from transfer.compose import compose

    found: dict[str, list[list[float]]] = {"transfer": [], "loop": []}
    sums: dict[str, float] = {}
    planned = plan.make(compose(list(request["words"])))
    for number in range(request["rounds"] + 1):
        with ours.clocked() as clock:
            ours.command("run", *request["words"], f"output_dir={Path(request['folder']) / str(number)}")
        steps, sums["loop"] = bare(planned)
        sums["transfer"] = clock.weights
        if number:
            found["transfer"].append(clock.steps)
            found["loop"].append(steps)
    difference = abs(sums["transfer"] - sums["loop"]) / sums["loop"]
    return {**found, "weights_differ_by": difference, "precision": precision(planned)}


def precision(planned: Any) -> str:
    """Lightning's word for the precision of the plan.

    Raises:
        RuntimeError: the loop does not have this one.
    """
    from transfer import hardware

    found = hardware.precision(planned.trainer.precision, planned.trainer.accelerator)
    if found not in ("32-true", "bf16-mixed"):
        raise RuntimeError(f"the loop on the same batches has no {found}")
    return found


def make(planned: Any) -> Bare:
    """As `transfer.stages.train` does it, without what watches the training."""
    import torch

    from transfer import architecture, freezing, initial, legs, optim, tasks

    leg = legs.load(planned)
    task = tasks.make(planned.task, leg.splits.labels, key="target.task")
    task.fit(leg.train)
    model, tokenizer, _ = initial.initial(planned, task, leg.train, lambda: legs.vocabulary_texts(planned), None)
    data = legs.batches(planned, leg, task, tokenizer, architecture.input_limit(model.config, tokenizer))
    groups = optim.parameter_groups(model, planned.optimizer, freezing.make(model, planned.freezing))
    optimizer = optim.build(groups, planned.optimizer)
    loader: Any = data.train_dataloader()
    schedule = optim.schedule(optimizer, planned.scheduler, len(loader) * planned.budget.max_epochs)
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR), "stepped once a step"
    return Bare(model, data, groups, optimizer, schedule, loader)


def bare(planned: Any) -> tuple[list[float], float]:
    """Seconds of each step, and the sum of the weights at the end."""
    import torch
    from torch.nn.functional import cross_entropy

    it, clock = make(planned), ours.Clock()
    weights = [parameter for group in it.groups for parameter in group["params"]]
    low = precision(planned) == "bf16-mixed"
    it.model.train()
    for epoch in range(planned.budget.max_epochs):
        clock.since = time.perf_counter()
        it.loader.batch_sampler.set_epoch(epoch)
        for batch in it.loader:
            # Dropout as the project draws it, without which the weights could not be compared.
            torch.manual_seed((planned.seeds.order * 1_000_003 + len(clock.steps)) * 64)
            it.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = cross_entropy(it.model(**batch["inputs"]).logits.float(), batch["labels"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, planned.trainer.gradient_clip_val)
            it.optimizer.step()
            it.schedule.step()
            clock.tick()
        clock.stop()
    return clock.steps, ours.weight_sum(it.model)
