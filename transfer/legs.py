"""The data of a leg: its splits, its label budget, and the texts that a vocabulary is built from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset

from transfer import mixture, tasks
from transfer.config import Config, Data, Task
from transfer.data import budgets, encoding, files, leakage, sources, streaming
from transfer.data.mapped import blocks
from transfer.data.module import TransferData
from transfer.data.sources import Splits
from transfer.data.streamed_batches import StreamedData
from transfer.data.streaming import Stream
from transfer.data.texts import texts_in_blocks
from transfer.errors import Problem, UserError
from transfer.paths import cache_folder
from transfer.plan import Plan, vocabulary_legs

# Jobs of a sweep read the same few data sets one after another; what was read last stays in memory.
KEPT = 4
# A run of letters and digits, or a single character of a script without spaces.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_read: dict[tuple[str, int, str], Splits] = {}


@dataclass
class Leg:
    """Splits, with the training rows cut to the label budget. `subset_hash` names those rows.

    The training rows may be a stream: nobody knows their number, and they have no hash.
    """

    splits: Splits
    train: Dataset
    subset_hash: str

    @property
    def num_train(self) -> int | None:
        return None if isinstance(self.train, Stream) else len(self.train)

    @property
    def by_split(self) -> dict[str, Dataset]:
        return {"train": self.train, "validation": self.splits.validation, "test": self.splits.test}


def load(plan: Plan) -> Leg:
    """Splits by the data seed, labelled subset by the subset seed: the same for every arm and rank.

    Raises:
        UserError: for whatever is wrong with the data.
    """
    key = f"{plan.leg}.data"
    splits = _splits(plan.config, plan.data, plan.task, key, plan.seeds.data)
    if plan.data.streaming:
        _require_rows(plan, splits)
        return Leg(splits, splits.train, "")
    chosen = budgets.subset(splits.strata, plan.data.train_size, plan.seeds.subset, key)
    train = splits.train if plan.data.train_size is None else splits.train.select(np.sort(chosen))
    _require_rows(plan, splits)
    return Leg(splits, train, budgets.subset_hash(row_id for block in blocks(train, "id") for row_id in block))


def _require_rows(plan: Plan, splits: Splits) -> None:
    """A rank without a row to evaluate would leave the others waiting."""
    ranks = plan.trainer.devices * plan.trainer.num_nodes
    sizes = {"validation": len(splits.validation), "test": len(splits.test)}
    least = min(sizes, key=lambda name: sizes[name])
    if 1 < ranks > sizes[least]:
        allowed = f"at most {sizes[least]} in all, the rows of {plan.leg}.data's {least} split"
        raise UserError(Problem("trainer.devices", ranks, allowed, "fewer devices, or more rows to evaluate"))


def _splits(config: Config, data: Data, task: Task, key: str, data_seed: int) -> Splits:
    problem_type = tasks.problem_type(task)
    name = (files.split_fingerprint(data, key=key), data_seed, problem_type)
    if name in _read:
        _read[name] = _read.pop(name)  # the last to go: the folds of a target must not drive their source out
        budgets.check_size(_read[name].strata, data.train_size, key)
    else:
        folder = cache_folder(config.cache_dir) / "rows"
        load = streaming.load if data.streaming else sources.load
        read = load(data, key=key, data_seed=data_seed, problem_type=problem_type, folder=folder)
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
    rows = leg.by_split | ({"train": leg.train.sample()} if isinstance(leg.train, Stream) else {})
    encoded = {
        split: encoding.encode(
            rows[split], task, tokenizer, max_length, plan.config.cache_dir, training=split == "train"
        )
        for split in splits or rows
    }
    make: Any = TransferData
    if isinstance(leg.train, Stream):
        assert plan.budget.max_steps is not None, "validation asks for it"
        make = partial(StreamedData, leg.train, -(-plan.budget.max_steps // plan.budget.max_epochs))
    data: TransferData = make(
        encoded,
        rows,
        task,
        tokenizer,
        batch_size=plan.budget.batch_size,
        seed=plan.seeds.order,
        max_length=max_length,
        num_workers=plan.trainer.num_workers,
        accumulate=plan.trainer.accumulate_grad_batches,
        tokens_per_batch=plan.budget.tokens_per_batch,
    )
    return data


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
            source = _splits(each.config, each.data, each.task, f"{each.leg}.data", each.seeds.data)
            found.append(_overlap(source, leg.splits))
        parent = parent.parent
    leaks = list(dict.fromkeys(leak for one in found for leak in one.leaks))
    return Overlap(leaks, found[0].vocabulary if found else None)


@lru_cache(maxsize=KEPT)
def _overlap(source: Splits, target: Splits) -> Overlap:
    """All jobs of a sweep ask this of the same two, and reading every text of a large source takes seconds."""
    others = {"the target's test split": target.test}
    leaks = leakage.overlap(source.train, others, name="the source's training split")
    counts = Counter(words(target.test))
    known = set(words(source.train))
    if not counts or not known:
        return Overlap(leaks, None)
    return Overlap(leaks, sum(count for word, count in counts.items() if word in known) / counts.total())


def words(rows: Dataset) -> Iterator[str]:
    """The words of all texts, in lower case; none of rows without texts."""
    return (word for block in texts_in_blocks(rows) for text in block for word in WORD.findall(text.lower()))


def vocabulary_texts(plan: Plan) -> Iterable[Any]:
    """All training texts of the data that the vocabulary is built from; labels too where they are texts.

    Or all training images, by which those are made alike that a model gets: like a vocabulary, the same in every arm.
    """
    config, seed = plan.config, plan.seeds.data
    return _Texts([(_splits(config, data, task, key, seed).train, task) for key, data, task in vocabulary_legs(config)])


class _Texts(Iterable[Any]):
    """They are read anew each time that they are gone through."""

    def __init__(self, parts: list[tuple[Dataset, Task]]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[Any]:
        return (text for train, task in self.parts for text in _readable(train, task))


def _readable(train: Dataset, task: Task) -> Iterator[Any]:
    if "image" in train.column_names:
        yield from chain.from_iterable(blocks(train, "image"))
        return
    yield from chain.from_iterable(texts_in_blocks(train))
    more = ["text_pair"] if "text_pair" in train.column_names else []
    more += ["label"] if tasks.problem_type(task) == "text" else []
    for name in more:
        yield from chain.from_iterable(blocks(train, name))
    if "choices" in train.column_names:
        yield from (text for block in blocks(train, "choices") for row in block for text in row)
