"""The space of a search: Hydra's sweep syntax, read as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from transfer.crossvalidation import FOLD
from transfer.errors import Problem, UserError
from transfer.explain import free_mappings

LOG = "log"
SYNTAX = "interval(LOW,HIGH), int(interval(..)), tag(log,interval(..)), range(FROM,TO,STEP), choice(A,B,..) or A,B"
EXAMPLE = "'optimizer.lr=tag(log,interval(1e-5,1e-2))', on the command line or in hydra.sweeper.params of a sweep file"


@dataclass(frozen=True)
class Axis:
    """One searched key. `typed` is how an override spells it; `values` are all that it can have, None if continuous."""

    typed: str
    distribution: BaseDistribution
    values: Sequence[Any] | None

    @property
    def is_number(self) -> bool:
        return not isinstance(self.distribution, CategoricalDistribution)

    def override(self, value: Any) -> str:
        if self.values is not None and isinstance(value, float):  # a step adds up to 0.30000000000000004
            value = min(self.values, key=lambda known: abs(known - value))
        return f"{self.typed}={value}"


@dataclass(frozen=True)
class Space:
    """What is searched, by key; the overrides that are the same for all; the seeds that were given as an axis."""

    axes: dict[str, Axis]
    fixed: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: axis.distribution for name, axis in self.axes.items()}

    @property
    def identity(self) -> dict[str, str]:
        """What makes another space of it."""
        return {name: distribution_to_json(axis.distribution) for name, axis in self.axes.items()}

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The searched keys with these values."""
        return [self.axes[name].override(value) for name, value in params.items()]


def read(parser: OverridesParser, params: Mapping[str, Any], arguments: Sequence[str], seed_key: str) -> Space:
    """The space that the command line spans, and `params` where it says nothing of a key.

    Raises:
        UserError: nothing is searched, or not in a way that can be.
    """
    given = parser.parse_overrides(list(arguments))
    named = {_name(override) for override in given}
    free = tuple(f"{key}." for key in free_mappings())
    lines = [f"{'++' if key.startswith(free) else ''}{key}={value}" for key, value in _flat(params)]
    own = [override for override in parser.parse_overrides(lines) if _name(override) not in named]
    axes: dict[str, Axis] = {}
    fixed: dict[str, str] = {}
    seeds: tuple[int, ...] = ()
    problems: list[Problem] = []
    for override in [*own, *given]:
        name = _name(override)
        try:
            if name == seed_key:
                seeds = _seeds(name, override)
            elif override.is_sweep_override():
                axes[name] = _axis(name, override)
            else:
                fixed[name] = f"{override.get_key_element()}={override.get_value_element_as_str()}"
        except UserError as error:
            problems += error.problems
    if not axes and not problems:
        problems.append(Problem("hydra.sweeper.params", "nothing to search", f"at least one KEY={SYNTAX}", EXAMPLE))
    if problems:
        raise UserError(problems)
    return Space(axes, tuple(fixed.values()), seeds)


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+")


def _seeds(name: str, override: Override) -> tuple[int, ...]:
    """Seeds are never searched: several of them are the replicates of each trial."""
    values: list[Any] = [override.value()]
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            action = f"{name}=0,1,2 gives each trial three replicates"
            raise UserError(Problem(name, _received(override), "whole numbers", action))
        values = list(override.sweep_iterator())
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise UserError(Problem(name, _received(override), "whole numbers", ""))
    return tuple(dict.fromkeys(values))


def _axis(name: str, override: Override) -> Axis:
    sweep, received = override.value(), _received(override)
    if name == FOLD:
        action = "a search would choose the easiest fold; give one, and cross-validate what the search has found"
        raise UserError(Problem(name, received, "one fold: a fold is not searched", action))
    tags = sweep.tags if isinstance(sweep, Sweep) else set()
    unknown = tags - {LOG}
    if unknown:
        raise UserError(Problem(name, received, f"the tag {LOG}", f"{', '.join(sorted(unknown))} has no meaning here"))
    log = LOG in tags
    if isinstance(sweep, IntervalSweep):
        return _interval(name, override, sweep, log)
    if isinstance(sweep, RangeSweep):
        return _range(name, override, sweep, log)
    if log:
        allowed = "tag(log, ..) around interval(..) or range(..)"
        raise UserError(Problem(name, received, allowed, "choices have no scale"))
    if isinstance(sweep, ChoiceSweep):
        sweep.shuffle = False  # the order of the trials is the sampler's
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise UserError(Problem(name, received, "at least one choice", ""))
    return Axis(override.get_key_element(), CategoricalDistribution(choices), choices)


def _interval(name: str, override: Override, sweep: IntervalSweep, log: bool) -> Axis:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not low < high:
        raise UserError(Problem(name, _received(override), "interval(LOW,HIGH) with LOW below HIGH", ""))
    _require_positive(name, override, low, log)
    whole = isinstance(low, int) and isinstance(high, int)
    if not whole:
        return Axis(override.get_key_element(), FloatDistribution(low, high, log=log), None)
    whole_numbers = range(int(low), int(high) + 1)
    return Axis(override.get_key_element(), IntDistribution(int(low), int(high), log=log), whole_numbers)


def _range(name: str, override: Override, sweep: RangeSweep, log: bool) -> Axis:
    # Hydra adds up the step: 0.1 + 0.1 + 0.1 is no 0.3.
    values: tuple[Any, ...] = tuple(sorted(float(f"{v:.12g}") if isinstance(v, float) else v for v in sweep.range()))
    if not values:
        raise UserError(Problem(name, _received(override), "range(FROM,TO,STEP) with at least one value", ""))
    _require_positive(name, override, values[0], log)
    whole, step = all(isinstance(value, int) for value in values), abs(sweep.step)
    if log and (not whole or step != 1):
        allowed = "tag(log, ..) around interval(..), int(interval(..)) or a range of whole numbers with step 1"
        raise UserError(Problem(name, _received(override), allowed, ""))
    distribution: BaseDistribution
    if whole:
        distribution = IntDistribution(int(values[0]), int(values[-1]), log=log, step=1 if log else int(step))
    else:
        distribution = FloatDistribution(values[0], values[-1], step=float(step))
    return Axis(override.get_key_element(), distribution, values)


def _require_positive(name: str, override: Override, low: float, log: bool) -> None:
    if log and not low > 0:
        raise UserError(Problem(name, _received(override), "a logarithmic scale that begins above 0", ""))


def _received(override: Override) -> str:
    return (override.input_line or "").partition("=")[2]
