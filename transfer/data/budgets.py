"""Label budgets: which N labelled rows a run may see."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from transfer.data.stored import BLOCK
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
    if groups is None:
        ordered = _by_place(classes, generator)
        first = _first_shown(ordered, classes) if members is None else _covering(ordered, None, members)
        return np.concatenate([first, ordered[~np.isin(ordered, first)]])
    unit_of_row = _units(groups)
    ordered = _by_place(_commonest(unit_of_row, classes), generator)
    shown = [(number,) for number in classes.tolist()] if members is None else members
    first = _covering(ordered, unit_of_row, shown)
    later = ordered[~np.isin(ordered, first)]
    position = np.empty(len(ordered), dtype=np.int64)
    position[np.concatenate([first, later])] = np.arange(len(ordered))
    return np.argsort(position[unit_of_row], kind="stable")


def _by_place(classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The numbers of the units of these classes, each class in random order and spread over the whole."""
    size = len(classes)
    by_class = generator.permutation(size)
    by_class = by_class[np.argsort(classes[by_class], kind="stable")]
    place = np.empty(size)
    end = 0
    for count in np.bincount(classes).tolist():
        begin, end = end, end + count
        place[by_class[begin:end]] = (np.arange(count) + 0.5) / max(count, 1)
    del by_class
    # equal places (classes of one size) are put in random order
    return np.lexsort((generator.permutation(size), place))


def check_size(labels: Sequence[Any], train_size: int | None, key: str) -> None:
    """Raise if the training rows cannot give ``train_size`` of them; ``key`` is the prefix, such as target.data.

    Raises:
        UserError: ``train_size`` is below 1 or the number of classes, or above the number of rows.
    """
    if train_size is None:
        return
    classes = len(_counts(labels)) if len(labels) and not isinstance(labels[0], float | np.floating) else 1
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
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.blake2b(digest_size=8)
    # in Arrow they take a fifth of the memory of strings of Python, and their order, by bytes, is the same
    ids = iter(ids)
    parts = [pa.array(part, pa.large_string()) for part in iter(lambda: list(islice(ids, BLOCK)), [])]
    everything = pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())
    del parts
    order = pc.sort_indices(everything)
    for begin in range(0, len(order), BLOCK):
        for row_id in everything.take(order[begin : begin + BLOCK]).to_pylist():
            digest.update(row_id.encode() + b"\0")
    return digest.hexdigest()


def strata(labels: Sequence[Any], most: int = 10) -> tuple[np.ndarray, list[tuple[Any, ...]] | None]:
    """The class number by which each row is stratified, and all the classes it shows; None where it is that one alone.

    Numbers are put into ``most`` classes of one size, by rank.
    """
    if len(labels) and isinstance(labels[0], float | np.floating):
        values = np.asarray(labels, dtype=np.float64)
        ranks = np.empty(len(values), dtype=np.int64)
        ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
        parts = ranks * min(most, len(values)) // len(values)
        return parts, None
    counts = _counts(labels)
    numbers = {name: index for index, name in enumerate(sorted(counts))}
    if not any(isinstance(label, list | tuple) for label in labels):
        return np.fromiter(map(numbers.__getitem__, labels), np.int64, len(labels)), None
    members = [tuple(label) if isinstance(label, list | tuple) else (label,) for label in labels]
    # rows with no class at all (multi-label) make a stratum of their own
    classes = [
        numbers[min(names, key=lambda name: (counts[name], name))] if names else len(numbers) for names in members
    ]
    return np.array(classes, dtype=np.int64), members


def _counts(labels: Sequence[Any]) -> Counter[Any]:
    """How many rows show each class."""
    return Counter(chain.from_iterable(label if isinstance(label, list | tuple) else (label,) for label in labels))


def _units(groups: Sequence[str | None]) -> np.ndarray:
    """The number of each row's group, from 0 in order of appearance."""
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


def _first_shown(ordered: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The rows that show their one class for the first time, in the order given."""
    first = np.full(int(classes.max(initial=-1)) + 1, len(ordered))
    # of several, the last one stays
    first[classes[ordered][::-1]] = np.arange(len(ordered))[::-1]
    found: np.ndarray = ordered[np.sort(first)]
    return found


def _covering(ordered: np.ndarray, unit_of_row: np.ndarray | None, members: list[tuple[Any, ...]]) -> np.ndarray:
    """The units that show a class for the first time, in the order given; without `unit_of_row` each row is one."""
    unseen = {name for names in members for name in names}
    unit_of_row = np.arange(len(members)) if unit_of_row is None else unit_of_row
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
