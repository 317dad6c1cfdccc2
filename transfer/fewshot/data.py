"""Encoded rows by class (or domain), and the episodes that are drawn from them as batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from transfer.config import Meta
from transfer.data import encoding
from transfer.data.module import ResumableBatches, ResumableLoader
from transfer.data.sources import Splits
from transfer.errors import Problem, UserError
from transfer.fewshot.episodes import SPLITS, Episode, divide, draw, generator
from transfer.fewshot.settings import MEASURED
from transfer.plan import Plan


@dataclass
class Pool:
    """All rows of a data set, by what episodes are made of.

    Attributes:
        rows: with the canonical columns; of a classification, their labels are all the same.
        rows_of: class (or domain) -> the numbers of its rows.
        units: the classes (or domains) of each split.
        notes: what the user should know.
    """

    rows: Dataset
    rows_of: dict[str, np.ndarray]
    units: dict[str, list[str]]
    notes: list[str]


def way_names(meta: Meta) -> list[str]:
    """The classes of an episode, which have no names of their own."""
    return [f"class {number + 1}" for number in range(meta.ways)]


def pool(plan: Plan, splits: Splits) -> Pool:
    """The rows of all splits, and the classes or domains that have enough of them, divided anew.

    Raises:
        UserError: a split of the classes has fewer than an episode takes.
    """
    meta, parts = plan.meta, [splits.train, splits.validation, splits.test]
    rows = concatenate_datasets(parts)
    if plan.task.name == "regression":
        names = [name for split in SPLITS for name in splits.groups[split]]
        kind, key, ways = "domains", "source.data.columns.group", 1
    else:
        names = list(rows["label"][:])
        kind, key, ways = "classes", "source.meta.ways", meta.ways
        rows = rows.remove_columns("label").add_column("label", [way_names(meta)[0]] * len(rows))
    order = np.argsort(np.array([name or "" for name in names]), kind="stable")
    found, begins = np.unique(np.array([names[i] or "" for i in order]), return_index=True)
    rows_of = {str(n): part for n, part in zip(found, np.split(order, begins[1:]), strict=True) if n}
    wanted = meta.shots + meta.queries
    small = [name for name, numbers in rows_of.items() if len(numbers) < wanted]
    notes = []
    if small:
        some = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
        notes.append(
            f"source.data: {len(small)} {kind} with fewer than {wanted} rows (shots + queries) are left out: {some}"
        )
    names_left = [name for name in rows_of if name not in {*small}]
    units = divide(
        names_left,
        validation_fraction=meta.validation_fraction,
        test_fraction=meta.test_fraction,
        seed=plan.seeds.data,
    )
    short = [f"{len(units[split])} for {split}" for split in SPLITS if len(units[split]) < ways]
    if short:
        received = f"{ways}, and {kind} with {wanted} rows or more: {', '.join(short)}"
        action = "fewer ways, shots or queries; more classes; or other source.meta.validation_fraction, test_fraction"
        raise UserError(Problem(key, received, f"at most the {kind} of each part", action))
    sizes = ", ".join(f"{len(units[split])} for {split}" for split in SPLITS)
    notes.append(f"episodes: {kind} divided by data_seed={plan.seeds.data}: {sizes}")
    return Pool(rows, rows_of, units, notes)


class EpisodeData(LightningDataModule):
    """Batches of episodes.

    A batch holds `inputs`, each [episodes, rows, ...], `labels` [episodes, rows] (class numbers, or numbers), of which
    the first `num_support` rows of an episode are its support, and `index` [episodes * rows].
    """

    def __init__(self, plan: Plan, pool: Pool, task: Any, tokenizer: Any, limit: int | None) -> None:
        super().__init__()
        self.plan, self.meta, self.pool, self.task = plan, plan.meta, pool, task
        self.tokenizer = task.tokenizer = tokenizer
        self.classes = MEASURED[plan.task.name] == "accuracy"
        self.ways = plan.meta.ways if self.classes else 1
        self.num_support = self.ways * plan.meta.shots
        self.max_length = encoding.max_length(plan.task.max_length, limit, key="source.task.max_length")
        self.encoded = encoding.encode(pool.rows, task, tokenizer, self.max_length, plan.config.cache_dir)
        self.resumed: dict[str, int] = {}

    @property
    def num_batches(self) -> int:
        return self.meta.steps_per_epoch

    def state_dict(self) -> dict[str, int]:
        loader: Any = self.trainer.train_dataloader if self.trainer else None
        return loader.state_dict() if loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.resumed = state_dict

    def episode(self, split: str, number: int) -> Episode:
        """Validation and test episodes depend on the data's seed alone; those of training on the order's."""
        seed = self.plan.seeds.order if split == "train" else self.plan.seeds.data
        return draw(
            self.pool.rows_of,
            self.pool.units[split],
            ways=self.ways,
            shots=self.meta.shots,
            queries=self.meta.queries,
            generator=generator(split, seed, number),
        )

    def batch(self, episodes: list[Episode]) -> dict[str, Any]:
        numbers = [int(n) for each in episodes for n in (*each.support.ravel(), *each.query.ravel())]
        rows = [{**row, "index": n} for row, n in zip(self.encoded.__getitems__(numbers), numbers, strict=True)]
        batch: dict[str, Any] = self.task.collate(rows, self.tokenizer)
        inputs = {name: each.unflatten(0, (len(episodes), -1)) for name, each in batch["inputs"].items()}
        labels = batch["labels"].unflatten(0, (len(episodes), -1))
        if self.classes:
            labels = self.class_numbers().expand(len(episodes), -1)
        return {"inputs": inputs, "labels": labels.contiguous(), "index": batch["index"]}

    def class_numbers(self) -> Tensor:
        """Of the rows of an episode [rows]: support and query, each class by class."""
        ways = torch.arange(self.ways)
        return torch.cat([ways.repeat_interleave(self.meta.shots), ways.repeat_interleave(self.meta.queries)])

    def chunks(self, split: str, num: int, at_once: int | None = None) -> Iterator[list[Episode]]:
        """The first `num` episodes of a split, a few at a time."""
        at_once = at_once or self.meta.tasks_per_step
        for begin in range(0, num, at_once):
            yield [self.episode(split, number) for number in range(begin, min(begin + at_once, num))]

    def train_dataloader(self) -> DataLoader:
        sampler = EpisodeNumbers(self.meta.steps_per_epoch, self.meta.tasks_per_step)
        loader = ResumableLoader(_Drawn(self, "train"), batch_sampler=sampler, collate_fn=self.batch)
        if self.resumed:
            loader.load_state_dict(self.resumed)
        return loader

    def val_dataloader(self) -> DataLoader:
        num, at_once = self.meta.num_validation_episodes, self.meta.tasks_per_step
        batches = [list(range(begin, min(begin + at_once, num))) for begin in range(0, num, at_once)]
        return DataLoader(_Drawn(self, "validation"), batch_sampler=batches, collate_fn=self.batch)


class EpisodeNumbers(ResumableBatches):
    """The numbers of the episodes of each step of an epoch: every one is drawn once in a run."""

    def __init__(self, steps: int, tasks: int) -> None:
        self.steps, self.tasks = steps, tasks

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for step in range(start, self.steps):
            first = (self.epoch * self.steps + step) * self.tasks
            yield list(range(first, first + self.tasks))


class _Drawn(torch.utils.data.Dataset):
    """The episodes of a split by their numbers."""

    def __init__(self, data: EpisodeData, split: str) -> None:
        self.data, self.split = data, split

    def __getitem__(self, number: int) -> Episode:
        return self.data.episode(self.split, number)
