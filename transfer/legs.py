"""The data of a leg: its splits, its label budget, and the texts that a vocabulary is built from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset

from transfer import mixture, tasks
from transfer.config import Data, Task
from transfer.data import budgets, encoding, files, leakage, sources
from transfer.data.module import TransferData
from transfer.data.sources import Splits
from transfer.data.texts import texts
from transfer.errors import Problem, UserError
from transfer.plan import Plan, vocabulary_legs

# Jobs of a sweep read the same few data sets one after another; what was read last stays in memory.
KEPT = 4
# A run of letters and digits, or a single character of a script without spaces.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_read: dict[tuple[str, int, str], Splits] = {}


@dataclass
class Leg:
    """Splits, with the training rows cut to the label budget. `subset_hash` names those rows."""

    splits: Splits
    train: Dataset
    subset_hash: str

    @property
    def by_split(self) -> dict[str, Dataset]:
        return {"train": self.train, "validation": self.splits.validation, "test": self.splits.test}


def load(plan: Plan) -> Leg:
    """Splits by the data seed, labelled subset by the subset seed: the same for every arm and rank.

    Raises:
        UserError: for whatever is wrong with the data.
    """
    key = f"{plan.leg}.data"
    splits = _splits(plan.data, plan.task, key, plan.seeds.data)
    chosen = budgets.subset(splits.strata, plan.data.train_size, plan.seeds.subset, key)
    train = splits.train.select(np.sort(chosen))
    _require_rows(plan, splits)
    return Leg(splits, train, budgets.subset_hash(train["id"][:]))


def _require_rows(plan: Plan, splits: Splits) -> None:
    """A rank without a row to evaluate would leave the others waiting."""
    ranks = plan.trainer.devices * plan.trainer.num_nodes
    sizes = {"validation": len(splits.validation), "test": len(splits.test)}
    least = min(sizes, key=lambda name: sizes[name])
    if 1 < ranks > sizes[least]:
        allowed = f"at most {sizes[least]} in all, the rows of {plan.leg}.data's {least} split"
        raise UserError(Problem("trainer.devices", ranks, allowed, "fewer devices, or more rows to evaluate"))


def _splits(data: Data, task: Task, key: str, data_seed: int) -> Splits:
    problem_type = tasks.problem_type(task)
    name = (files.split_fingerprint(data, key=key), data_seed, problem_type)
    if name in _read:
        _read[name] = _read.pop(name)  # the last to go: the folds of a target must not drive their source out
        budgets.check_size(_read[name].strata, data.train_size, key)
    else:
        read = sources.load(data, key=key, data_seed=data_seed, problem_type=problem_type)
        while len(_read) >= KEPT:
            _read.pop(next(iter(_read)))
        _read[name] = read
    return _read[name]


def batches(
    plan: Plan, leg: Leg, task: Any, tokenizer: Any, limit: int | None, *, splits: Iterable[str] | None = None
) -> TransferData:
    """The splits (without any named: all) encoded and batched.

    Args:
        limit: the most tokens that the model takes.
    """
    task.tokenizer = tokenizer
    max_length = encoding.max_length(plan.task.max_length, limit, key=f"{plan.leg}.task.max_length")
    encoded = {
        split: encoding.encode(
            leg.by_split[split], task, tokenizer, max_length, plan.config.cache_dir, training=split == "train"
        )
        for split in splits or leg.by_split
    }
    return TransferData(
        encoded,
        leg.by_split,
        task,
        tokenizer,
        batch_size=plan.budget.batch_size,
        seed=plan.seeds.order,
        max_length=max_length,
        num_workers=plan.trainer.num_workers,
        accumulate=plan.trainer.accumulate_grad_batches,
        tokens_per_batch=plan.budget.tokens_per_batch,
    )


@dataclass(frozen=True)
class Overlap:
    """What a target's test split shares with the source's training split.

    Attributes:
        leaks: one note a kind of repeated text; a leak that no split of the target shows.
        vocabulary: the fraction of the words in the test texts that the source's texts have; None without texts.
    """

    leaks: list[str]
    vocabulary: float | None


def overlap(plan: Plan, leg: Leg) -> Overlap:
    """How the run's target and its source overlap; nothing where it starts from no source.

    Of all sources of a chain and all data sets of a source leaks count, and the vocabulary of the last one's first set.
    """
    found, parent = [], plan.parent if plan.leg == "target" else None
    while parent is not None:
        for each in (parent, *mixture.further(parent).values()):
            source = _splits(each.data, each.task, f"{each.leg}.data", each.seeds.data)
            found.append(_overlap(source, leg.splits))
        parent = parent.parent
    leaks = list(dict.fromkeys(leak for one in found for leak in one.leaks))
    return Overlap(leaks, found[0].vocabulary if found else None)


@lru_cache(maxsize=KEPT)
def _overlap(source: Splits, target: Splits) -> Overlap:
    """All jobs of a sweep ask this of the same two, and reading every text of a large source takes seconds."""
    others = {"the target's test split": target.test}
    leaks = leakage.overlap(source.train, others, name="the source's training split")
    ours, theirs = texts(target.test), texts(source.train)
    if ours is None or theirs is None:
        return Overlap(leaks, None)
    known = {word for text in theirs for word in WORD.findall(text.lower())}
    words = [word for text in ours for word in WORD.findall(text.lower())]
    return Overlap(leaks, sum(word in known for word in words) / len(words) if words else None)


def vocabulary_texts(plan: Plan) -> list[str]:
    """All training texts of the data that the vocabulary is built from; labels too where they are texts.

    Or all training images, by which those are made alike that a model gets: like a vocabulary, the same in every arm.
    """
    found: list[Any] = []
    for key, data, task in vocabulary_legs(plan.config):
        found += _readable(_splits(data, task, key, plan.seeds.data).train, task)
    return found


def _readable(train: Dataset, task: Task) -> list[Any]:
    if "image" in train.column_names:
        images: list[Any] = train["image"][:]
        return images
    found = texts(train)
    assert found is not None, "there is something to read where a vocabulary is built"
    more = ["text_pair"] if "text_pair" in train.column_names else []
    more += ["label"] if tasks.problem_type(task) == "text" else []
    choices = train["choices"][:] if "choices" in train.column_names else []
    return [*found, *(text for name in more for text in train[name][:]), *(text for row in choices for text in row)]
