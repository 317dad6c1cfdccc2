"""Episodes: small tasks of few labelled rows, of classes (or domains) that are divided so that some stay unseen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Episode:
    """One task: rows to learn from and rows to answer.

    Attributes:
        units: the classes in the order of their numbers in this episode, or the one domain.
        support: row numbers [units, shots].
        query: row numbers [units, queries]; none of them is in the support.
    """

    units: tuple[str, ...]
    support: np.ndarray
    query: np.ndarray


def divide(
    names: Sequence[str], *, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[str]]:
    """The classes or domains of each split, none in two; fractions are rounded, and at least 1.

    The test ones are drawn first: they do not depend on how many are for validation.
    """
    shuffled = [sorted(names)[place] for place in np.random.default_rng([seed, 0]).permutation(len(names))]
    num_test = max(1, round(test_fraction * len(names)))
    num_validation = max(1, round(validation_fraction * len(names)))
    return {
        "test": sorted(shuffled[:num_test]),
        "validation": sorted(shuffled[num_test : num_test + num_validation]),
        "train": sorted(shuffled[num_test + num_validation :]),
    }


def draw(
    rows_of: Mapping[str, np.ndarray],
    units: Sequence[str],
    *,
    ways: int,
    shots: int,
    queries: int,
    generator: np.random.Generator,
) -> Episode:
    """`ways` of the units in a random order, and `shots` + `queries` different rows of each."""
    chosen = tuple(units[place] for place in generator.choice(len(units), ways, replace=False))
    rows = np.stack([generator.choice(rows_of[unit], shots + queries, replace=False) for unit in chosen])
    return Episode(chosen, rows[:, :shots], rows[:, shots:])


def generator(split: str, seed: int, number: int) -> np.random.Generator:
    """Of one episode: each has its own stream, so that a run goes on where it was, and evaluations see the same."""
    return np.random.default_rng([seed, 1 + SPLITS.index(split), number])
