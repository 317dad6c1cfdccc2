"""What a search has spent, tried and decided; every run of it goes through here."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from transfer import compose, records
from transfer.choose.strategies import Strategy
from transfer.config import Config
from transfer.plan import make
from transfer.records import Record
from transfer.run import run

log = logging.getLogger(__name__)

SUFFIX = "_auto"
# Besides its training a run is composed and imported.
OVERHEAD_S = 1.0


@dataclass(frozen=True)
class Budget:
    """What may be spent, by the records of the runs, so that the same command goes on with the same choices."""

    seconds: float = math.inf
    runs: float = math.inf


@dataclass
class Tried:
    """A strategy with what is known of it: validation metrics by seed, turned so that more is better."""

    strategy: Strategy
    values: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def value(self) -> float:
        return fmean(self.values.values())


@dataclass(frozen=True)
class Step:
    """What was decided, in words, and about what."""

    stage: str
    about: str
    decision: str


@dataclass
class Search:
    """One search, its decisions, and what it came to.

    Attributes:
        scratch_s: what a run from scratch takes.
        finals: the tested records of the winner and of its from-scratch twin.
    """

    experiment: str
    words: list[str]
    budget: Budget
    output_dir: Path
    num_seeds: int
    tried: list[Tried] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    spent_s: float = 0.0
    num_runs: int = 0
    scratch_s: float = 0.0
    winner: Tried | None = None
    finals: list[Record] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.experiment + SUFFIX

    @property
    def folder(self) -> Path:
        return self.output_dir / self.name

    def say(self, stage: str, about: str, decision: str) -> None:
        """Keep a decision, and say it as it is made."""
        self.steps.append(Step(stage, about, decision))
        log.info("%s: %s: %s", stage, about, decision)

    def config(self, words: Sequence[str], seed: int, *, test: bool) -> Config:
        typed = [f"experiment={self.experiment}", *self.words, f"experiment_name={self.name}", *words, f"seed={seed}"]
        config = compose.compose([*typed, f"test={str(test).lower()}"])
        config.overrides = typed  # so that the commands that a report names are those that give these runs
        return config

    def train(self, words: Sequence[str], seed: int, *, test: bool = False) -> Record:
        """The record of one run, which is counted with the source that it wanted.

        Raises:
            UserError: it cannot be run.
        """
        config = self.config(words, seed, test=test)
        record = run(config)
        parent = make(config).parent
        while parent is not None:
            done = records.complete(parent.output_dir, parent.experiment, parent.stage, parent.fingerprint)
            if done and str(done["experiment"]) == self.name:  # trained for this search
                self._count(done)
            parent = parent.parent
        self._count(record)
        return record

    def _count(self, record: Record) -> None:
        if record["fingerprint"] not in self.counted:
            self.counted.add(record["fingerprint"])
            self.spent_s += record["time"]["wall_s"] + OVERHEAD_S
            self.num_runs += 1

    def note(self, tried: Tried, record: Record, seed: int) -> bool:
        """Take a run's validation metric; False where it is no number."""
        best = record["monitor"]["best"]
        if best is None or not math.isfinite(best):
            return False
        tried.values[seed] = -best if record["monitor"]["mode"] == "min" else best
        tried.seconds += record["time"]["wall_s"] + OVERHEAD_S
        return True

    def allows(self) -> bool:
        """Whether one more run, as dear as the dearest so far, leaves enough for the last ones.

        Of these, one of scratch is done before anything is tried.
        """
        dearest = max((each.seconds / len(each.values) for each in self.tried if each.values), default=0.0)
        last_s = self.num_seeds * dearest + (self.num_seeds - 1) * self.scratch_s
        runs, seconds = self.num_runs + 1 + 2 * self.num_seeds - 1, self.spent_s + dearest + last_s
        return runs <= self.budget.runs and seconds <= self.budget.seconds

    def write(self) -> Path:
        """auto.json: every decision, every strategy that was tried, and the winner."""
        assert self.winner is not None
        about: dict[str, Any] = {
            "experiment": self.experiment,
            "winner": self.winner.strategy.name,
            "num_runs": self.num_runs,
            "seconds": round(self.spent_s, 1),
            "tried": [
                {"strategy": each.strategy.name, "values": each.values, "seconds": round(each.seconds, 1)}
                for each in order(self.tried)
            ],
            "steps": [[step.stage, step.about, step.decision] for step in self.steps],
            "finals": [record["run_id"] for record in self.finals],
        }
        file = self.folder / "auto.json"
        records.write_atomically(file, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        return file


def order(tried: Sequence[Tried]) -> list[Tried]:
    """The better ones first; equal ones as they were tried, which is the cheap ones first."""
    return sorted(tried, key=lambda each: -each.value)
