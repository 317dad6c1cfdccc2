"""The DataModule: encoded splits, batches of similar length in an order that only the seed and the epoch decide."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from transfer.data.batches import ByRows, ByTokens, cuts
from transfer.data.mapped import array, release
from transfer.data.workers import Watch


class ResumableBatches(Sampler[Any]):
    """Batches in an order that each epoch has for itself. `start` skips what an interrupted epoch has already seen."""

    epoch = 0
    start = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many batches an epoch has."""

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0


class LengthGroupedBatches(ResumableBatches):
    """Global batches of rows of similar length, cut for one of several ranks: (row, share, epoch) of this rank's rows.

    The order depends on (seed, epoch) alone.
    A row's share is its part in the mean loss of the global batch, times the number of ranks, over which gradients are
    averaged: so a batch that is cut unequally gives the gradient of the whole one.

    Args:
        weights: what each row counts in the mean loss of a batch [rows]; equal without.
        tokens: the most that a global batch has, padding included; `batch_size` is not used then.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
        tokens: int | None = None,
    ) -> None:
        self.grouping = ByRows(lengths, batch_size) if tokens is None else ByTokens(lengths, tokens)
        self.weights = np.ones(len(lengths)) if weights is None else weights
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(self.grouping)

    def batches(self) -> list[np.ndarray]:
        """The global batches of this epoch, in order."""
        return self.grouping.draw(np.random.default_rng([self.seed, self.epoch]))

    def __iter__(self) -> Iterator[list[tuple[int, float, int]]]:
        start, self.start = self.start, 0
        for batch in self.batches()[start:]:
            # A batch of rows that all weigh nothing has no gradient.
            total = float(self.weights[batch].sum()) or 1.0
            own = batch[self.rank :: self.world_size]
            shares = self.weights[own] * self.world_size / total
            # Every rank takes every step: one without a row of the last batch goes through one that counts nothing.
            rows = list(zip(own.tolist(), shares.tolist(), strict=True)) or [(int(batch[0]), 0.0)]
            yield [(row, share, self.epoch) for row, share in rows]


class ResumableLoader(DataLoader):
    """A DataLoader that knows how many batches of its epoch it gave out, for a checkpoint in mid-epoch.

    With a `watch` it begins without processes of its own, and goes on with as many as that finds worth it.
    """

    given = 0
    watch: Watch | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self.batch_sampler
        assert isinstance(sampler, ResumableBatches)
        self.given = sampler.start
        batches: Iterator[Any] = super().__iter__()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            given = time.perf_counter()
            self.given += 1
            yield batch
            if self.watch is None or self.watch.decided:
                continue
            self.num_workers = self.watch.saw(given - asked, time.perf_counter() - given)
            if self.num_workers:
                self.prefetch_factor = 2  # torch's default where there are processes from the beginning
                sampler.start = self.given
                batches = super().__iter__()

    def state_dict(self) -> dict[str, int]:
        assert isinstance(self.batch_sampler, ResumableBatches)
        return {"epoch": self.batch_sampler.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the last batch that was given out; after a whole epoch, at the beginning of one."""
        sampler = self.batch_sampler
        assert isinstance(sampler, ResumableBatches)
        sampler.set_epoch(state["epoch"])
        sampler.start = state["given"] if state["given"] < len(sampler) else 0


class Rows(torch.utils.data.Dataset):
    """An encoded split whose rows know their number, what they count in the loss, and in training what seeds a draw.

    The draw's seed is a row's own in each epoch: it does not depend on ranks, workers or where a run was resumed.
    """

    def __init__(self, encoded: Dataset, weights: np.ndarray, seed: int = 0) -> None:
        self.encoded = encoded
        self.weights = weights
        self.seed = seed

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, key: int | tuple[int, float, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, float, int]]) -> list[dict[str, Any]]:
        """A batch at once: 16 rows one by one take an Arrow table three times as long."""
        numbers = [key[0] if isinstance(key, tuple) else key for key in keys]
        rows = self.encoded.__getitems__(numbers)
        return [{**row, **self._about(key)} for row, key in zip(rows, keys, strict=True)]

    def _about(self, key: int | tuple[int, float, int]) -> dict[str, Any]:
        if not isinstance(key, tuple):
            return {"index": key, "share": float(self.weights[key])}
        index, share, epoch = key
        return {"index": index, "share": share, "draw": [self.seed, epoch, index]}


