"""The DataModule: encoded splits, batches of similar length in an order that only the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

# Rows are sorted by length inside pools of this many batches: little padding, and still a random order.
POOL = 50


class LengthGroupedBatches(Sampler[list[int]]):
    """Global batches of rows of similar length, cut for one of several ranks.

    The order depends on (seed, epoch) alone. `start` skips the batches that an interrupted epoch has already seen.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        # Every rank needs the same number of batches, so a rest smaller than the number of ranks is left out.
        return max(full + (rest >= self.world_size), 1)

    def batches(self) -> list[np.ndarray]:
        """The global batches of this epoch, in order."""
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        pool = self.batch_size * POOL
        chunks: list[np.ndarray] = []
        for begin in range(0, len(order), pool):
            part = order[begin : begin + pool]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            chunks += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        # A short batch stays last, so that it is the one left out where it cannot be divided among the ranks.
        whole = [chunk for chunk in chunks if len(chunk) == self.batch_size]
        short = [chunk for chunk in chunks if len(chunk) < self.batch_size]
        mixed = [whole[i] for i in random.permutation(len(whole))] + short
        return mixed[: len(self)]

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self.batches()[start:]:
            yield batch[self.rank :: self.world_size].tolist()


class ResumableLoader(DataLoader):
    """A DataLoader that knows how many batches of its epoch it gave out, for a checkpoint in mid-epoch."""

    given = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self.batch_sampler
        assert isinstance(sampler, LengthGroupedBatches)
        self.given = sampler.start
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        assert isinstance(self.batch_sampler, LengthGroupedBatches)
        return {"epoch": self.batch_sampler.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the last batch that was given out; after a whole epoch, at the beginning of one."""
        sampler = self.batch_sampler
        assert isinstance(sampler, LengthGroupedBatches)
        sampler.set_epoch(state["epoch"])
        sampler.start = state["given"] if state["given"] < len(sampler) else 0


class Rows(torch.utils.data.Dataset):
    """An encoded split whose rows know their number."""

    def __init__(self, encoded: Dataset) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.encoded[index], "index": index}


class TransferData(LightningDataModule):
    """Train, validation and test of one leg, encoded. `batch_size` is the global one."""

    def __init__(
        self,
        encoded: dict[str, Dataset],
        task: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.encoded = encoded
        self.task = task
        self.tokenizer = tokenizer
        self.micro_batch = max(1, batch_size // accumulate)
        self.seed = seed
        self.num_workers = num_workers
        self.resumed: dict[str, int] = {}

    def state_dict(self) -> dict[str, int]:
        loader: Any = self.trainer.train_dataloader if self.trainer else None
        return loader.state_dict() if loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        # Lightning gives a loader its state back only when making it, and configure_optimizers, asking for the number
        # of steps, has it made before the loops are restored. The state of the data is there before both.
        self.resumed = state_dict

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.task.collate(rows, self.tokenizer)
        batch["labels"] = self.task.label_tensor([row["label"] for row in rows])
        return batch

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self._ranks()
        encoded = self.encoded["train"]
        lengths = np.asarray(encoded["length"])
        sampler = LengthGroupedBatches(lengths, self.micro_batch, seed=self.seed, rank=rank, world_size=world_size)
        loading: Any = partial(ResumableLoader, num_workers=self.num_workers, persistent_workers=self.num_workers > 0)
        loader: ResumableLoader = loading(
            Rows(encoded), batch_sampler=sampler, collate_fn=self._collate, pin_memory=torch.cuda.is_available()
        )
        if self.resumed:
            loader.load_state_dict(self.resumed)
        return loader

    def _evaluation(self, split: str) -> DataLoader:
        """Every row once over all ranks, longest first so that memory runs out at the start or not at all."""
        rank, world_size = self._ranks()
        encoded = self.encoded[split]
        order = np.argsort(-np.asarray(encoded["length"]), kind="stable")
        size = max(1, 2 * self.micro_batch)
        chunks = [order[i : i + size * world_size] for i in range(0, len(order), size * world_size)]
        batches = [batch.tolist() for chunk in chunks if len(batch := chunk[rank::world_size])]
        return DataLoader(Rows(encoded), batch_sampler=batches, collate_fn=self._collate, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("validation")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")
