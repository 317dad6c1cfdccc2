"""Batches of so many tokens, `budget.tokens_per_batch`: the sampler alone, then what it makes of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.test_batches import SINGLE, Interrupt
from transfer.config import Budget, Freezing
from transfer.data.batches import SPREAD, ByRows, ByTokens, cuts, rounded_up
from transfer.data.module import LengthGroupedBatches
from transfer.identity import budget_identity


def lengths(num_rows, seed=0):
    return np.random.default_rng(seed).integers(2, 100, size=num_rows)


def sampler(num_rows, tokens, *, epoch=0, seed=0, **options):
    made = LengthGroupedBatches(lengths(num_rows), 1, seed=seed, tokens=tokens, **options)
    made.set_epoch(epoch)
    return made


def rows_of(batches):
    return [[row for row, share, _ in batch if share] for batch in batches]


def padding(batches, sizes):
    return 1 - sum(sizes[row] for batch in batches for row in batch) / sum(
        len(batch) * max(sizes[row] for row in batch) for batch in batches
    )


@pytest.mark.parametrize("tokens", [99, 100, 512, 4096, 10**6])
@pytest.mark.parametrize("num_rows", [1, 2, 50, 1000])
def test_every_row_comes_once_and_no_batch_has_more_tokens(num_rows, tokens):
    sizes = lengths(num_rows)
    for epoch in range(4):
        made = rows_of(sampler(num_rows, tokens, epoch=epoch))
        assert sorted(row for batch in made for row in batch) == list(range(num_rows))
        assert max(len(batch) * max(sizes[row] for row in batch) for batch in made) <= tokens


def test_all_epochs_have_the_same_number_of_batches():
    """The learning rate's curve is made for a number of steps."""
    made = [sampler(1003, 700, epoch=epoch, seed=seed) for epoch in range(10) for seed in range(3)]
    assert {len(each) for each in made} == {len(list(each)) for each in made} == {len(ByTokens(lengths(1003), 700))}


def test_batches_are_nearly_full():
    sizes = lengths(2000)
    made = rows_of(sampler(2000, 1600))
    filled = [len(batch) * max(sizes[row] for row in batch) / 1600 for batch in made]
    assert np.mean(filled) > 0.9


def test_there_is_little_padding_and_the_most_is_known():
    sizes = lengths(2000)
    assert padding(rows_of(sampler(2000, 1600)), sizes) < 0.06
    counted = rounded_up(sizes)
    assert (counted >= sizes).all()
    assert (counted <= SPREAD * sizes).all()
    assert set(counted) <= set(sizes)


def test_by_hand():
    """10 rows of 10 tokens and 10 of 5, in 60 tokens: 6 + 4 of ten; of the short ones two fill up, 8 are left."""
    sizes = np.array([10] * 10 + [5] * 10)
    assert [part.stop - part.start for part in cuts(-np.sort(-sizes), 60)] == [6, 6, 8]
    assert sorted(map(len, ByTokens(sizes, 60).draw(np.random.default_rng(0)))) == [6, 6, 8]
    assert padding(ByTokens(sizes, 60).draw(np.random.default_rng(0)), sizes) == pytest.approx(1 - 150 / 160)
    assert padding(ByRows(sizes, 10).draw(np.random.default_rng(0)), sizes) == 0
    assert [part.stop - part.start for part in cuts(np.array([9, 9, 9, 3, 3]), 9)] == [1, 1, 1, 2]
    assert [part.stop - part.start for part in cuts(np.array([9, 9, 9, 3, 3]), 9, least=2)] == [2, 2, 1]


def test_the_order_is_that_of_seed_and_epoch():
    assert list(sampler(300, 700)) == list(sampler(300, 700))
    orders = [str(list(sampler(300, 700, epoch=epoch, seed=seed))) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9


def test_the_epochs_differ_in_what_stands_together_and_mix_long_and_short():
    sizes = lengths(4000)
    epochs = [rows_of(sampler(4000, 800, epoch=epoch)) for epoch in range(2)]
    together = [{frozenset(batch) for batch in batches} for batches in epochs]
    assert len(together[0] & together[1]) < 5
    means = [sizes[batch].mean() for batch in epochs[0]]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


def test_a_fingerprint_has_the_size_that_is_used():
    before = {"max_epochs": 4, "max_steps": None, "min_steps": 0, "batch_size": 16, "patience": None}
    assert budget_identity(Budget()) == before
    tokens = budget_identity(Budget(tokens_per_batch=512))
    assert tokens == budget_identity(Budget(tokens_per_batch=512, batch_size=32))
    assert tokens["tokens_per_batch"] == 512


@pytest.mark.parametrize("start", [0, 1, 7])
def test_an_epoch_goes_on_after_the_batches_seen(start):
    made = sampler(300, 700, epoch=2)
    whole = list(made)
    made.start = start
    assert list(made) == whole[start:]
    assert list(made) == whole


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_share_the_batches_of_one_process(world_size, weighted):
    """As many steps, and the mean over the ranks is the mean of the whole batch, also where that has one row."""
    random = np.random.default_rng(0)
    losses, weights = random.random(103), random.random(103) if weighted else np.ones(103)
    alone = rows_of(sampler(103, 150, epoch=1))
    parts = [
        list(sampler(103, 150, epoch=1, rank=rank, world_size=world_size, weights=weights))
        for rank in range(world_size)
    ]
    assert min(map(len, alone)) == 1, "a batch with fewer rows than there are ranks"
    for whole, *pieces in zip(alone, *parts, strict=True):
        assert all(pieces), "every rank takes the step"
        assert sorted(row for piece in rows_of(pieces) for row in piece) == sorted(whole)
        means = [sum(losses[row] * share for row, share, _ in piece) for piece in pieces]
        assert np.mean(means) == pytest.approx(np.average(losses[whole], weights=weights[whole]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_takes_twice_as_many_tokens_and_covers_every_row_once(text_data, world_size):
    data = text_data(num_rows=50, batch_size=1)
    data.tokens_per_batch = 30
    sizes, rows = data.encoded["test"]["length"][:], []
    for rank in range(world_size):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=SINGLE)
        made = [batch["index"].tolist() for batch in data.test_dataloader()]
        assert all(made)
        assert max(len(batch) * max(sizes[row] for row in batch) for batch in made) <= 60
        rows += [row for batch in made for row in batch]
    assert sorted(rows) == list(range(50))


@pytest.mark.parametrize("tokens", [None, 60])
def test_a_resumed_run_sees_what_the_whole_run_sees_and_padding_is_counted(
    tiny_model, fit, text_data, tmp_path, tokens
):
    path, policy = tmp_path / "mid.ckpt", Freezing()

    def data():
        made = text_data(num_rows=40, seed=3)
        made.tokens_per_batch = tokens
        return made

    steps = data().num_batches
    whole, rest = Interrupt(path, step=steps + 2), Interrupt()
    trained, resumed = tiny_model("lstm"), tiny_model("lstm", seed=1)
    module = fit(trained, policy, callbacks=[whole], data=data(), max_epochs=3)
    fit(resumed, policy, callbacks=[rest], data=data(), max_epochs=3, ckpt_path=path)
    assert len(whole.rows) == 3 * steps == module.trainer.estimated_stepping_batches
    assert rest.rows == whole.rows[steps + 2 :]
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in trained.state_dict().items())

    sizes = data().encoded["train"]["length"][:]
    padded = sum(len(rows) * max(sizes[row] for row in rows) for _, rows, _ in whole.rows)
    assert module.num_tokens == padded
    assert int(module.num_padding) == padded - 3 * sum(sizes)
