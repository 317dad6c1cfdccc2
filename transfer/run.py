"""One run, from its config to its record. Nothing heavy is imported until something has to be trained."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from transfer import config as schema
from transfer import hardware, nodes, records, wandb_environment
from transfer import plan as planning
from transfer.config import Config
from transfer.errors import UserError
from transfer.paths import cache_folder, require_writable
from transfer.plan import Plan
from transfer.records import Record
from transfer.validation import validate

log = logging.getLogger(__name__)


class BusyError(Exception):
    """Another process is training this run, and it was asked not to wait for it."""


def run(config: Config, *, wait: bool = True) -> Record:
    """Check the config, then return its record: the one that is there, or that of a new or resumed training.

    Raises:
        UserError: with every problem that can be seen without training.
        BusyError: with `wait` false, while another process trains the run.
    """
    validate(config)
    return execute(planning.make(config), force=config.force, wait=wait)


def execute(plan: Plan, *, force: bool = False, wait: bool = True) -> Record:
    """The record of this plan, trained if need be, after the run it starts from."""
    for note in plan.notes:
        log.warning("%s", note)
    found = _complete(plan)
    if found and not force and _enough(plan, found):
        log.info("%s is complete: nothing to train", _where(found))
        return _there(plan, found)
    if nodes.this(plan).number > 0:
        return _follow(plan)
    new = not plan.output_dir.exists()
    require_writable(cache_folder(plan.config.cache_dir), key="cache_dir")
    require_writable(plan.output_dir)

    def waiting() -> None:
        if not wait:
            raise BusyError(str(plan.folder))
        log.info("%s: another process trains this run; waiting", plan.folder)

    with (
        _tidy_outputs(plan.output_dir, new),
        records.lock(plan.output_dir, plan.fingerprint, waiting=waiting),
    ):
        found = _complete(plan)
        if found and not force:
            return _there(plan, found) if _enough(plan, found) else _test(plan, found)
        return _train(plan, trained_parent(plan))


def _follow(plan: Plan) -> Record:
    """On all but the first of a run's machines: our share of the training, under the lock that the first one holds."""
    from transfer import launch

    parent = Path(execute(plan.parent)["_folder"]) / "model" if plan.parent else None
    if not _complete(plan):
        launch.train(plan, parent)
    while (found := _complete(plan)) is None:
        time.sleep(0.2)  # until it is written, and seen here
    return found


def trained_parent(plan: Plan) -> Path | None:
    if plan.parent is None:
        return None
    if not _complete(plan.parent):
        from transfer import preflight

        preflight.check(plan)
    with wandb_environment.apart_from_sweep():
        return Path(execute(plan.parent)["_folder"]) / "model"


def _there(plan: Plan, record: Record) -> Record:
    """A record that was there before; a W&B sweep that asked for it again is told."""
    if wandb_environment.in_sweep() and plan.config.logger.name == "wandb":
        from transfer import tracking

        tracking.report(plan, record)
    return record


def _complete(plan: Plan) -> Record | None:
    return records.complete(plan.output_dir, plan.experiment, plan.stage, plan.fingerprint)


def _enough(plan: Plan, record: Record) -> bool:
    return records.tested(record) or not plan.config.test


def _test(plan: Plan, record: Record) -> Record:
    from transfer import testing

    testing.test(plan, record)
    found = _complete(plan)
    assert found is not None, f"{record['_folder']} has no complete record"
    return found


def _where(record: Record) -> str:
    return str(Path(record["_folder"]))


def _train(plan: Plan, parent: Path | None) -> Record:
    folder = plan.folder
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _tidy(folder, new), _recorded(plan):
        schema.save(plan.config, folder / "config.yaml")
        records.write_atomically(folder / "overrides.yaml", yaml.safe_dump(list(plan.config.overrides)))
        if changes := hardware.diff():
            records.write_atomically(folder / hardware.DIFF, changes)
        from transfer import launch

        launch.train(plan, parent)
    record = records.read(folder)
    assert record is not None, f"{folder} has no record"
    assert record["status"] == "complete", record["status"]
    return record


@contextmanager
def _recorded(plan: Plan) -> Iterator[None]:
    """A run that breaks off leaves a record that says how, unless an earlier complete one is there to keep."""
    started = records.now()
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt:
        _record_unfinished(plan, "interrupted", started, "")
        raise
    except Exception as error:
        if _was_pruned(plan, error):
            shutil.rmtree(plan.folder / "checkpoints", ignore_errors=True)
            _record_unfinished(plan, "interrupted", started, str(error))
        else:
            _record_unfinished(plan, "failed", started, f"{type(error).__name__}: {error}")
        raise


def _was_pruned(plan: Plan, error: Exception) -> bool:
    if plan.config.search is None:
        return False
    from transfer.sweep import pruning

    return isinstance(error, pruning.TrialPruned)


def _record_unfinished(plan: Plan, status: str, started: str, error: str) -> None:
    from transfer import recording

    found = records.read(plan.folder)
    if found is None or found["status"] != "complete":
        records.write(plan.folder, recording.unfinished(plan, status, started, error))


@contextmanager
def _tidy_outputs(folder: Path, new: bool) -> Iterator[None]:
    """The user's mistake leaves no empty folders behind either."""
    try:
        yield
    except ValueError:
        with suppress(OSError):
            (folder / records.LOCKS).rmdir()
            if new:
                folder.rmdir()
        raise


@contextmanager
def _tidy(folder: Path, new: bool) -> Iterator[None]:
    """A run that stopped over the user's mistake before it had trained leaves no folder behind."""
    try:
        yield
    except ValueError:
        started = (folder / records.RECORD).exists() or (folder / "checkpoints").exists()
        if new and not started:
            shutil.rmtree(folder, ignore_errors=True)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        raise
