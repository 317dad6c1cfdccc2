from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from transfer.data.budgets import check_size, order, subset, subset_hash
from transfer.errors import UserError

IMBALANCED = ["a"] * 700 + ["b"] * 250 + ["c"] * 45 + ["d"] * 5
BALANCED = [f"class {index % 7}" for index in range(700)]
NUMBERS = [float(value) for value in np.random.default_rng(0).normal(size=500)]
LISTS = [["x"], ["x", "y"], [], ["x", "rare"], ["y"]] * 40


@pytest.mark.parametrize("labels", [IMBALANCED, BALANCED, NUMBERS, LISTS, ["a"], []])
@pytest.mark.parametrize("seed", [0, 7])
def test_order_is_a_permutation_that_depends_on_the_seed_alone(labels: list, seed: int) -> None:
    permutation = order(labels, seed)
    assert sorted(permutation) == list(range(len(labels)))
    assert np.array_equal(permutation, order(labels, seed))
    if len(labels) > 1:
        assert not np.array_equal(permutation, order(labels, seed + 1))


@pytest.mark.parametrize("labels", [IMBALANCED, BALANCED])
def test_every_prefix_has_the_proportions_and_all_classes(labels: list[str]) -> None:
    permutation = order(labels, 3)
    totals = Counter(labels)
    for size in range(1, len(labels) + 1):
        counts = Counter(labels[row] for row in permutation[:size])
        if size >= len(totals):
            assert set(counts) == set(totals)
        for name, total in totals.items():
            # in small budgets, a rare class has its guaranteed row before it is due
            assert abs(counts[name] - size * total / len(labels)) <= (1.5 if size >= 200 else len(totals))


def test_the_first_rows_are_random_inside_a_class() -> None:
    chosen = {int(row) for seed in range(20) for row in order(BALANCED, seed)[:7]}
    assert len(chosen) > 70


def test_prefixes_of_numbers_are_spread_over_the_deciles() -> None:
    edges = np.quantile(NUMBERS, np.linspace(0.1, 0.9, 9))
    for size in (10, 50, 100, 300):
        deciles = Counter(np.digitize(np.take(NUMBERS, order(NUMBERS, 1)[:size]), edges).tolist())
        assert len(deciles) == 10
        assert max(deciles.values()) - min(deciles.values()) <= 2


def test_lists_show_all_their_classes_early() -> None:
    shown = [set(LISTS[row]) for row in order(LISTS, 0)[:3]]
    assert set().union(*shown) == {"x", "y", "rare"}


def test_groups_stay_together_and_all_classes_come_first() -> None:
    groups = [f"g{index // 10}" for index in range(100)]
    labels = [("b" if index // 10 in (3, 7) else "a") for index in range(100)]
    labels[99] = "c"
    permutation = order(labels, 0, groups)
    assert sorted(permutation) == list(range(100))
    visited = [groups[row] for row in permutation]
    assert sum(before != after for before, after in pairwise(visited)) == 9
    assert {labels[row] for row in permutation[:30]} == {"a", "b", "c"}


def test_rows_without_a_group_are_groups_of_their_own() -> None:
    labels = ["a", "b"] * 20
    permutation = order(labels, 0, [None] * 40)
    assert np.array_equal(permutation, order(labels, 0))


def test_subsets_are_nested() -> None:
    small, large = (set(subset(IMBALANCED, size, 5, "target.data").tolist()) for size in (100, 200))
    assert (len(small), len(large)) == (100, 200)
    assert small < large
    assert subset(IMBALANCED, None, 5, "target.data").tolist() == list(range(1000))
    assert set(subset(IMBALANCED, 100, 6, "target.data").tolist()) != small


@pytest.mark.parametrize(
    ("labels", "size", "said"),
    [
        (IMBALANCED, 1001, "4 (one a class) to 1000"),
        (IMBALANCED, 3, "at least one row for each class"),
        (IMBALANCED, 0, "4 (one a class) to 1000"),
        (NUMBERS, 0, "or 1 to 500"),
        (NUMBERS, 501, "to 500"),
        (LISTS, 2, "3 (one a class) to 200"),
    ],
)
def test_impossible_sizes(labels: list, size: int, said: str) -> None:
    with pytest.raises(UserError) as caught:
        subset(labels, size, 0, "target.data")
    (problem,) = caught.value.problems
    assert problem.key == "target.data.train_size"
    assert problem.received == size
    assert said in str(problem)


@pytest.mark.parametrize(("labels", "size"), [(IMBALANCED, 4), (IMBALANCED, 1000), (NUMBERS, 1), (LISTS, 3)])
def test_the_limits_are_possible(labels: list, size: int) -> None:
    check_size(labels, size, "target.data")
    assert len(subset(labels, size, 0, "target.data")) == size


def test_subset_hash_is_of_the_set() -> None:
    assert subset_hash(["a", "b", "c"]) == subset_hash(["c", "a", "b"])
    assert len(subset_hash([])) == 16
    assert len({subset_hash(ids) for ids in (["a", "b"], ["ab"], ["a"], ["a", "b", "b"])}) == 4
