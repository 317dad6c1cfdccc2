from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from transfer.config import Freezing
from transfer.data.batches import POOL
from transfer.data.module import LengthGroupedBatches

SINGLE = SimpleNamespace(root_device=torch.device("cpu"))
SIZES = [(1, 8), (7, 8), (8, 8), (24, 8), (25, 8), (31, 8), (1000, 16), (1003, 16), (50, 1)]


def lengths(num_rows, seed=0):
    return np.random.default_rng(seed).integers(2, 100, size=num_rows)


def shared(num_rows, batch_size, *, epoch=0, seed=0, **options):
    sampler = LengthGroupedBatches(lengths(num_rows), batch_size, seed=seed, **options)
    sampler.set_epoch(epoch)
    return [[(row, share) for row, share, _ in batch] for batch in sampler]


def batches(num_rows, batch_size, **options):
    return [[row for row, share in batch if share] for batch in shared(num_rows, batch_size, **options)]


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize(("num_rows", "batch_size"), SIZES)
def test_every_row_comes_once_in_an_epoch(num_rows, batch_size, epoch):
    made = batches(num_rows, batch_size, epoch=epoch)
    assert sorted(row for batch in made for row in batch) == list(range(num_rows))
    assert [len(batch) for batch in made[:-1]] == [batch_size] * (len(made) - 1)
    assert len(made) == len(LengthGroupedBatches(lengths(num_rows), batch_size, seed=0)) == -(-num_rows // batch_size)


def test_the_order_is_that_of_seed_and_epoch():
    assert batches(300, 8) == batches(300, 8)
    orders = [batches(300, 8, epoch=epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len({str(order) for order in orders}) == len(orders)


def test_a_sampler_used_for_other_epochs_before_gives_the_same():
    sampler = LengthGroupedBatches(lengths(100), 8, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(sampler) == first


def test_the_epochs_differ_in_what_stands_together():
    """And not only in the order of ever the same batches."""
    together = [{frozenset(batch) for batch in batches(2000, 8, epoch=epoch)} for epoch in range(2)]
    assert len(together[0] & together[1]) < 5


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("num_rows", "batch_size"), [(24, 12), (100, 12), (103, 12), (104, 12)])
def test_the_ranks_share_the_batches_of_a_single_process(num_rows, batch_size, world_size):
    alone = batches(num_rows, batch_size, epoch=2)
    parts = [batches(num_rows, batch_size, epoch=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1, "every rank has to make the same number of steps"
    for whole, *pieces in zip(alone, *parts, strict=True):
        assert sorted(row for piece in pieces for row in piece) == sorted(whole)
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    sampler = LengthGroupedBatches(lengths(num_rows), batch_size, seed=0, world_size=world_size)
    assert len(sampler) == len(parts[0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_mean_over_ranks_is_the_mean_of_the_whole_batch(world_size, weighted):
    """Also of the last batch, which has fewer rows than there are ranks: 26 = 2 x 12 + 2."""
    random = np.random.default_rng(0)
    losses, weights = random.random(26), random.random(26) if weighted else np.ones(26)
    options = {"world_size": world_size, "weights": weights}
    ranks = [shared(26, 12, rank=rank, **options) for rank in range(world_size)]
    for whole, *pieces in zip(batches(26, 12), *ranks, strict=True):
        assert all(pieces), "a rank without a row would not take the step"
        means = [sum(losses[row] * share for row, share in piece) for piece in pieces]
        assert np.mean(means) == pytest.approx(np.average(losses[whole], weights=weights[whole]))


def padding(made, sizes):
    """The fraction of a padded batch that holds no token."""
    padded = sum(len(batch) * max(sizes[batch]) for batch in made)
    return 1 - sum(sizes[row] for batch in made for row in batch) / padded


def test_there_is_little_padding():
    sizes = lengths(2000)
    at_random = np.random.default_rng(0).permutation(2000).reshape(-1, 16).tolist()
    assert padding(at_random, sizes) > 0.4
    assert padding(batches(2000, 16), sizes) < 0.03


def test_long_and_short_batches_are_mixed():
    """Sorted by length an epoch would be a curriculum."""
    sizes = lengths(16 * POOL)
    means = [sizes[batch].mean() for batch in batches(16 * POOL, 16)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


@pytest.mark.parametrize("start", [0, 1, 5, 12])
def test_an_epoch_goes_on_after_the_batches_seen(start):
    sampler = LengthGroupedBatches(lengths(100), 8, seed=0)
    whole = list(sampler)
    sampler.start = start
    assert list(sampler) == whole[start:]
    assert list(sampler) == whole, "only the epoch that was interrupted is cut"


def seen(loader):
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("given", [0, 1, 2, 3])
def test_a_loader_goes_on_from_its_state(text_data, given, num_workers):
    data = text_data(num_rows=24, batch_size=8)
    data.num_workers = num_workers
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(4)
    iterator = iter(loader)
    first = [next(iterator)["index"].tolist() for _ in range(given)]
    state = loader.state_dict()
    assert state == {"epoch": 4, "given": given}
    whole = first + [batch["index"].tolist() for batch in iterator]

    data.load_state_dict(state)
    again = data.train_dataloader()
    assert seen(again) == (whole[given:] if given < 3 else whole)
    again.batch_sampler.set_epoch(5)
    loader.batch_sampler.set_epoch(5)
    assert seen(again) == seen(loader) != whole


def test_the_next_epoch_is_whole_where_the_last_was_cut_short(text_data):
    """As limit_train_batches does: the state at its end looks like that of an interruption."""
    data = text_data(num_rows=24, batch_size=8)
    data.load_state_dict({"epoch": 4, "given": 2})
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(5)
    assert len(seen(loader)) == 3


def test_a_batch_holds_rows_and_their_own_labels(text_data):
    data = text_data(num_rows=24, batch_size=8)
    encoded = data.encoded["train"]
    for batch in data.train_dataloader():
        assert batch["inputs"]["input_ids"].shape == batch["inputs"]["attention_mask"].shape
        longest = max(encoded[row]["length"] for row in batch["index"].tolist())
        assert batch["inputs"]["input_ids"].shape == (8, longest)
        for row, ids, mask, label in zip(
            batch["index"].tolist(),
            batch["inputs"]["input_ids"],
            batch["inputs"]["attention_mask"],
            batch["labels"],
            strict=True,
        ):
            assert ids[mask.bool()].tolist() == encoded[row]["input_ids"]
            assert label.item() == encoded[row]["label"]
            assert label.dtype == torch.int64


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_batch_of_the_config_is_the_global_one(text_data, accumulate):
    data = text_data(num_rows=24)
    data = type(data)(
        data.encoded, data.rows, data.task, data.tokenizer, batch_size=8, seed=0, max_length=16, accumulate=accumulate
    )
    assert {len(batch) for batch in seen(data.train_dataloader())} == {8}
    assert len(seen(data.test_dataloader())[0]) == 2 * 8 // accumulate


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_rows", [1, 2, 16, 17, 32, 33, 50])
def test_evaluation_covers_every_row_once_over_all_ranks(text_data, num_rows, world_size):
    data = text_data(num_rows=num_rows, batch_size=8)
    rows = []
    for rank in range(world_size):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=SINGLE)
        for split in ("val", "test"):
            made = seen(getattr(data, f"{split}_dataloader")())
            assert all(made), "no batch is empty"
        rows += [row for batch in made for row in batch]
    assert sorted(rows) == list(range(num_rows))


def test_evaluation_begins_with_the_longest_and_needs_no_order(text_data):
    data = text_data(num_rows=50)
    made = seen(data.test_dataloader())
    sizes = [data.encoded["test"][row]["length"] for batch in made for row in batch]
    assert sizes == sorted(sizes, reverse=True)
    assert seen(data.test_dataloader()) == made


class Interrupt(Callback):
    """Saves in mid-epoch after so many steps, and records the rows of every batch with the loss on them."""

    def __init__(self, path=None, step=None):
        self.path, self.step, self.rows = path, step, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append((trainer.current_epoch, batch["index"].tolist(), float(outputs["loss"])))
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("settings", [{}, {"limit_train_batches": 3}, {"accumulate_grad_batches": 2}])
def test_a_resumed_run_sees_what_the_whole_run_sees(tiny_model, fit, text_data, tmp_path, settings):
    """Batches, dropout, and so the losses: nothing tells where a run was interrupted."""
    path, policy = tmp_path / "mid.ckpt", Freezing()
    whole, rest = Interrupt(path, step=4), Interrupt()
    trained, resumed = tiny_model("lstm"), tiny_model("lstm", seed=1)
    common = {"max_epochs": 3, "trainer": settings}
    fit(trained, policy, callbacks=[whole], data=text_data(num_rows=40, seed=3), **common)
    fit(resumed, policy, callbacks=[rest], data=text_data(num_rows=40, seed=3), ckpt_path=path, **common)
    assert rest.rows
    assert rest.rows == whole.rows[-len(rest.rows) :]
    assert len(whole.rows) - len(rest.rows) == 4
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in trained.state_dict().items())
