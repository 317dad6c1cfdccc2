"""Batches of a stream: which rows are in which depends on the seed alone, however many processes there are.

Every process, and every worker of it, goes through the whole stream; a worker tokenizes only the batches that it gives
out. A run that is resumed goes through what it has seen before without tokenizing it, so that the buffer of the
shuffling is as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from transfer.data.batches import POOL
from transfer.data.module import ResumableBatches, TransferData
from transfer.data.parsing import Row
from transfer.data.streaming import Stream


class NumberedBatches(ResumableBatches):
    """The numbers of the batches, counted through all epochs: the stream goes on where the last epoch ended."""

    def __init__(self, per_epoch: int) -> None:
        self.per_epoch = per_epoch

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        first = self.epoch * self.per_epoch
        yield from ([number] for number in range(first + start, first + self.per_epoch))


def of_one_time(stream: Stream, size: int, seed: int, time: int) -> Iterator[list[Row]]:
    """The batches of all rows, gone through once: of similar length, sorted within pools as elsewhere."""
    rows = stream.shuffled(seed, time)
    names = stream.column_names[:-1]
    for number, pool in enumerate(iter(lambda: list(islice(rows, size * POOL)), [])):
        lengths = np.array([sum(len(row[name]) for name in names) for row in pool])
        order = np.argsort(-lengths, kind="stable")
        cut = [order[begin : begin + size] for begin in range(0, len(order), size)]
        last = [cut.pop()] if len(cut[-1]) < size else []
        drawn = np.random.default_rng([seed, time, number]).permutation(len(cut))
        for batch in [*(cut[i] for i in drawn), *last]:
            yield [pool[i] for i in batch]


class StreamedBatches(torch.utils.data.Dataset):
    """Number of a batch -> the encoded rows that this rank has of it. Asked for a later one, it goes on from there."""

    def __init__(
        self, stream: Stream, task: Any, tokenizer: Any, *, size: int, max_length: int, seed: int, rank: int, ranks: int
    ) -> None:
        self.stream = stream
        self.task = task
        self.tokenizer = tokenizer
        self.size = size
        self.max_length = max_length
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self._begin()

    def _begin(self) -> None:
        self.process = os.getpid()
        self.next = 0
        times = (of_one_time(self.stream, self.size, self.seed, time) for time in count())
        self.batches = chain.from_iterable(times)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process": 0, "batches": None}

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        # A forked process shares the position in the file with the one that it was forked from.
        if self.process != os.getpid() or number < self.next:
            self._begin()
        rows = next(islice(self.batches, number - self.next, None))
        self.next = number + 1
        return self._encoded(rows, number)

    def _encoded(self, rows: list[Row], number: int) -> list[dict[str, Any]]:
        """Each with its share in the mean loss of the whole batch, times the number of ranks, as elsewhere."""
        columns = {name: [row[name] for row in rows] for name in self.stream.column_names}
        numbers = [row["number"] for row in rows]
        encoded = self.task.encode_training({**columns, "row": numbers}, self.tokenizer, self.max_length)
        size = len(encoded["row"])
        # Weights are asked of a data set.
        weights = self.task.example_weights(Dataset.from_dict(encoded))
        total = float(weights.sum()) or 1.0
        own = list(range(size))[self.rank :: self.ranks]
        given = [
            {
                **{name: values[place] for name, values in encoded.items()},
                "index": encoded["row"][place],
                "share": float(weights[place]) * self.ranks / total,
                "draw": [self.seed, number, place],
            }
            for place in own or [0]
        ]
        return given if own else [given[0] | {"share": 0.0}]


class StreamedData(TransferData):
    """Validation and test as elsewhere; the training rows are those of a stream, in epochs of so many batches.

    `encoded` has a sample of them.
    """

    def __init__(self, stream: Stream, per_epoch: int, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.stream = stream
        self.per_epoch = per_epoch

    @property
    def num_batches(self) -> int:
        return self.per_epoch

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self._ranks()
        batches = StreamedBatches(
            self.stream,
            self.task,
            self.tokenizer,
            size=self.batch_size,
            max_length=self.max_length,
            seed=self.seed,
            rank=rank,
            ranks=ranks,
        )
        return self._training(batches, NumberedBatches(self.per_epoch), self._collate_batch)

    def _collate_batch(self, batches: list[list[dict[str, Any]]]) -> dict[str, Any]:
        return self.collate(batches[0])
