"""What came of a search: the winner, tested; plots; and a table of what failed."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from optuna.trial import FrozenTrial, TrialState

from transfer import config as schema
from transfer import records
from transfer.errors import SweepFailedError, UserError
from transfer.records import Record
from transfer.sweep import plots, trials
from transfer.sweep.attempts import Search, typed
from transfer.sweep.grid import freeze_job
from transfer.sweep.ledger import Job

log = logging.getLogger(__name__)


def conclude(search: Search) -> None:
    """Test the winner, draw the plots, say what came of it all.

    Raises:
        UserError: when nothing but the user's mistakes came of it.
        SweepFailedError: when trials failed, or none is complete.
    """
    found = trials.begun(search.trials.study.get_trials(deepcopy=False))
    if any(trial.state is TrialState.COMPLETE for trial in found):
        winner = search.trials.study.best_trial
        tested = _tested(search, winner) if search.base.config.test else []
        drawn = plots.draw(search.trials.study, search.ledger.folder, search.base.monitor)
        _report(search, winner, tested, found, drawn)
    _require_success(search, found)


def _tested(search: Search, winner: FrozenTrial) -> list[Record]:
    """The records of the winner's replicates, with their test metrics. This is where the test split is looked at."""
    seeds = search.settings.seeds or ()
    jobs = [Job(index, search.overrides(winner.params, seed)) for index, seed in enumerate(seeds)]
    folder = search.ledger.folder / "winner"
    folder.mkdir(exist_ok=True)
    pending: dict[Path, Job] = {}
    for job, seed in zip(jobs, seeds, strict=True):
        found = freeze_job(search.composer, job, overrides=typed(job.overrides), sweep_name=search.ledger.name)
        if isinstance(found, UserError):
            raise found
        file = folder / f"{winner.number:04d}-{seed}.yaml"
        with search.trials.turn:
            schema.save(found.config, file)
        record = search.ledger.record(job)
        if not (record and record["status"] == "complete" and records.tested(record)):
            pending[file] = job
    for result in search.launch(pending) if pending else []:
        if result.status is not JobStatus.COMPLETED:
            raise result._return_value
    found_records = [search.ledger.record(job) for job in jobs]
    return [record for record in found_records if record]


def _report(
    search: Search, winner: FrozenTrial, tested: Sequence[Record], found: Sequence[FrozenTrial], drawn: plots.Drawn
) -> None:
    counts = Counter(trial.state for trial in found)
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    counted = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
    seeds = search.settings.seeds or ()
    lines = [f"{search.ledger.name}: the best of {len(found)} trials ({counted}) is trial {winner.number}"]
    lines += [f"  {override}" for override in search.space.overrides(winner.params)]
    lines.append(_measured(search.base.monitor, winner.user_attrs[trials.VALUES], seeds))
    chosen = search.base.monitor.replace("val/", "test/", 1)
    names = {name for record in tested for name in record["metrics"] if _is_headline(name)}
    for name in sorted(names, key=lambda name: (name != chosen, name)):
        lines.append(_measured(name, [record["metrics"][name] for record in tested], seeds))
    if drawn.importances:
        ranked = sorted(drawn.importances.items(), key=lambda item: -item[1])
        lines.append("  importance    " + ", ".join(f"{name} {share:.0%}" for name, share in ranked))
    for seed in seeds:
        lines.append(
            "  again         " + shlex.join(["transfer", "run", *typed(search.overrides(winner.params, seed))])
        )
    lines += [f"  plot          {file}" for file in drawn.files]
    others = search.trials.running_elsewhere()[1]
    if others:
        lines.append(
            f"  {len(others)} trials run (or were left) from another output folder: the same command there ends them"
        )
    print("\n".join(lines), flush=True)


def _is_headline(name: str) -> bool:
    """test/accuracy, but not test/f1/CLASS or the floors."""
    return name.startswith("test/") and name.count("/") == 1


def _measured(name: str, values: Sequence[Any], seeds: Sequence[int]) -> str:
    known = [value for value in values if value is not None]
    mean = f"{sum(known) / len(known):.6g}" if known else "none"
    if len(values) == 1:
        return f"  {name:13} {mean}"
    shown = ["none" if value is None else f"{value:.6g}" for value in values]
    each = ", ".join(f"{seed}: {value}" for seed, value in zip(seeds, shown, strict=True))
    return f"  {name:13} {mean}  (mean over seeds; {each})"


def _require_success(search: Search, found: Sequence[FrozenTrial]) -> None:
    failed = [trial for trial in found if trial.state is TrialState.FAIL]
    complete = sum(trial.state is TrialState.COMPLETE for trial in found)
    if complete and not failed:
        return
    if found and len(failed) == len(found) == len(search.mistakes):
        problems = {str(problem): problem for error in search.mistakes for problem in error.problems}
        raise UserError(problems.values())
    lines = [f"{search.ledger.name}: {complete} of {len(found)} trials are complete, {len(failed)} failed"]
    for trial in failed:
        reason = " ".join(str(trial.user_attrs.get(trials.ERROR, "no reason is known")).split())
        lines.append(f"  {trial.number:4}  {' '.join(search.space.overrides(trial.params))}\n        {reason[:300]}")
    lines.append("A failed trial counts: for others in its place, raise hydra.sweeper.num_trials.")
    raise SweepFailedError("\n".join(lines))