class TransferData(LightningDataModule):
    """Train, validation and test of one leg, encoded.

    A batch holds `inputs`, `labels`, `index` and `share` [rows]: in training each row's part in the mean loss of the
    global batch, in evaluation what it counts in the mean over the split. All tensors have the rows first.

    Args:
        encoded: the encoded rows of each split.
        rows: the rows themselves.
        batch_size: the global one, in rows.
        tokens_per_batch: the global one in tokens with padding, in place of `batch_size`.
        max_length: the number of tokens to which the inputs were cut.
        num_workers: processes that load batches; None: those that the first steps of training show to be worth it.
        accumulate: into how many parts a step is cut; evaluation takes batches twice as large as one.
    """

    def __init__(
        self,
        encoded: dict[str, Dataset],
        rows: dict[str, Dataset],
        task: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        seed: int,
        max_length: int,
        num_workers: int | None = None,
        accumulate: int = 1,
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.encoded = encoded
        self.rows = rows
        self.task = task
        self.tokenizer = task.tokenizer = tokenizer
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.max_length = max_length
        self.num_workers = num_workers
        self.resumed: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # For processes that load batches where they are not forked: of all this they need what `collate` does.
        return {**self.__dict__, "trainer": None}

    def state_dict(self) -> dict[str, int]:
        loader: Any = self.trainer.train_dataloader if self.trainer else None
        return loader.state_dict() if loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        # Lightning gives a loader its state back only when making it, and configure_optimizers, asking for the number
        # of steps, has it made before the loops are restored. The state of the data is there before both.
        self.resumed = state_dict

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.task.collate(rows, self.tokenizer)
        batch["share"] = torch.tensor([row["share"] for row in rows])
        return batch

    def _weights(self, split: str) -> np.ndarray:
        weights: np.ndarray = self.task.example_weights(self.encoded[split])
        return weights

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _lengths(self, split: str) -> np.ndarray:
        """The tokens of each encoded row of a split: of all its texts, where a row has several."""
        return array(self.encoded[split], "length") * self.task.texts_per_row

    @property
    def num_batches(self) -> int:
        """How many steps an epoch has, on every rank."""
        return len(self._sampler())

    def _sampler(self, weights: np.ndarray | None = None) -> LengthGroupedBatches:
        rank, world_size = self._ranks()
        return LengthGroupedBatches(
            self._lengths("train"),
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            weights=weights,
            tokens=self.tokens_per_batch,
        )

    def train_dataloader(self) -> DataLoader:
        weights = self._weights("train")
        rows = Rows(self.encoded["train"], weights, self.seed)
        return self._training(rows, self._sampler(weights), self.collate)

    def _training(self, rows: torch.utils.data.Dataset, sampler: ResumableBatches, collate: Any) -> ResumableLoader:
        """The loader of these batches, that goes on where a resumed run was."""
        number = self.num_workers or 0
        loading: Any = partial(ResumableLoader, num_workers=number, persistent_workers=number > 0)
        loader: ResumableLoader = loading(rows, batch_sampler=sampler, collate_fn=collate, pin_memory=self._pinned)
        loader.watch = Watch() if self.num_workers is None else None
        if self.resumed:
            loader.load_state_dict(self.resumed)
        return loader

    def every_row(self, split: str, tokens: int | None = None) -> DataLoader:
        """Every row once over all ranks, longest first so that memory runs out at the start or not at all.

        Args:
            tokens: about so many in each batch of all ranks, padding included; without it, evaluation's own.
        """
        rank, world_size = self._ranks()
        encoded, lengths = self.encoded[split], self._lengths(split)
        order = np.argsort(-lengths, kind="stable")
        if tokens is None and self.tokens_per_batch is not None:
            tokens = 2 * self.tokens_per_batch // self.accumulate
        if tokens is None:
            size = 2 * max(1, self.batch_size // self.accumulate) * world_size
            chunks = [order[i : i + size] for i in range(0, len(order), size)]
        else:
            chunks = [order[part] for part in cuts(lengths[order], tokens, least=world_size)]
        batches = [batch.tolist() for chunk in chunks if len(batch := chunk[rank::world_size])]
        rows = Rows(encoded, self._weights(split))
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.num_workers or 0,
            pin_memory=self._pinned,
        )

    def tokens_per_step(self) -> int:
        """About so many go through the model at once in training, in all processes together."""
        if self.tokens_per_batch is not None:
            return self.tokens_per_batch // self.accumulate
        rows = max(1, self.batch_size // self.accumulate)
        return max(1, round(rows * float(self._lengths("train").mean())))

    @property
    def _pinned(self) -> bool:
        """Memory that a CUDA device reads by itself, where there is one that wants it."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def val_dataloader(self) -> DataLoader:
        return self.every_row("validation")

    def test_dataloader(self) -> DataLoader:
        for encoded in self.encoded.values():  # those of the training are not read again
            release(encoded)
        return self.every_row("test")
