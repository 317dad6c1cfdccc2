"""The frozen part of a run's model, computed once for each row of its data, in place of once for each pass over it."""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import Tensor

from transfer import memory, records
from transfer.freezing import FreezingCallback
from transfer.paths import cache_folder
from transfer.prefix import boundary as boundaries
from transfer.prefix import store
from transfer.prefix.boundary import FIRST, Boundary, Kept, UnsupportedError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from transfer.data.module import TransferData
    from transfer.plan import Plan

log = logging.getLogger(__name__)

VERSION = 1
# Of a config, what the outputs of the backbone do not depend on.
ABOUT_THE_HEAD = {"id2label", "label2id", "problem_type", "_name_or_path", "architectures", "transformers_version"}
# How far what is kept may be from what the model computes, in parts of the largest number.
TOLERANCE = {"32-true": 1e-4, "64-true": 1e-4}
MIXED_TOLERANCE = 0.05
EVER = math.inf
# Of the tokens of a training batch, so many times as many go through the frozen part at once: nothing is kept for a
# backward pass. A GPU is the faster the more there are; a processor while they fit into its caches (docs/frozen.md).
AT_ONCE = {"cpu": 2}
ELSEWHERE = 8
SAMPLE = 4
# Of the models of this process: what was seen at a boundary, and where what is kept was seen to be right. The next job
# with the same frozen part does not look again.
_looked: dict[str, Kept] = {}
_agreed: set[tuple[str, Path]] = set()


def make(plan: Plan, frozen: FreezingCallback, data: TransferData, *, plain: bool) -> FeatureCache | None:
    """The cache of this run; None where nothing is to be gained or the frozen part does not always give the same.

    Args:
        plain: whether nothing but the model's own parts takes part (no adapters, no regularizer, no further tasks).
    """
    trainer = plan.trainer
    several = trainer.devices * trainer.num_nodes > 1
    wanted = trainer.feature_cache and plan.freezing.policy not in ("none", "all")
    cut = trainer.limit_train_batches is not None or trainer.limit_eval_batches is not None
    # Under DDP a parameter that has to wait its turn takes part in every backward pass.
    apart = trainer.strategy == "fsdp" or trainer.num_nodes > 1 or (several and frozen.gradual)
    if not wanted or cut or apart or not plain or data.task.draws_inputs():
        return None
    find = functools.partial(boundaries.find, frozen.model, frozen.plan)
    epochs = {float(epoch): find(epoch) for epoch in range(plan.budget.max_epochs)}
    return FeatureCache(plan, frozen, data, epochs | {EVER: find(EVER)}) if any(epochs.values()) else None


