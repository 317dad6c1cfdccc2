"""What a comparison found, as the table, the page and the files show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from transfer.study.intervals import LEVEL
from transfer.study.pairing import Side
from transfer.study.power import SeedsNeeded
from transfer.study.predictions import Predictions
from transfer.study.statistics import Gain, Spread, Verdict
from transfer.study.strategies import Budget, Record, Strategy

Baseline = Literal["converged", "equal_steps"]
SCRATCH: dict[Baseline, tuple[str, str]] = {
    "converged": ("test", "prediction"),
    "equal_steps": ("test_equal_steps", "prediction_equal_steps"),
}
# From so many gains on, a verdict has to hold for all of them together.
MANY_GAINS = 5


@dataclass
class Contrast:
    """A gain over another strategy or floor.

    ``notes`` say what its interval leaves out and why. ``family`` gains are asked for together, and ``p_holm`` is the
    p value corrected for that. ``noise``: the gain in standard deviations of the scratch arm over its seeds.
    ``needed``: seeds that would decide a gain of the size found, or of the size asked for. ``reasons``: what the
    records show that may explain a gain below 0.
    """

    against: str
    gain: Gain
    notes: list[str] = field(default_factory=list)
    treated: Sequence[Side] = field(default=(), repr=False)
    control: Sequence[Side] = field(default=(), repr=False)
    p_holm: float = math.nan
    family: int = 1
    noise: float = math.nan
    needed: SeedsNeeded | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Of its own interval; with `MANY_GAINS` or more, of Holm's corrected level as well."""
        return "undecided" if self.taken_back else self.gain.verdict

    @property
    def taken_back(self) -> bool:
        """Whether its own interval decides it and the correction for many gains does not."""
        return self.family >= MANY_GAINS and self.gain.verdict != "undecided" and not self.p_holm <= LEVEL


@dataclass
class Row:
    """One strategy on one budget. ``level`` is the interval of its own mean.

    `beats_floor` compares with the floor that is best on the test data, which favours the floor. A `secondary` row is
    the scratch arm read the other way (equal steps or converged): shown, not compared. ``commands`` repeat the runs,
    ``missing`` make the scratch twins that some lack, ``outdated`` repeat those whose twin saw other data.
    """

    budget: Budget
    num_labels: int
    label: str
    arm: str
    source: str | None
    seeds: list[int]
    values: list[float]
    score: Spread
    level: Gain
    sides: Sequence[Side] = field(default=(), repr=False)
    over_scratch: list[Contrast] = field(default_factory=list)
    over_direct: list[Contrast] = field(default_factory=list)
    over_floor: Contrast | None = None
    secondary: bool = False
    collapsed: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)

    @cached_property
    def folds(self) -> list[int]:
        """The folds of a cross-validation that there are; of any other row none."""
        return sorted({side.run.fold for side in self.sides if side.run.fold is not None})

    @property
    def missing_folds(self) -> list[int]:
        """Those that none of its seeds has been run on."""
        num_folds = max((int(side.run.data.get("folds") or 0) for side in self.sides), default=0)
        return sorted(set(range(num_folds)) - set(self.folds))

    @cached_property
    def num_seeds(self) -> int:
        """Different seeds."""
        return len(dict.fromkeys(side.run.seeds for side in self.sides))

    @property
    def beats_floor(self) -> bool | None:
        """Whether the whole interval over the best floor is above 0; None without floors."""
        return None if self.over_floor is None else self.over_floor.gain.verdict == "gain"


@dataclass
class FloorRow:
    """A floor on one budget, over the label subsets of the runs."""

    budget: Budget
    num_labels: int
    name: str
    score: Spread


@dataclass(frozen=True)
class LabelsSaved:
    """Labels that scratch needs to equal a strategy trained on ``num_labels``, with their 95 % interval.

    Infinite: more than ``most``, the most that scratch was tried with; -inf: fewer than ``least``. nan: unknown.
    """

    target: str
    model: str
    label: str
    against: str
    num_labels: int
    needed: float
    low: float
    high: float
    least: int
    most: int
    num_seeds: int


@dataclass(frozen=True)
class Crossover:
    """Where the curves of two arms cross: labels, with the interval over draws of the seeds and the share that cross.

    ``better_before``: the strategy is ahead with fewer labels. ``num_labels`` nan: they do not cross.
    """

    target: str
    model: str
    label: str
    against: str
    num_labels: float
    low: float
    high: float
    share: float
    better_before: bool


@dataclass
class Comparison:
    """What `compare` found. ``next_commands`` would settle what is open, `Row.commands` repeat the runs.

    ``use_command`` predicts with the best model; None where there is not one.

    ``headline``: the answer in one sentence. ``size``: the gain for which seeds were asked, None for each one's own.
    """

    experiments: list[str]
    question: str
    metric: str
    higher_is_better: bool
    baseline: Baseline
    rows: list[Row]
    floors: list[FloorRow]
    headline: str = ""
    sentences: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    use_command: str | None = None
    saved: list[LabelsSaved] = field(default_factory=list)
    crossovers: list[Crossover] = field(default_factory=list)
    size: float | None = None
    strategies: list[Strategy] = field(default_factory=list, repr=False)
    records: Sequence[Record] = field(default=(), repr=False)

    @cached_property
    def unit(self) -> Literal["seeds", "folds", "runs"]:
        """What the runs of a strategy differ in; ``runs``: in both, or not all strategies in the same."""
        folds = [bool(row.folds) for row in self.rows]
        if not any(folds):
            return "seeds"
        return "folds" if all(folds) and all(row.num_seeds == 1 for row in self.rows) else "runs"

    def predictions(self) -> list[Predictions]:
        """What was read of the runs' predictions."""
        runs = [run for strategy in self.strategies for run in strategy.runs]
        return [found for run in runs if (found := run.__dict__.get("predictions")) is not None]

    @property
    def gains(self) -> list[tuple[Row, Contrast]]:
        """Every gain over scratch, in the order of the table."""
        return [(row, contrast) for row in self.rows for contrast in row.over_scratch]
