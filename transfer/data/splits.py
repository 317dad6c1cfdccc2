"""The splits that a data set does not bring along, and the caps on their sizes."""

from __future__ import annotations

import numpy as np

from transfer import config
from transfer.data.budgets import order
from transfer.data.columns import Rows
from transfer.errors import Problem, UserError


def draw(rows: dict[str, Rows], data: config.Data, *, key: str, data_seed: int, notes: list[str]) -> dict[str, Rows]:
    """Take the missing ones of validation and test out of the training rows: stratified, by whole groups if there are.

    The fractions are of all rows that were training rows. They are taken from the end of the rows' order, so that a
    class of few rows is in the training split first of all.

    Raises:
        UserError: a fraction that leaves a split without rows.
    """
    train = rows["train"]
    fractions = {"test": data.test_fraction, "validation": data.validation_fraction}
    missing = [split for split in ("test", "validation") if split not in rows]
    if not missing:
        return rows
    problems = []
    for split in missing:
        if not 0 < fractions[split] < 1:
            action = f"It is the share of the training rows that becomes the {split} split."
            problems.append(Problem(f"{key}.{split}_fraction", fractions[split], "above 0 and below 1", action))
    together = sum(fractions[split] for split in missing)
    if not problems and together >= 1:
        keys = " + ".join(f"{key}.{split}_fraction" for split in missing)
        problems.append(Problem(keys, together, "together below 1", "Leave rows to train on."))
    if problems:
        raise UserError(problems)
    permutation = order(train.strata, data_seed, train.groups)
    end = len(permutation)
    drawn = dict(rows)
    for split in missing:
        if end < 1:
            break
        start = _boundary(permutation, end, max(1, round(fractions[split] * len(permutation))), train.groups)
        drawn[split] = train.take(np.sort(permutation[start:end]))
        end = start
    if end < 1:
        what = "groups" if train.groups else "rows"
        received = f"{len(permutation)} rows in {train.name}"
        action = f"Give more {what}, or give the splits in {key}.files.{{{','.join(reversed(missing))}}}."
        allowed = f"enough {what} for train, " + " and ".join(reversed(missing))
        raise UserError(Problem(f"{key}.{missing[0]}_fraction", received, allowed, action))
    drawn["train"] = train.take(np.sort(permutation[:end]))
    sizes = ", ".join(f"{split} {len(drawn[split])}" for split in ("train", "validation", "test") if split in drawn)
    by = "labels and whole groups" if train.groups else "labels"
    notes.append(f"{key}: {' and '.join(missing)} drawn from {train.name} by {by}, data_seed={data_seed} ({sizes})")
    return drawn


def cap(rows: dict[str, Rows], data: config.Data, *, key: str, data_seed: int) -> dict[str, Rows]:
    """At most `validation_size` and `test_size` rows of these splits: stratified, and smaller caps inside larger ones.

    Raises:
        UserError: a cap below 1.
    """
    capped = dict(rows)
    problems = []
    for split, size in (("validation", data.validation_size), ("test", data.test_size)):
        if size is None:
            continue
        if size < 1:
            action = f"It is the largest number of {split} rows that is used."
            problems.append(Problem(f"{key}.{split}_size", size, "null (all rows), or 1 and more", action))
        elif size < len(rows[split]):
            capped[split] = rows[split].take(np.sort(order(rows[split].strata, data_seed)[:size]))
    if problems:
        raise UserError(problems)
    return capped


def straddling(rows: dict[str, Rows], *, key: str) -> list[str]:
    """A note if groups of the training rows are also in the given validation or test rows."""
    notes = []
    train = {group for group in rows["train"].groups or [] if group is not None}
    for split in ("validation", "test"):
        shared = train & {group for group in rows[split].groups or [] if group is not None}
        if shared:
            notes.append(f"{key}: {len(shared)} groups of the {split} rows are also among the training rows")
    return notes


def _boundary(permutation: np.ndarray, end: int, size: int, groups: list[str | None] | None) -> int:
    """Where the last ``size`` rows before ``end`` begin, moved to the nearest boundary between groups."""
    wanted = max(end - size, 0)
    if groups is None:
        return wanted

    def between(place: int) -> bool:
        """Whether a new group begins at ``place``; a row without a group is one of its own."""
        if place in (0, end):
            return True
        before, after = groups[permutation[place - 1]], groups[permutation[place]]
        return before is None or before != after

    # never the end itself: the split must get at least one group
    candidates = [place for place in range(end) if between(place)]
    return min(candidates, key=lambda place: abs(place - wanted))
