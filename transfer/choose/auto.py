"""`transfer auto`: source, way of training and learning rate by successive halving, then the winner beside its twin.

Jamieson & Talwalkar 2016: many strategies are looked at cheaply, the better half of them more closely, and so on. Here
the cheap look is a linear probe on features of one pass; then a few parameters train, then all, then more seeds. What
chooses is the validation split alone; the last runs have seeds that chose nothing, and only they are tested.
"""

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
from transfer.choose import strategies
from transfer.choose.candidates import Candidate, why
from transfer.choose.rank import rank
from transfer.choose.strategies import Strategy
from transfer.config import Config
from transfer.errors import Problem, UserError
from transfer.plan import make
from transfer.records import Record
from transfer.run import run

log = logging.getLogger(__name__)

SUFFIX = "_auto"
# Seeds of the last runs begin here, far from those that chose.
FIRST_FINAL_SEED = 1000
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
        first = [f"experiment={self.experiment}", *self.words, f"experiment_name={self.name}"]
        return compose.compose([*first, *words, f"seed={seed}", f"test={str(test).lower()}"])

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

    def allows(self, num_runs: int = 1) -> bool:
        """Whether so many more runs, as dear as the dearest so far, leave enough for the last ones."""
        dearest = max((each.seconds / len(each.values) for each in self.tried if each.values), default=0.0)
        ahead = num_runs + 2 * self.num_seeds
        return self.num_runs + ahead <= self.budget.runs and self.spent_s + ahead * dearest <= self.budget.seconds


def auto(
    experiment: str,
    overrides: Sequence[str],
    sources: Sequence[str],
    budget: Budget,
    output_dir: str,
    num_seeds: int = 3,
) -> Search:
    """Search, then train the winner and its twin over fresh seeds; the same call goes on where it was.

    Raises:
        UserError: the experiment cannot be composed, or the budget does not allow the last runs.
    """
    if budget.runs < 2 * num_seeds + 2:
        allowed = (
            f"{2 * num_seeds + 2} or more: {num_seeds} seeds of the winner, as many of its twin, and two to choose"
        )
        raise UserError(Problem("--runs", budget.runs, allowed, "more runs, or fewer --seeds"))
    search = Search(experiment, [*overrides, f"output_dir={output_dir}"], budget, Path(output_dir), num_seeds)
    starts, num_layers = _probe(search, sources)
    config = search.config(["arm=scratch"], 0, test=False)
    rate = config.optimizer.lr or config.model.lr
    starts = _halve(search, "partly", strategies.of(starts, strategies.partial(num_layers)), rate)
    _try(search, "all", [Strategy(None), *strategies.of(starts, [strategies.FULL], strategies.RATES)], rate)
    _more_seeds(search, rate)
    _finish(search, rate)
    return search