class FeatureCache:
    """What comes out of the frozen part for every row of the splits, and the passes of the model that go on from it.

    Attributes:
        at: the boundary in each epoch, and at `EVER` that of what never trains.
        seconds: spent on computing features in this run.
        num_rows: that were computed in this run.
    """

    def __init__(
        self, plan: Plan, frozen: FreezingCallback, data: TransferData, at: dict[float, Boundary | None]
    ) -> None:
        self.plan = plan
        self.frozen = frozen
        self.model: Any = frozen.model
        self.data = data
        self.at = at
        self.root = cache_folder(plan.config.cache_dir) / "features"
        self.kept: dict[Boundary, Kept] = {}
        self.names: dict[Boundary, str] = {}
        self.readers: dict[tuple[str, Boundary], store.Reader] = {}
        self.seconds = 0.0
        self.num_rows = 0

    def before_training(self, trainer: Trainer) -> None:
        """Have everything there that training reads."""
        wanted = list(dict.fromkeys(each for epoch, each in self.at.items() if each and epoch != EVER))
        steps = self.plan.budget.max_steps
        if steps is None or steps >= self.data.num_batches:
            self._open(trainer, "train", wanted)
        self._open(trainer, "validation", wanted)

    def before_testing(self, trainer: Trainer) -> None:
        """Have there what the test split needs; only of what never trains, since any epoch's weights may be tested."""
        lasting = self.at[EVER]
        if lasting:
            self._open(trainer, "test", [lasting])

    def outputs(self, model: Any, batch: dict[str, Any], split: str, epoch: float) -> Any:
        """The outputs for a batch of this run's model, or of another with its backbone; from what is kept, if it is."""
        now = self.at.get(epoch)
        reader = self.readers.get((split, now)) if now else None
        inputs = batch["inputs"]
        if now is None or reader is None:
            return model(**inputs)
        given = reader.rows(batch["index"], inputs.get("attention_mask"), model.device)
        with boundaries.resumed(model, self.kept[now], given, inputs):
            return model(**inputs)

    def describe(self) -> dict[str, Any]:
        """For the record: what was kept, and what of it this run had to compute."""
        kept = sorted({str(boundary) for _, boundary in self.readers})
        return {"kept": kept, "num_rows_computed": self.num_rows, "seconds": round(self.seconds, 3)}

    def _open(self, trainer: Trainer, split: str, wanted: list[Boundary]) -> None:
        clock = time.monotonic()
        times = AT_ONCE.get(self.model.device.type, ELSEWHERE)
        loader = self.data.every_row(split, times * self.data.tokens_per_step())
        sample = _sample(trainer, loader)
        lengths = np.asarray(self.data.encoded[split]["length"], dtype=np.int64)
        with self._at_work(trainer):
            known = [each for each in wanted if self._known(trainer, each, sample)]
            folders = {each: self.root / self.names[each] / self.data.encoded[split]._fingerprint for each in known}
            for folder in folders.values():
                folder.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                if trainer.is_global_zero:
                    for folder in sorted(folders.values()):
                        stack.enter_context(records.lock(self.root, f"{folder.parent.name}-{folder.name}"))
                self._compute(trainer, split, folders, lengths, sample, loader)
            for each, folder in folders.items():
                if store.is_there(folder):
                    reader = store.Reader(folder, lengths)
                    place = self._built(each, sample), folder
                    if place in _agreed or self._agrees(trainer, each, reader, sample):
                        _agreed.add(place)
                        self.readers[split, each] = reader
        self.seconds += time.monotonic() - clock

    @contextmanager
    def _at_work(self, trainer: Trainer) -> Iterator[None]:
        """The model as in evaluation, in the run's precision; afterwards as it was."""
        training = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with trainer.precision_plugin.forward_context(), torch.no_grad():
                yield
        finally:
            for module, mode in training.items():
                module.training = mode

    def _known(self, trainer: Trainer, boundary: Boundary, sample: dict[str, Any]) -> bool:
        """Whether something can be kept at this boundary; then it has a name from what it depends on."""
        if boundary in self.names:
            return True
        built = self._built(boundary, sample)
        try:
            found = _looked.get(built) or boundaries.look(self.model, boundary, sample["inputs"])
        except UnsupportedError as reason:
            log.info("the frozen part is computed in every pass: %s", reason)
            return False
        self.kept[boundary] = _looked[built] = found
        config = {k: v for k, v in self.model.config.to_dict().items() if k not in ABOUT_THE_HEAD}
        about = {
            "version": VERSION,
            "config": config,
            "boundary": str(boundary),
            "kinds": self.kept[boundary].kinds,
            "precision": str(trainer.precision),
            "device": self.model.device.type,
            "attention": self.model.config._attn_implementation,
            "libraries": [torch.__version__, transformers.__version__],
        }
        self.names[boundary] = store.identity(boundaries.tensors(self.model, boundary), about)
        return True

    def _built(self, boundary: Boundary, sample: dict[str, Any]) -> str:
        """Of what class and config the model is, and what it reads: all but its weights."""
        about = [type(self.model).__qualname__, self.model.config.to_dict(), str(boundary), sorted(sample["inputs"])]
        return json.dumps(about, sort_keys=True, default=str)

    def _compute(
        self,
        trainer: Trainer,
        split: str,
        folders: dict[Boundary, Path],
        lengths: np.ndarray,
        sample: dict[str, Any],
        loader: Any,
    ) -> None:
        """Fill the folders that are missing, in one pass of all processes over the split."""
        missing = {each: folder for each, folder in folders.items() if not store.is_there(folder)}
        trainer.strategy.barrier()  # all have looked before anybody writes
        if not missing:
            return
        fields = {each: self._fields(each, sample["inputs"]) for each in missing}
        needed = sum(field.num_bytes(lengths) for each in missing for field in fields[each].values())
        create, why_not = trainer.is_global_zero, None
        if create:
            why_not = store.make_room(self.root, needed, self.plan.trainer.feature_cache_gb)
        why_not = trainer.strategy.broadcast(why_not)
        if why_not:
            log.info("the frozen part is computed in every pass: kept, it would take %s", why_not)
            return
        new = functools.partial(store.Writer, lengths=lengths)
        writers = {each: new(folder, fields[each]) for each, folder in missing.items()} if create else {}
        trainer.strategy.barrier()
        writers = writers or {each: new(folder, fields[each], create=False) for each, folder in missing.items()}
        what = " and ".join(str(each) for each in missing)
        log.info("frozen: computing %s once for the %d rows of %s", what, len(lengths), split)
        self._pass(trainer, writers, loader, len(lengths))
        self.num_rows += len(lengths)
        trainer.strategy.barrier()
        if create:
            for writer in writers.values():
                writer.finish()
        trainer.strategy.barrier()

    def _pass(self, trainer: Trainer, writers: dict[Boundary, store.Writer], loader: Any, total: int) -> None:
        told, done, splits = time.monotonic(), 0, 1
        allowed = self.plan.trainer.halve_on_out_of_memory

        def write(part: dict[str, Any]) -> None:
            found = boundaries.compute(self.model, list(writers), part["inputs"])
            for each, writer in writers.items():
                kept = boundaries.values(self.kept[each], found[each])
                writer.write(part["index"], kept, part["inputs"].get("attention_mask"))

        for raw in loader:
            batch = trainer.strategy.batch_to_device(raw)
            splits = memory.without_gradients(batch, splits, write, "computing what is kept of", may_split=allowed)
            done += len(batch["index"]) * trainer.world_size
            if time.monotonic() - told > 15:
                told = time.monotonic()
                log.info("frozen: %d of %d rows", min(done, total), total)

    def _fields(self, boundary: Boundary, inputs: dict[str, Tensor]) -> dict[str, store.Field]:
        kept = self.kept[boundary]
        output = boundaries.compute(self.model, [boundary], inputs)[boundary]
        made = {}
        for name, value in boundaries.values(kept, output).items():
            behind = 1 if kept.kinds[name] == boundaries.ROWS else 2
            made[name] = store.Field(
                kept.kinds[name], str(value.dtype).removeprefix("torch."), tuple(value.shape[behind:])
            )
        return made

    def _agrees(self, trainer: Trainer, boundary: Boundary, reader: store.Reader, sample: dict[str, Any]) -> bool:
        """Whether the model comes to the same from what was kept, on a few rows; else nothing of it is used."""
        inputs, kept = sample["inputs"], self.kept[boundary]
        mask = inputs.get("attention_mask")
        given = reader.rows(sample["index"], mask, self.model.device)
        whole = self.model(**inputs)
        with boundaries.resumed(self.model, kept, given, inputs):
            resumed = self.model(**inputs)
        pairs = [(whole[name], resumed[name]) for name, value in whole.items() if isinstance(value, Tensor)]
        self.model.train()
        self.frozen.rest()
        again = boundaries.compute(self.model, [boundary], inputs)[boundary]
        self.model.eval()
        for name, value in boundaries.values(kept, again).items():
            first = kept.kinds[name] == FIRST
            pairs.append((value[:, 0], given[name][:, 0]) if first else (value, given[name]))
        tolerance = TOLERANCE.get(str(trainer.precision), MIXED_TOLERANCE)
        worst = max(_distance(one, other, mask) for one, other in pairs)
        if worst > tolerance:
            log.info("the frozen part is computed in every pass: from what was kept the model comes to something else")
        return worst <= tolerance


def _sample(trainer: Trainer, loader: Any) -> dict[str, Any]:
    """The first rows of a loader, on the device."""
    batch: dict[str, Any] = trainer.strategy.batch_to_device(memory.rows(next(iter(loader)), slice(0, SAMPLE)))
    return batch


def _distance(one: Tensor, other: Tensor, mask: Tensor | None) -> float:
    """The largest difference in parts of the largest number, at tokens."""
    if mask is not None and one.dim() > 1 and one.shape[:2] == mask.shape:
        one, other = one[mask.bool()], other[mask.bool()]
    one, other = one.float(), other.float()
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-3))
