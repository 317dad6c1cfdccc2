"""The trials of a study that several processes work on: who has which, and what becomes of those whose worker died.

All that changes which trials there are is done under the sweep's lock. Each trial that runs is held by a lock of its
own, which the operating system takes from a process that dies; so a trial that runs and is not held has been left.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from transfer import records
from transfer.sweep.choices import make_sampler

# User attributes of a trial: the sweep folder in which it is locked, its parameters where they were set beforehand, the
# number of the left trial that it takes the place of, why it failed, the values of its replicates.
FOLDER, PARAMS, REPLACES, ERROR, VALUES = "folder", "params", "replaces", "error", "values"
# A trial belongs to nobody between its creation and its first attribute; longer than so many seconds, its worker died.
NOBODYS_S = 60


@dataclass(frozen=True)
class Sampling:
    """How the next parameters are chosen. `grid` is the list of all, where the sampler is a grid."""

    sampler: str
    options: Mapping[str, Any]
    seed: int
    pruner: BasePruner
    grid: Sequence[Mapping[str, Any]] = ()

    def make(self, number: int) -> BaseSampler:
        """The sampler of the trial with this number: seeded by it, so that no two workers draw the same."""
        return make_sampler(self.sampler, (self.seed * 1_000_003 + number) % 2**32, self.options)


@dataclass
class Trials:
    """The trials of one study, as this process sees them. `folder` is that of the sweep."""

    study: optuna.Study
    folder: Path
    distributions: Mapping[str, BaseDistribution]
    sampling: Sampling
    held: dict[int, FileLock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.turn = turn(self.folder)
        self.study.pruner = self.sampling.pruner
        with self.turn:
            self.id = _folder_id(self.folder)
            queued = [trial.user_attrs.get(PARAMS) for trial in self.study.get_trials(deepcopy=False)]
            for params in self.sampling.grid:
                if params not in queued:
                    self.study.enqueue_trial(dict(params), user_attrs={PARAMS: dict(params)})

    def ask(self, most: int, num_trials: int) -> list[optuna.Trial]:
        """New trials with their parameters, at most so many that `num_trials` are begun in all."""
        asked: list[optuna.Trial] = []
        with self.turn:
            self.reclaim()
            while len(asked) < most:
                trials = self.study.get_trials(deepcopy=False)
                if len(begun(trials)) >= num_trials or (self.sampling.grid and not _waiting(trials)):
                    break
                self.study.sampler = self.sampling.make(len(trials))
                trial = self.study.ask(dict(self.distributions))
                lock = self._lock(trial.number)
                lock.acquire()
                self.held[trial.number] = lock
                trial.set_user_attr(FOLDER, self.id)
                asked.append(trial)
        return asked

    def tell(
        self,
        trial: optuna.Trial,
        *,
        values: Sequence[float] = (),
        state: TrialState | None = None,
        error: str | None = None,
    ) -> None:
        """What came of a trial: the mean of the values of its replicates, or the state it ended in."""
        with self.turn:
            if error is not None:
                trial.set_user_attr(ERROR, error)
            if values:
                trial.set_user_attr(VALUES, list(values))
            self.study.tell(trial, sum(values) / len(values) if values else None, state)
            self.held.pop(trial.number).release()

    def reclaim(self) -> None:
        """Put the parameters of left trials back into the queue, each exactly once. To be called under the lock."""
        trials = self.study.get_trials(deepcopy=False)
        replaced = _replaced(trials)
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number not in self.held and self._is_left(trial):
                if trial.number not in replaced:
                    # First the queue, then the state: killed in between, the next process finds both as they are.
                    params = dict(trial.user_attrs.get(PARAMS) or trial.params)
                    self.study.enqueue_trial(params, user_attrs={PARAMS: params, REPLACES: trial.number})
                self.study.tell(trial.number, state=TrialState.FAIL)

    def running_elsewhere(self) -> tuple[list[int], list[int]]:
        """Trials that other processes of this sweep folder are running, and those begun from some other folder."""
        ours: list[int] = []
        others: list[int] = []
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if trial.number not in self.held:
                (ours if trial.user_attrs.get(FOLDER, self.id) == self.id else others).append(trial.number)
        return ours, others

    def replaced(self) -> set[int]:
        """Numbers of the left trials that others have taken the place of."""
        return _replaced(self.study.get_trials(deepcopy=False))

    def release(self) -> None:
        """Let go of the trials that are still held: another process, or the next one, takes them up."""
        for lock in self.held.values():
            lock.release()
        self.held.clear()

    def _lock(self, number: int) -> FileLock:
        path = self.folder / "trials" / f"{number:04d}.lock"
        path.parent.mkdir(exist_ok=True)
        return FileLock(path)

    def _is_left(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(FOLDER)
        if owner is None:
            assert trial.datetime_start is not None
            return (datetime.datetime.now() - trial.datetime_start).total_seconds() > NOBODYS_S
        if owner != self.id:
            return False  # its lock lies where we cannot see it
        lock = self._lock(trial.number)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True


def turn(folder: Path) -> FileLock:
    """The lock of a sweep."""
    return FileLock(folder / "sweep.lock")


def _folder_id(folder: Path) -> str:
    file = folder / "id"
    if not file.is_file():
        records.write_atomically(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")


def _replaced(trials: Sequence[FrozenTrial]) -> set[int]:
    return {trial.user_attrs[REPLACES] for trial in trials if REPLACES in trial.user_attrs}


def _waiting(trials: Sequence[FrozenTrial]) -> bool:
    return any(trial.state is TrialState.WAITING for trial in trials)


def begun(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that count: running or finished, without the left ones that another trial takes the place of."""
    replaced = _replaced(trials)
    return [t for t in trials if t.state is not TrialState.WAITING and t.number not in replaced]
