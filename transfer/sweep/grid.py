"""The sweeper of `transfer run -m`: every combination, composed and frozen before the first job starts."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from transfer import plan as planning
from transfer import records
from transfer.config import Config
from transfer.errors import SweepFailedError, UserError
from transfer.paths import require_writable
from transfer.plan import Plan
from transfer.sweep import launching, together
from transfer.sweep.composer import Composer
from transfer.sweep.ledger import BUSY, Job, Ledger
from transfer.validation import validate

log = logging.getLogger(__name__)


class GridSweeper(Sweeper):
    """Runs every combination of the values, skipping what is complete; any of Hydra's launchers starts the jobs.

    Args:
        params: axes that come from the config (`sweep=arms`), key -> sweep string; the command line overrides them.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = {str(key): str(value) for key, value in (params or {}).items()}
        self.hydra_context: HydraContext
        self.config: DictConfig
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = launching.make(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        with records.without_collector():
            combined = combinations(parser, self.params, arguments)
            jobs, configs, mistakes = freeze(self.hydra_context, self.config, parser, combined)
        ledger = _ledger(jobs, configs, arguments, str(self.config.output_dir), self.config.sweep_name)
        require_writable(ledger.output_dir)
        ledger.write(configs)
        if launching.in_this_process(self.launcher):
            together.prepare(planning.make(configs[job.number]) for job in ledger.pending())
        returned = run_jobs(ledger, self.launcher, mistakes)
        conclude(ledger, mistakes)
        return returned


def combinations(parser: OverridesParser, params: Mapping[str, str], arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: of all axes of the command line, and of `params` where it says nothing of a key."""
    given = parser.parse_overrides(list(arguments))
    named = {override.get_key_element() for override in given}
    axes = parser.parse_overrides([f"{key}={value}" for key, value in params.items() if key not in named])
    return list(_combinations([*axes, *given]))


def _combinations(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The product of all axes as override strings; of two settings of one key the later one counts."""
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                kind = override.value_type.name.lower() if override.value_type else "this"
                raise HydraException(f"{key}: a grid has no values for {kind}; sweep=optuna searches such a space")
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
    return (list(combination) for combination in itertools.product(*axes.values()))


def freeze(
    hydra_context: HydraContext, master: DictConfig, parser: OverridesParser, combinations: Sequence[list[str]]
) -> tuple[list[Job], dict[int, Config], dict[int, UserError]]:
    """Jobs with their fingerprints, the resolved config of each, and the mistakes in those that have a wrong one."""
    composer = Composer(hydra_context, master, parser)
    jobs: list[Job] = []
    configs: dict[int, Config] = {}
    mistakes: dict[int, UserError] = {}
    for number, overrides in enumerate(combinations):
        job = Job(number, list(overrides))
        found = freeze_job(composer, job, overrides=list(overrides))
        if isinstance(found, UserError):
            mistakes[number] = found
        else:
            configs[number] = found.config
        jobs.append(job)
    return jobs, configs, mistakes


def freeze_job(composer: Composer, job: Job, **changes: Any) -> Plan | UserError:
    """The plan of a job, which is noted in it; or what the user has to mend, which is as well.

    Args:
        changes: fields of the config that no override sets.
    """
    from transfer.explain import explain

    try:
        config = replace(composer.config(job.overrides), **changes)
        validate(config)
        planned = planning.make(config)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        mistake = explain(error)
        job.error = str(mistake)
        return mistake
    job.experiment, job.stage, job.fingerprint = planned.experiment, planned.stage, planned.fingerprint
    return planned


def _ledger(
    jobs: list[Job], configs: dict[int, Config], arguments: list[str], output_dir: str, name: str | None
) -> Ledger:
    """The same jobs make the same sweep: started again, it goes on in its own folder."""
    identity = {"jobs": [job.fingerprint or job.overrides for job in jobs]}
    experiments = sorted({job.experiment for job in jobs if job.experiment})
    about = "-".join(experiments[:2]) or "sweep"
    return Ledger(
        name or f"{about}-{records.fingerprint(identity)[:10]}", Path(output_dir), arguments, records.now(), jobs
    )


def run_jobs(ledger: Ledger, launcher: Launcher, mistakes: dict[int, UserError]) -> list[JobReturn]:
    """Launch what is not complete. Jobs that another process is training are left for the end, then waited for.

    Args:
        mistakes: job number -> what the user has to mend; jobs that turn out wrong are added.
    """
    pending = ledger.pending()
    complete = len(ledger.jobs) - len(pending) - len(mistakes)
    if complete:
        log.info("%s: %d of %d jobs are complete", ledger.name, complete, len(ledger.jobs))
    returned: list[JobReturn] = []
    for wait in (False, True):
        if not pending:
            break
        jobs = {ledger.config_file(job): job for job in pending}
        found = launching.launch(
            launcher,
            list(jobs),
            first=len(returned),
            wait=wait,
            is_complete=partial(_is_complete, ledger, jobs),
        )
        returned += found
        pending = [job for job, result in zip(pending, found, strict=True) if _settle(ledger, job, result, mistakes)]
    return returned


def _is_complete(ledger: Ledger, jobs: Mapping[Path, Job], file: Path) -> bool:
    return ledger.status(jobs[file]) == "complete"


def _settle(ledger: Ledger, job: Job, result: JobReturn, mistakes: dict[int, UserError]) -> bool:
    """Note a job's error; whether it still has to be waited for."""
    if result.status is JobStatus.COMPLETED:
        ledger.clear_error(job)
        return bool(result.return_value == BUSY)
    error = result._return_value
    if isinstance(error, UserError):
        mistakes[job.number] = error
    ledger.note_error(job, str(error) or type(error).__name__)
    return False


def conclude(ledger: Ledger, mistakes: dict[int, UserError]) -> None:
    """Say what came of the sweep.

    Raises:
        UserError: when nothing but the user's mistakes came of it.
        SweepFailedError: when a job is not complete.
    """
    total = len(ledger.jobs)
    unfinished = [(job, status) for job in ledger.jobs if (status := ledger.status(job)) != "complete"]
    if not unfinished:
        log.info("%s: all %d jobs are complete", ledger.name, total)
        return
    if len(mistakes) == total:
        problems = {str(problem): problem for error in mistakes.values() for problem in error.problems}
        raise UserError(problems.values())
    lines = [f"{ledger.name}: {total - len(unfinished)} of {total} jobs are complete, {len(unfinished)} are not"]
    for job, status in unfinished:
        reason = " ".join(ledger.error(job).split()) or "no record"
        lines.append(f"  {job.number:4}  {status:11}  {' '.join(job.overrides)}\n        {reason[:300]}")
    lines.append("The same command runs these again, and nothing that is complete.")
    raise SweepFailedError("\n".join(lines))
