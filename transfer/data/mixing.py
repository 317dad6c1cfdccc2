"""Batches of several data sets, each batch of one of them: which one is drawn from the seed, alike on every rank."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from transfer import mixture
from transfer.data.module import LengthGroupedBatches, ResumableBatches, TransferData


class MixedBatches(ResumableBatches):
    """Batches of several sets: (number of the set, what `LengthGroupedBatches` gives of a row) of this rank's rows.

    An epoch has as many batches as all sets together. Each set is gone through in an order of its own, as often as it
    is drawn: all of its rows have been seen before any is seen again, also where a pass goes over from one epoch to
    the next. What is drawn depends on (seed, epoch) alone.

    Args:
        samplers: of each set, for this rank.
        chances: the probability of each set.
    """

    def __init__(self, samplers: Sequence[LengthGroupedBatches], chances: Sequence[float], *, seed: int) -> None:
        self.samplers = samplers
        self.chances = chances
        self.seed = seed

    def __len__(self) -> int:
        return sum(map(len, self.samplers))

    def drawn(self, epoch: int) -> np.ndarray:
        """The number of the set of each batch of this epoch."""
        random = np.random.default_rng([self.seed, epoch, len(self.samplers)])
        return random.choice(len(self.samplers), size=len(self), p=self.chances)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, float, int]]]]:
        start, self.start = self.start, 0
        order = self.drawn(self.epoch)
        before = [self.drawn(epoch) for epoch in range(self.epoch)] + [order[:start]]
        counts = np.bincount(np.concatenate(before), minlength=len(self.samplers))
        streams = [_from(sampler, int(count)) for sampler, count in zip(self.samplers, counts, strict=True)]
        for number in order[start:].tolist():
            yield [(number, row) for row in next(streams[number])]


def _from(sampler: LengthGroupedBatches, position: int) -> Iterator[list[tuple[int, float, int]]]:
    """The batches of one set from this one on, pass after pass."""
    sampler = copy.copy(sampler)
    sampler.epoch, sampler.start = divmod(position, len(sampler))
    while True:
        yield from sampler
        sampler.epoch += 1


class MixedRows(torch.utils.data.Dataset):
    """The rows of several sets, each with the number of its set."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows

    def __getitem__(self, key: tuple[int, tuple[int, float, int]]) -> tuple[int, dict[str, Any]]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, tuple[int, float, int]]]) -> list[tuple[int, dict[str, Any]]]:
        """A batch at once, which is of one set."""
        number = keys[0][0]
        assert all(key[0] == number for key in keys)
        return [(number, row) for row in self.rows[number].__getitems__([row for _, row in keys])]


class MixedData(TransferData):
    """Several data sets as one: batches as of one set, with `set` [rows], its number; a loader a set in evaluation.

    What is asked of its rows, its task and its tokenizer is answered for the first set.
    """

    def __init__(self, parts: Mapping[str, TransferData], temperature: float) -> None:
        first = next(iter(parts.values()))
        super().__init__(
            first.encoded,
            first.rows,
            first.task,
            first.tokenizer,
            batch_size=first.batch_size,
            seed=first.seed,
            max_length=first.max_length,
            num_workers=first.num_workers,
            accumulate=first.accumulate,
            tokens_per_batch=first.tokens_per_batch,
        )
        self.parts = list(parts.values())
        self.sizes = [len(part.encoded["train"]) for part in self.parts if "train" in part.encoded]
        self.chances = mixture.probabilities(self.sizes, temperature) if self.sizes else []

    @property
    def num_batches(self) -> int:
        return sum(part.num_batches for part in self._placed())

    def _placed(self) -> list[TransferData]:
        for part in self.parts:
            part.trainer = self.trainer
        return self.parts

    def train_dataloader(self) -> DataLoader:
        loaders = [part.train_dataloader() for part in self._placed()]
        samplers: list[Any] = [loader.batch_sampler for loader in loaders]
        sampler = MixedBatches(samplers, self.chances, seed=self.seed)
        return self._training(MixedRows([loader.dataset for loader in loaders]), sampler, self._collate_set)

    def _collate_set(self, rows: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        number = rows[0][0]
        batch = self.parts[number].collate([row for _, row in rows])
        return batch | {"set": torch.full((len(rows),), number)}

    def val_dataloader(self) -> Any:
        return [part.val_dataloader() for part in self._placed()]

    def test_dataloader(self) -> Any:
        return [part.test_dataloader() for part in self._placed()]
