"""The checks of `folds` and `fold`."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.config import Config
from transfer.errors import Problem

FOLDS, FOLD = "target.data.folds", "target.data.fold"
ALL = "sweep=cross_validation runs all folds"


def problems(config: Config) -> Iterable[Problem]:
    """What is wrong with the keys of a cross-validation; what only the data show is in `transfer.data.folds`."""
    for name in ("folds", "fold"):
        value = getattr(config.source.data, name)
        if value is not None:
            action = "only the target is cross-validated: the source is trained once, and all folds start from it"
            yield Problem(f"source.data.{name}", value, "null", action)
    data = config.target.data
    if data.folds is None:
        if data.fold is not None:
            yield Problem(FOLD, data.fold, f"null without {FOLDS}", f"say of how many: {FOLDS}=5; {ALL}")
        return
    if data.folds < 2:
        yield Problem(FOLDS, data.folds, "null, or a whole number of at least 2", "")
    elif data.fold is None or not 0 <= data.fold < data.folds:
        yield Problem(FOLD, data.fold, f"0 to {data.folds - 1}: which fold is the test split", ALL)
    for split in ("validation", "test"):
        if file := getattr(data.files, split):
            action = "put all rows into one file, or leave the folds out: test and validation are drawn from all rows"
            yield Problem(f"target.data.files.{split}", file, f"null with {FOLDS}", action)
    if data.test_size is not None:
        yield Problem("target.data.test_size", data.test_size, f"null with {FOLDS}", "every row is tested in its fold")
