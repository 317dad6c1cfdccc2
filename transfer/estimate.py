"""`transfer run --estimate`: what a command will take in time, memory and disk, by a few steps of each kind of run."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transfer import records
from transfer.config import Stage
from transfer.data import files
from transfer.identity import model_identity, task_identity
from transfer.paths import cache_folder, require_writable
from transfer.plan import Plan, data_name
from transfer.sweep.ahead import Ahead

if TYPE_CHECKING:
    from transfer.measuring import Measured

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    """From the least to the most: how long a run trains depends on when it stops improving."""

    least: float
    most: float

    def __add__(self, other: Span) -> Span:
        return Span(self.least + other.least, self.most + other.most)

    def times(self, number: float) -> Span:
        return Span(self.least * number, self.most * number)


@dataclass
class Row:
    """Runs that take the same, one after another; `seconds` of one of them, `first_s` once for all of them."""

    labels: dict[str, str]
    kind: str
    num_runs: int
    steps: Span
    seconds: Span
    peak_bytes: int
    disk_bytes: int


@dataclass
class Estimate:
    """Of a command.

    Attributes:
        num_complete: jobs that have their record.
        num_interrupted: runs that will go on from a checkpoint, and are counted as if from their start.
        once_s: seconds that are spent once: on imports, and on what the first run of a kind does for all others.
        measured_s: that measuring took.
        checkpoint_bytes: what one unfinished run has on disk beside its folder, at most.
    """

    rows: list[Row] = field(default_factory=list)
    num_jobs: int = 0
    num_complete: int = 0
    num_interrupted: int = 0
    once_s: float = 0.0
    measured_s: float = 0.0
    checkpoint_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> Span:
        """Of all runs, one after another."""
        total = Span(self.once_s, self.once_s)
        for row in self.rows:
            total += row.seconds.times(row.num_runs)
        return total


def estimate(ahead: Ahead) -> Estimate:
    """Measure each kind of run that is still to be trained.

    Raises:
        UserError: as the runs themselves would, for what is wrong with data, model or weights.
    """
    began = time.monotonic()
    wanted = pending(ahead.plans)
    left = [plan for plan in wanted if plan.stage != Stage.meta.value]
    found = Estimate(num_jobs=len(ahead.plans), notes=list(ahead.notes))
    if num_meta := len(wanted) - len(left):
        found.notes.append(f"not in the estimate: {num_meta} of stage=meta, whose steps are on episodes")
    found.num_complete = sum(_done(plan) for plan in ahead.plans)
    if ahead.mistakes:
        found.num_jobs += len(ahead.mistakes)
        found.notes.append(f"{len(ahead.mistakes)} of the jobs cannot be run: {ahead.mistakes[0].problems[0]}")
    if not left:
        return found
    from transfer import measuring  # imports all that a run does

    found.once_s = time.monotonic() - began
    found.num_interrupted = sum((plan.folder / measuring.LAST).is_file() for plan in left)
    require_writable(cache_folder(left[0].config.cache_dir), key="cache_dir")
    kinds: dict[str, list[Plan]] = {}
    for plan in sorted(left, key=_generation):
        kinds.setdefault(kind_of(plan), []).append(plan)
    with tempfile.TemporaryDirectory(prefix="transfer-estimate-") as folder, _quiet():
        for number, (kind, plans) in enumerate(kinds.items()):
            plan = max(plans, key=lambda each: (each.data.train_size or math.inf, -plans.index(each)))
            names = _labels(plan)
            log.info("measuring %d of %d: %s, freezing=%s", number + 1, len(kinds), names["run"], names["freezing"])
            ready = _without_meta(plan)
            measured = measuring.measure(ready, _parent(ready, Path(folder)), Path(folder) / kind)
            found.once_s += measured.first_s + measured.floors_s * len({_labelled_rows(each) for each in plans})
            found.checkpoint_bytes = max(found.checkpoint_bytes, measured.checkpoint_bytes)
            found.rows += _rows(kind, plans, measured)
    ranks = {plan.trainer.devices * plan.trainer.num_nodes for plan in left}
    if ranks != {1}:
        found.notes.append("one process was measured, with its share of a batch; what they exchange is not counted")
    if any(plan.trainer.feature_cache and plan.freezing.policy not in ("none", "all") for plan in left):
        found.notes.append("where the outputs of a frozen part are kept, or heads are trained together, it takes less")
    found.measured_s = time.monotonic() - began
    return found


def pending(plans: Iterable[Plan]) -> list[Plan]:
    """The runs that are still to be trained, their sources among them, each once."""
    wanted: dict[str, Plan] = {}
    for plan in plans:
        each: Plan | None = plan
        while each is not None and each.fingerprint not in wanted and not _done(each):
            wanted[each.fingerprint] = each
            each = each.parent
    return list(wanted.values())


def _done(plan: Plan) -> bool:
    found = records.complete(plan.output_dir, plan.experiment, plan.stage, plan.fingerprint)
    return found is not None and not plan.config.force


def _generation(plan: Plan) -> int:
    """Sources come before what starts from them."""
    return 0 if plan.parent is None else 1 + _generation(plan.parent)


def kind_of(plan: Plan) -> str:
    """Runs of one kind take the same for a step: the same data in batches of the same shape, and the same training."""
    data = plan.data if plan.data.folds is None else replace(plan.data, fold=0)
    budget, trainer = plan.budget, plan.trainer
    return records.fingerprint(
        {
            "data": files.split_fingerprint(data, key=f"{plan.leg}.data"),
            "also": {name: asdict(each) for name, each in plan.also.items()},
            "task": task_identity(plan.task),
            "model": model_identity(plan.model),
            "freezing": asdict(plan.freezing),
            "methods": [asdict(plan.adaptation), asdict(plan.regularizer), asdict(plan.averaging)],
            "optimizer": [plan.optimizer._target_, plan.optimizer.options],
            "batch": [budget.batch_size, budget.tokens_per_batch],
            "trainer": asdict(trainer),
            "target": plan.leg == "target",
        }
    )[:16]


def _labelled_rows(plan: Plan) -> tuple[int | None, int, int | None]:
    return plan.data.train_size, plan.seeds.subset if plan.data.train_size else 0, plan.data.fold


def _parent(plan: Plan, folder: Path) -> Path | None:
    """The model folder that the run starts from: that of its source, or of what was measured in its place."""
    if plan.parent is None:
        return None
    source = plan.parent
    done = records.complete(source.output_dir, source.experiment, source.stage, source.fingerprint)
    return (Path(done["_folder"]) if done else folder / kind_of(source)) / "model"


def _without_meta(plan: Plan) -> Plan:
    """The plan, from what a meta run that is still to be trained starts from: that takes the same for a step."""
    parent = plan.parent
    if parent is None or parent.stage != Stage.meta.value or _done(parent):
        return plan
    return _without_meta(replace(plan, parent=parent.parent, init=parent.init))


def _rows(kind: str, plans: Sequence[Plan], measured: Measured) -> list[Row]:
    found: dict[tuple[str, ...], Row] = {}
    for plan in plans:
        labels = _labels(plan)
        key = tuple(labels.values())
        if key in found:
            found[key].num_runs += 1
            continue
        steps, seconds = run_takes(plan, measured)
        found[key] = Row(labels, kind, 1, steps, seconds, measured.peak_bytes, measured.disk_bytes)
    return list(found.values())


def _labels(plan: Plan) -> dict[str, str]:
    """What tells runs apart in the table."""
    methods = [each.name for each in (plan.adaptation, plan.regularizer, plan.averaging) if each.name != "none"]
    return {
        "run": f"source {data_name(plan.data)}" if plan.leg == "source" else str(plan.arm),
        "model": str(plan.model.name or plan.model.config.get("cell") or plan.model.config.get("model_type")),
        "freezing": ", ".join([plan.freezing.policy, *methods]),
        "labels": "all" if plan.data.train_size is None else str(plan.data.train_size),
        "batch": str(plan.budget.tokens_per_batch or plan.budget.batch_size),
        "epochs": str(plan.budget.max_epochs),
    }


def run_takes(plan: Plan, measured: Measured) -> tuple[Span, Span]:
    """Steps and seconds of one run."""
    size = plan.data.train_size or measured.num_train
    per_epoch = max(1, math.ceil(measured.num_batches * size / measured.num_train))
    epochs = num_epochs(plan, per_epoch) if plan.freezing.policy != "all" else Span(0, 0)
    cap = plan.budget.max_steps or math.inf
    steps = Span(*(min(number * per_epoch, cap) for number in (epochs.least, epochs.most)))
    tested = measured.test_s * (2 if plan.equal_epochs is not None else 1)
    extra = 1 if plan.averaging.name != "none" or plan.freezing.policy == "all" else 0
    seconds = [
        _training_s(measured, number, per_epoch)
        + (math.ceil(number / per_epoch) + extra) * measured.validation_s
        + measured.overhead_s
        for number in (steps.least, steps.most)
    ]
    return steps, Span(seconds[0] + measured.test_s, seconds[1] + tested)


def num_epochs(plan: Plan, per_epoch: int) -> Span:
    """At the least the best validation is the first that counts, and `patience` more follow it."""
    budget = plan.budget
    most = float(budget.max_epochs)
    if budget.patience is None:
        return Span(most, most)
    first = max(1, math.ceil(budget.min_steps / per_epoch))
    return Span(min(first + budget.patience, most), most)


def _training_s(measured: Measured, steps: float, per_epoch: int) -> float:
    """Of so many steps, of which those of early epochs take less where layers wake one after another."""
    total = 0.0
    ends = [start * per_epoch for start, _ in measured.phases[1:]] + [math.inf]
    for (start, part), end in zip(measured.phases, ends, strict=True):
        total += part * measured.step_s * max(0.0, min(steps, end) - start * per_epoch)
    return total


@contextmanager
def _quiet() -> Iterator[None]:
    """What is measured says nothing of its own; warnings are those of the runs to come."""
    logger = logging.getLogger("transfer.stages")
    before, logger.level = logger.level, logging.WARNING
    try:
        yield
    finally:
        logger.level = before
