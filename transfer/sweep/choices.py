"""Optuna's samplers and pruners, by the names they have in the config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler

# A grid is a queue of all combinations; Optuna's own GridSampler can only end a loop that Optuna itself runs.
GRID = "grid"
SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": TPESampler,
    "cmaes": CmaEsSampler,
    "random": RandomSampler,
    GRID: RandomSampler,
}
NO_PRUNER = "none"
PRUNERS: dict[str, type[BasePruner]] = {NO_PRUNER: NopPruner, "median": MedianPruner, "hyperband": HyperbandPruner}


def make_sampler(name: str, seed: int, options: Mapping[str, Any]) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed=seed, **options)  # type: ignore[call-arg]


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Optuna's pruner of this name. Its steps are epochs, so that trials with other batch sizes can be compared."""
    return PRUNERS[name](**options)


def sampler_options(name: str) -> list[str]:
    """What can be set of a sampler."""
    return [] if name == GRID else _parameters(SAMPLERS[name])


def pruner_options(name: str) -> list[str]:
    """What can be set of a pruner."""
    return [] if name == NO_PRUNER else _parameters(PRUNERS[name])


def _parameters(kind: type) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if name != "seed"]
