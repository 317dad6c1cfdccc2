"""`transfer auto`: source, way of training and learning rate by successive halving, then the winner beside its twin.

Jamieson & Talwalkar 2016: many strategies are looked at cheaply, the better half of them more closely, and so on. Here
the cheap look is a linear probe on features of one pass; then a few parameters train, then all, then more seeds. What
chooses is the validation split alone, and seeds that are not those of the last runs, which alone are tested. Training
from scratch, the dearest of all, has only the last runs: it wins where it validates better in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from transfer.choose import strategies
from transfer.choose.candidates import Candidate, read, why
from transfer.choose.rank import rank
from transfer.choose.search import OVERHEAD_S, Budget, Search, Tried, order
from transfer.choose.strategies import Strategy
from transfer.errors import Problem, UserError

# Seeds of the last runs begin here, far from those that chose.
FIRST_FINAL_SEED = 1000


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
    config = search.config(["arm=scratch"], 0, test=False)
    rate = config.optimizer.lr or config.model.lr
    starts, num_layers = _probe(search, sources)
    _first_of_scratch(search, rate)
    starts = _halve(search, "partly", strategies.of(starts, strategies.partial(num_layers)), rate)
    _try(search, "all", strategies.of(starts, [strategies.FULL], strategies.RATES), rate)
    _more_seeds(search, rate)
    _finish(search, rate)
    return search


def _first_of_scratch(search: Search, lr: float) -> None:
    """One of the last runs is trained first, so that it is known what they will take."""
    record = search.train(Strategy(None).words(lr), FIRST_FINAL_SEED, test=True)
    search.scratch_s = record["time"]["wall_s"] + OVERHEAD_S
    search.say("sources", strategies.SCRATCH, f"takes {search.scratch_s:.0f} s a run; compared at the end")


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
    found, _ = read(search.experiment, search.words, [source], [])
    model = found[0].parent if found else None
    # What an earlier call of this search has trained counts as if it were trained now, so that it decides the same.
    if not found or (model is not None and search.folder not in model.parents):
        return
    if found[0].source is None:
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
        if not search.note(tried, record, seed):
            search.say(stage, strategy.name, "left out: its validation metric is no number")
            continue
        if all(tried is not each for each in search.tried):
            search.tried.append(tried)
        done.append(tried)
        monitor = record["monitor"]
        search.say(stage, strategy.name, f"{monitor['name']} {monitor['best']:.4f} with seed {seed}")
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
    ranked = order(list(best.values()))
    keep = -(-len(ranked) // 2)
    for each in ranked[keep:]:
        assert each.strategy.start is not None
        least = ranked[keep - 1]
        search.say(
            stage,
            each.strategy.start.name,
            f"out: at best {abs(each.value):.4f} ({each.strategy.name}), the last that stays {abs(least.value):.4f}",
        )
    return [each.strategy.start for each in ranked[:keep] if each.strategy.start is not None]


def _more_seeds(search: Search, lr: float) -> None:
    """The best four with one more seed, the best two of them with one more; the highest mean wins.

    Of the four at most two have the same start: starts differ more than ways, and one seed tells them apart badly.
    """
    left = order(search.tried)
    for keep, of_one, seed in ((4, 2, 1), (2, 2, 2)):
        stay: list[Tried] = []
        for each in left:
            alike = sum(one.strategy.start is each.strategy.start for one in stay)
            if alike < of_one and len(stay) < keep:
                stay.append(each)
                continue
            better = f"{of_one} from the same start" if alike == of_one else f"{keep}"
            search.say("seeds", each.strategy.name, f"out: {abs(each.value):.4f}, {better} are better")
        left = stay
        _try(search, "seeds", [each.strategy for each in left], lr, seed)
        # One that the budget left with fewer seeds is not compared on luck.
        most = max((len(each.values) for each in left), default=0)
        left = order([each for each in left if len(each.values) == most])
    if left:
        search.winner = left[0]
        for each in left[1:]:
            search.say(
                "seeds", each.strategy.name, f"out: {abs(each.value):.4f} on average over {len(each.values)} seeds"
            )
        search.say("seeds", left[0].strategy.name, f"wins: {abs(left[0].value):.4f} on average over {most} seeds")


def _finish(search: Search, lr: float) -> None:
    """The winner and its from-scratch twin over seeds that chose nothing, tested; the twin may win.

    Raises:
        UserError: there is no winner.
    """
    if search.winner is None:
        out = [f"{step.about} ({step.decision})" for step in search.steps if step.decision.startswith("left out")]
        key, received = ("--sources", "; ".join(out)) if out else ("--budget", search.budget.seconds)
        raise UserError(Problem(key, received, "enough for one run to choose by", "give it more"))
    last = [Tried(search.winner.strategy), Tried(Strategy(None))]
    for tried in last:
        for number in range(search.num_seeds):
            seed = FIRST_FINAL_SEED + number
            record = search.train(tried.strategy.words(lr), seed, test=True)
            search.finals.append(record)
            search.note(tried, record, seed)
            value = record["metrics"].get(record["monitor"]["name"].replace("val/", "test/"))
            said = "no number" if value is None else f"{value:.4f}"
            search.say("final", tried.strategy.name, f"test {said} with seed {record['seed']}")
    ours, twin = last
    if ours.values.keys() == twin.values.keys() and twin.value > ours.value:
        search.winner = twin
        search.tried.append(twin)
        said = (
            f"wins: {abs(twin.value):.4f} on validation over {search.num_seeds} seeds, where {ours.strategy.name} has"
        )
        search.say("final", strategies.SCRATCH, f"{said} {abs(ours.value):.4f}")
    search.write()
