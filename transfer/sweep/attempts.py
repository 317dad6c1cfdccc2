"""The trials of a search, one batch after another: parameters -> frozen jobs -> launcher -> what came of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from optuna.trial import TrialState

from transfer import config as schema
from transfer.config import Config
from transfer.errors import Problem, UserError
from transfer.sweep import launching
from transfer.sweep.choices import NO_PRUNER
from transfer.sweep.composer import Composer
from transfer.sweep.grid import freeze_job
from transfer.sweep.ledger import Job, Ledger
from transfer.sweep.search import Base
from transfer.sweep.settings import Settings
from transfer.sweep.space import Space
from transfer.sweep.trials import Trials

log = logging.getLogger(__name__)

POLL_S = 0.5


@dataclass
class Attempt:
    """A trial that this process runs: one job for each replicate, and the first thing that went wrong with it."""

    trial: optuna.Trial
    jobs: list[Job]
    mistake: Exception | None = None


@dataclass
class Search:
    """All that a search works with. `returned` is what the launcher gave back, `mistakes` what the user has to mend."""

    base: Base
    space: Space
    settings: Settings
    trials: Trials
    ledger: Ledger
    composer: Composer
    launcher: Launcher
    returned: list[JobReturn] = field(default_factory=list)
    mistakes: list[UserError] = field(default_factory=list)

    def run(self) -> None:
        """Begin trials until there are enough of them, then wait for those that other processes have begun."""
        waiting = False
        try:
            while True:
                batch = self.trials.ask(self.settings.parallel, self.settings.num_trials)
                if batch:
                    self._try(batch)
                    continue
                ours, _ = self.trials.running_elsewhere()
                if not ours:
                    return
                if not waiting:
                    log.info("%s: waiting for %d trials of other processes", self.ledger.name, len(ours))
                    waiting = True
                time.sleep(POLL_S)
        finally:
            self.trials.release()

    def _try(self, batch: Sequence[optuna.Trial]) -> None:
        attempts = [self._attempt(trial) for trial in batch]
        # Where the first replicate may be pruned, the others wait for it: they would be trained for nothing.
        first = len(self.settings.seeds or ()) if self.settings.pruner == NO_PRUNER else 1
        for part in (slice(0, first), slice(first, None)):
            self._launch([(each, job) for each in attempts if each.mistake is None for job in each.jobs[part]])
        for each in attempts:
            self._settle(each)

    def _attempt(self, trial: optuna.Trial) -> Attempt:
        attempt = Attempt(trial, [])
        configs: dict[int, Config] = {}
        for index, seed in enumerate(self.settings.seeds or ()):
            number = trial.number * len(self.settings.seeds or ()) + index
            job = Job(number, self.overrides(trial.params, seed))
            reporting = self._reporting(trial.number) if index == 0 else None
            found = freeze_job(
                self.composer,
                job,
                overrides=typed(job.overrides),
                test=False,
                search=reporting,
                sweep_name=self.ledger.name,
            )
            attempt.jobs.append(job)
            if not isinstance(found, UserError):
                configs[number] = found.config
                found = self._same_metric(f"val/{found.task.monitor}", found.task.mode) or found
            if isinstance(found, UserError):
                attempt.mistake = attempt.mistake or found
        with self.trials.turn:
            self.ledger.add(attempt.jobs, configs, without=self._left_jobs())
        return attempt

    def overrides(self, params: dict[str, object], seed: int) -> list[str]:
        """All overrides of the run with these parameters and this seed."""
        return [*self.space.fixed, *self.space.overrides(params), f"{self.base.seed_key}={seed}"]

    def _reporting(self, number: int) -> schema.Search | None:
        if self.settings.pruner == NO_PRUNER:
            return None
        folder = str(self.ledger.folder.resolve())
        return schema.Search(folder, self.ledger.name, number, self.settings.pruner, dict(self.settings.pruner_options))

    def _same_metric(self, monitor: str, mode: str) -> UserError | None:
        if (monitor, mode) == (self.base.monitor, self.base.mode):
            return None
        received, allowed = f"{monitor} ({mode})", f"{self.base.monitor} ({self.base.mode}), as in the whole search"
        return UserError(Problem("target.task.monitor", received, allowed, "search over one metric"))

    def _left_jobs(self) -> set[int]:
        """Numbers of the jobs of trials that were left, and that others have taken the place of."""
        count = len(self.settings.seeds or ())
        return {number * count + index for number in self.trials.replaced() for index in range(count)}

    def _launch(self, pending: Sequence[tuple[Attempt, Job]]) -> None:
        todo = [(attempt, job) for attempt, job in pending if self.ledger.status(job) != "complete"]
        if not todo:
            return
        found = self.launch({self.ledger.config_file(job): job for _, job in todo})
        for (attempt, job), result in zip(todo, found, strict=True):
            if result.status is JobStatus.COMPLETED:
                self.ledger.clear_error(job)
                continue
            error = result._return_value
            attempt.mistake = attempt.mistake or error
            if not isinstance(error, optuna.TrialPruned):
                self.ledger.note_error(job, str(error) or type(error).__name__)

    def launch(self, jobs: Mapping[Path, Job]) -> list[JobReturn]:
        """Have the launcher run these frozen configs."""
        # Without the choice of `sweep`, Hydra would not know the settings of `hydra.sweeper` that were typed.
        choice = [override for override in self.space.fixed if override.startswith("sweep=")]
        found = launching.launch(
            self.launcher,
            list(jobs),
            first=len(self.returned),
            wait=True,
            is_complete=lambda file: self.ledger.status(jobs[file]) == "complete",
            choice=choice,
        )
        self.returned += found
        return found

    def _settle(self, attempt: Attempt) -> None:
        trial, mistake = attempt.trial, attempt.mistake
        if isinstance(mistake, optuna.TrialPruned):
            log.info("%s: trial %d %s", self.ledger.name, trial.number, mistake)
            self.trials.tell(trial, state=TrialState.PRUNED)
            return
        values = self._values(attempt) if mistake is None else []
        if mistake is None and len(values) == len(attempt.jobs):
            self.trials.tell(trial, values=values)
            log.info(
                "%s: trial %d %s %.6g", self.ledger.name, trial.number, self.base.monitor, sum(values) / len(values)
            )
            return
        if isinstance(mistake, UserError):
            self.mistakes.append(mistake)
        error = f"{self.base.monitor} is not a number" if mistake is None else str(mistake) or type(mistake).__name__
        log.info("%s: trial %d failed: %s", self.ledger.name, trial.number, " ".join(error.split())[:200])
        self.trials.tell(trial, state=TrialState.FAIL, error=error)

    def _values(self, attempt: Attempt) -> list[float]:
        found = [self.ledger.record(job) for job in attempt.jobs]
        best = [record["monitor"]["best"] for record in found if record]
        return [value for value in best if value is not None]


def typed(overrides: Sequence[str]) -> list[str]:
    """What to type for one run of a search: the choice of `sweep` would begin a search again."""
    kept = [override for override in overrides if override != "sweep=optuna"]
    return [*kept, "hydra.mode=RUN"] if any(override.startswith("sweep=") for override in kept) else kept
