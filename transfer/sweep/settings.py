"""What a search is asked for, beside its space, and all that can be wrong with it."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.errors import Problem, UserError, nearest
from transfer.sweep import choices, storage
from transfer.sweep.choices import GRID, PRUNERS, SAMPLERS
from transfer.sweep.space import Space
from transfer.sweep.trials import Sampling

KEY = "hydra.sweeper"
# Of one key in a grid.
MOST_VALUES = 10_000


@dataclass
class Settings:
    """The settings of conf/hydra/sweeper/optuna.yaml, which says what each of them is."""

    num_trials: Any = 20
    sampler: Any = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    sampler_seed: Any = 0
    pruner: Any = "median"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    storage: str | None = None
    seeds: Sequence[Any] | None = None
    parallel: Any = 1

    def check(self, space: Space) -> None:
        """See that all of this can be done.

        Raises:
            UserError: with every problem found.
        """
        problems = [*self._counts(), *self._seeds(space), *self._sampler(space), *self._pruner()]
        if self.storage is not None:
            try:
                storage.masked(self.storage)
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(problems)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes another search of it, unless the user gives both the same name."""
        names = ("sampler", "sampler_options", "sampler_seed", "pruner", "pruner_options")
        return {name: getattr(self, name) for name in names}

    def sampling(self, space: Space, max_epochs: int | None) -> Sampling:
        """How trials are chosen and pruned.

        Args:
            max_epochs: the budget of a run, where it is known; without it Hyperband learns it from the first trial.
        """
        options = dict(self.pruner_options)
        if self.pruner == "hyperband" and max_epochs is not None:
            options.setdefault("max_resource", max(max_epochs, int(options.get("min_resource", 1))))
        self.pruner_options = options
        points = list(itertools.islice(grid(space), self.num_trials)) if self.sampler == GRID else []
        return Sampling(
            self.sampler,
            dict(self.sampler_options),
            self.sampler_seed,
            choices.make_pruner(self.pruner, options),
            points,
        )

    def num_points(self, space: Space) -> int:
        """The size of the grid, 0 where the sampler is none."""
        return math.prod(len(axis.values or ()) for axis in space.axes.values()) if self.sampler == GRID else 0

    def _counts(self) -> Iterator[Problem]:
        for name in ("num_trials", "parallel"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                yield Problem(f"{KEY}.{name}", getattr(self, name), "a whole number of at least 1", "")
        if not _whole(self.sampler_seed) or self.sampler_seed < 0:
            yield Problem(f"{KEY}.sampler_seed", self.sampler_seed, "a whole number of at least 0", "")

    def _seeds(self, space: Space) -> Iterator[Problem]:
        if self.seeds is None:
            return
        key = f"{KEY}.seeds"
        listed = not isinstance(self.seeds, str) and isinstance(self.seeds, Sequence)
        if not (listed and self.seeds and all(_whole(seed) for seed in self.seeds)):
            yield Problem(
                key, self.seeds, "a list of whole numbers", f"'{key}=[0,1,2]' gives each trial three replicates"
            )
        elif len(set(self.seeds)) < len(self.seeds):
            yield Problem(key, self.seeds, "each seed once", "")
        elif len(space.seeds) > 1:
            yield Problem(
                key, self.seeds, "one list of seeds", f"the command line has {list(space.seeds)}: leave one out"
            )

    def _sampler(self, space: Space) -> Iterator[Problem]:
        key = f"{KEY}.sampler"
        if self.sampler not in SAMPLERS:
            yield _unknown(key, self.sampler, SAMPLERS)
            return
        yield from _options(
            f"{KEY}.sampler_options",
            self.sampler_options,
            choices.sampler_options(self.sampler),
            lambda: choices.make_sampler(self.sampler, 0, self.sampler_options),
        )
        if self.sampler == GRID:
            for name, axis in space.axes.items():
                if axis.values is None or len(axis.values) > MOST_VALUES:
                    action = f"{name}=range(FROM,TO,STEP) or {name}=A,B,C; or {KEY}.sampler=tpe"
                    yield Problem(name, str(axis.distribution), f"for a grid, at most {MOST_VALUES:,} values", action)
        if self.sampler == "cmaes":
            if sum(axis.is_number for axis in space.axes.values()) < 2:
                allowed_space = "for cmaes, at least two numbers to search (interval or range)"
                yield Problem(key, "cmaes", allowed_space, f"{KEY}.sampler=tpe searches any space")
            if importlib.util.find_spec("cmaes") is None:
                yield Problem(key, "cmaes", "a sampler that is installed", "pip install cmaes")

    def _pruner(self) -> Iterator[Problem]:
        if self.pruner not in PRUNERS:
            yield _unknown(f"{KEY}.pruner", self.pruner, PRUNERS)
            return
        yield from _options(
            f"{KEY}.pruner_options",
            self.pruner_options,
            choices.pruner_options(self.pruner),
            lambda: choices.make_pruner(self.pruner, self.pruner_options),
        )


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of the values of all axes."""
    values = [axis.values or () for axis in space.axes.values()]
    return (dict(zip(space.axes, point, strict=True)) for point in itertools.product(*values))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unknown(key: str, received: Any, allowed: Iterable[str], word: Any = None) -> Problem:
    meant = nearest(str(word or received), list(allowed))
    return Problem(key, received, ", ".join(allowed) or "no options", f"did you mean {meant}?" if meant else "")


def _options(key: str, options: Mapping[str, Any], allowed: Sequence[str], make: Any) -> Iterator[Problem]:
    unknown = [name for name in options if name not in allowed]
    if unknown:
        yield from (_unknown(f"{key}.{name}", options[name], allowed, name) for name in unknown)
        return
    try:
        make()
    except (ValueError, TypeError) as error:
        yield Problem(key, dict(options), "what Optuna takes", str(error))
