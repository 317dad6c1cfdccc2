"""Label budgets: which N labelled rows a run may see."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from transfer.errors import Problem, UserError


def order(labels: Sequence[Any], seed: int, groups: Sequence[str | None] | None = None) -> np.ndarray:
    """A permutation of the rows whose every prefix is stratified; so the budget N=100 is the start of N=200.

    Inside each class the rows are shuffled; the i-th of a class of n rows gets the place (i + 1/2) / n, and the rows
    are sorted by place. A prefix therefore shares its N rows among the classes as Webster's apportionment does: each
    class is within about one row of its proportion. One exception: the rows that first show a class come first of
    all, so that N = number of classes has them all.

    Labels are class names, lists of names (a row counts as its rarest class) or floats (the deciles are the classes).
    With ``groups`` (None is a group of its own) whole groups are ordered in this way, each as its commonest class;
    the rows of a group stay together, in their own order.
    """
    generator = np.random.default_rng(seed)
    classes, members = strata(labels)
    unit_of_row = _units(groups, len(classes))
    size = int(unit_of_row.max()) + 1 if len(classes) else 0
    unit_strata = _commonest(unit_of_row, classes)
    shuffle = generator.permutation(size)
    by_class = shuffle[np.argsort(unit_strata[shuffle], kind="stable")]
    counts = np.bincount(unit_strata)
    rank = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(size)
    place[by_class] = (rank + 0.5) / np.repeat(counts, counts)
    # equal places (classes of one size) are put in random order
    ordered = np.lexsort((generator.permutation(size), place))
    first = _covering(ordered, unit_of_row, members)
    later = ordered[~np.isin(ordered, first)]
    position = np.empty(size, dtype=np.int64)
    position[np.concatenate([first, later])] = np.arange(size)
    return np.argsort(position[unit_of_row], kind="stable")


def check_size(labels: Sequence[Any], train_size: int | None, key: str) -> None:
    """Raise if the training rows cannot give ``train_size`` of them; ``key`` is the prefix, such as target.data.

    Raises:
        UserError: ``train_size`` is below 1 or the number of classes, or above the number of rows.
    """
    if train_size is None:
        return
    _, members = strata(labels)
    named = bool(len(labels)) and not isinstance(labels[0], float | np.floating)
    classes = len({name for row in members for name in row}) if named else 1
    if not max(classes, 1) <= train_size <= len(labels):
        least = f"{classes} (one a class)" if classes > 1 else "1"
        allowed = f"null (all rows) or {least} to {len(labels)} (all training rows)"
        action = "Validation and test rows are taken out before the budget; make it smaller or get more rows."
        if train_size < classes:
            action = "Give it at least one row for each class."
        raise UserError(Problem(f"{key}.train_size", train_size, allowed, action))


def subset(labels: Sequence[Any], train_size: int | None, subset_seed: int, key: str) -> np.ndarray:
    """The indices of the first ``train_size`` rows in the `order` of ``subset_seed``; of all rows if it is None.

    Raises:
        UserError: see `check_size`.
    """
    check_size(labels, train_size, key)
    if train_size is None:
        return np.arange(len(labels))
    return order(labels, subset_seed)[:train_size]


def subset_hash(ids: Iterable[str]) -> str:
    """16 hex digits that name a set of examples, in whatever order they come."""
    digest = hashlib.blake2b(digest_size=8)
    for row_id in sorted(ids):
        digest.update(row_id.encode() + b"\0")
    return digest.hexdigest()


def strata(labels: Sequence[Any], most: int = 10) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """The class number by which each row is stratified, and all the classes it shows.

    Numbers are put into ``most`` classes of one size, by rank.
    """
    if len(labels) and isinstance(labels[0], float | np.floating):
        values = np.asarray(labels, dtype=np.float64)
        ranks = np.empty(len(values), dtype=np.int64)
        ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
        parts = ranks * min(most, len(values)) // len(values)
        return parts, [(int(part),) for part in parts]
    members = [tuple(label) if isinstance(label, list | tuple) else (label,) for label in labels]
    counts: dict[Any, int] = {}
    for names in members:
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    numbers = {name: index for index, name in enumerate(sorted(counts))}
    # rows with no class at all (multi-label) make a stratum of their own
    classes = [
        numbers[min(names, key=lambda name: (counts[name], name))] if names else len(numbers) for names in members
    ]
    return np.array(classes, dtype=np.int64), members


def _units(groups: Sequence[str | None] | None, size: int) -> np.ndarray:
    """The number of each row's group, from 0 in order of appearance."""
    if groups is None:
        return np.arange(size)
    numbers: dict[Any, int] = {}
    names = (("row", row) if group is None else ("group", group) for row, group in enumerate(groups))
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _commonest(unit_of_row: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """For each unit, the stratum that most of its rows have."""
    pairs, counts = np.unique(np.stack([unit_of_row, strata], axis=1), axis=0, return_counts=True)
    # the last pair of each unit, when they are sorted by unit and then by count, has its largest count
    by_count = pairs[np.lexsort((counts, pairs[:, 0]))]
    last = np.flatnonzero(np.diff(by_count[:, 0], append=-1))
    return by_count[last, 1]


def _covering(ordered: np.ndarray, unit_of_row: np.ndarray, members: list[tuple[Any, ...]]) -> np.ndarray:
    """The units that show a class for the first time, in the order given."""
    unseen = {name for names in members for name in names}
    rows = np.argsort(unit_of_row, kind="stable")
    bounds = np.searchsorted(unit_of_row[rows], np.arange(len(ordered) + 1))
    first = []
    for unit in ordered:
        if not unseen:
            break
        shown = {name for row in rows[bounds[unit] : bounds[unit + 1]] for name in members[row]}
        if shown & unseen:
            first.append(unit)
            unseen -= shown
    return np.array(first, dtype=np.int64)