def _probe(search: Search, sources: Sequence[str]) -> tuple[list[Candidate], int]:
    """The better half of the starts by a linear probe, and how many layers the model has."""
    for source in sources:
        _train_source(search, source)
    ranking = rank(search.experiment, search.words, sources, [], str(search.output_dir))
    for name, reason in ranking.skipped.items():
        search.say("probe", name, f"left out: {reason}")
    known = [each for each in ranking.scored if each.candidate.trained]
    # Not by the score that has been right so far: that is known from test splits, perhaps from this one.
    by = next((name for name in ("linear_probe", "logme") if any(name in each.scores for each in known)), "logme")
    known.sort(key=lambda each: -each.scores.get(by, -math.inf))
    keep = max(2, -(-len(known) // 2))
    for number, each in enumerate(known):
        value = each.scores.get(by)
        said = "no probe is defined" if value is None else f"probe {value:.3f}"
        if number < keep:
            search.say("probe", each.candidate.name, f"stays: {said}")
        else:
            least = known[keep - 1].scores.get(by, math.nan)
            search.say("probe", each.candidate.name, f"out: {said}, the last that stays has {least:.3f}")
    num_layers = max((len(each.layers) - 1 for each in known), default=0)
    return [each.candidate for each in known[:keep]], num_layers


def _train_source(search: Search, source: str) -> None:
    """Train a data set that is named and not trained on yet, while a third of the budget is not spent."""
    from transfer.choose.candidates import read

    found, _ = read(search.experiment, search.words, [source], [])
    if not found or found[0].trained:
        return
    if search.spent_s > search.budget.seconds / 3 or search.num_runs > search.budget.runs / 3:
        search.say("sources", source, "out: not trained yet, and a third of the budget is spent")
        return
    search.train([*found[0].words[:1], "stage=pretrain"], 0, test=True)
    search.say("sources", source, "trained")


def _try(search: Search, stage: str, wanted: Sequence[Strategy], lr: float, seed: int = 0) -> list[Tried]:
    """Train each with this seed, as long as the budget allows."""
    done = []
    for strategy in wanted:
        tried = next((each for each in search.tried if each.strategy.key == strategy.key), None) or Tried(strategy)
        if not search.allows():
            search.say(stage, strategy.name, "not tried: what is left of the budget is for the last runs")
            continue
        try:
            record = search.train(strategy.words(lr), seed)
        except UserError as error:
            search.say(stage, strategy.name, f"left out: {why(error)}")
            continue
        best = record["monitor"]["best"]
        if best is None or not math.isfinite(best):
            search.say(stage, strategy.name, "left out: its validation metric is no number")
            continue
        tried.values[seed] = -best if record["monitor"]["mode"] == "min" else best
        tried.seconds += record["time"]["wall_s"] + OVERHEAD_S
        if all(tried is not each for each in search.tried):
            search.tried.append(tried)
        done.append(tried)
        search.say(stage, strategy.name, f"{record['monitor']['name']} {best:.4f} with seed {seed}")
    return done


def _halve(search: Search, stage: str, wanted: Sequence[Strategy], lr: float) -> list[Candidate]:
    """The better half of the starts, each by its best way."""
    done = _try(search, stage, wanted, lr)
    best: dict[str, Tried] = {}
    for each in done:
        assert each.strategy.start is not None
        key = each.strategy.start.key
        if key not in best or each.value > best[key].value:
            best[key] = each
    order = sorted(best.values(), key=lambda each: (-each.value, each.seconds))
    keep = -(-len(order) // 2)
    for each in order[keep:]:
        assert each.strategy.start is not None
        least = order[keep - 1]
        search.say(
            stage,
            each.strategy.start.name,
            f"out: at best {abs(each.value):.4f} ({each.strategy.name}), the last that stays {abs(least.value):.4f}",
        )
    return [each.strategy.start for each in order[:keep] if each.strategy.start is not None]


def _more_seeds(search: Search, lr: float) -> None:
    """The best four with one more seed, the best two of them with two more; the highest mean wins."""
    left = _order(search.tried)
    for keep, seeds in ((4, (1,)), (2, (2, 3))):
        for each in left[keep:]:
            search.say("seeds", each.strategy.name, f"out: {abs(each.value):.4f}, {keep} are better")
        left = left[:keep]
        for seed in seeds:
            _try(search, "seeds", [each.strategy for each in left], lr, seed)
        # One that the budget left with fewer seeds is not compared on luck.
        most = max((len(each.values) for each in left), default=0)
        left = _order([each for each in left if len(each.values) == most])
    if left:
        search.winner = left[0]
        for each in left[1:]:
            search.say(
                "seeds", each.strategy.name, f"out: {abs(each.value):.4f} on average over {len(each.values)} seeds"
            )
        search.say("seeds", left[0].strategy.name, f"wins: {abs(left[0].value):.4f} on average over {most} seeds")


def _order(tried: Sequence[Tried]) -> list[Tried]:
    """The better ones first; of equals the cheaper one."""
    return sorted(tried, key=lambda each: (-each.value, each.seconds))


def _finish(search: Search, lr: float) -> None:
    """The winner and its from-scratch twin over seeds that chose nothing, tested."""
    if search.winner is None:
        raise UserError(Problem("--budget", search.budget.seconds, "enough for one run to choose by", "give it more"))
    best = search.winner
    if best.strategy.start is None:  # scratch wins: what it is said to be better than is shown beside it
        others = _order([each for each in search.tried if each.strategy.start is not None])
        chosen = [*([others[0].strategy] if others else []), best.strategy]
    else:
        chosen = [best.strategy, Strategy(None)]
    for strategy in chosen:
        for number in range(search.num_seeds):
            record = search.train(strategy.words(lr), FIRST_FINAL_SEED + number, test=True)
            search.finals.append(record)
            value = record["metrics"].get(record["monitor"]["name"].replace("val/", "test/"))
            said = "no number" if value is None else f"{value:.4f}"
            search.say("final", strategy.name, f"test {said} with seed {record['seed']}")
    write(search)


def write(search: Search) -> Path:
    """auto.json: every decision, every strategy that was tried, and the winner."""
    assert search.winner is not None
    about: dict[str, Any] = {
        "experiment": search.experiment,
        "winner": search.winner.strategy.name,
        "num_runs": search.num_runs,
        "seconds": round(search.spent_s, 1),
        "tried": [
            {"strategy": each.strategy.name, "values": each.values, "seconds": round(each.seconds, 1)}
            for each in _order(search.tried)
        ],
        "steps": [[step.stage, step.about, step.decision] for step in search.steps],
        "finals": [record["run_id"] for record in search.finals],
    }
    file = search.folder / "auto.json"
    records.write_atomically(file, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return file
