"""One run, from its config to its record. Nothing heavy is imported until something has to be trained."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer import config as schema
from transfer import plan as planning
from transfer import records
from transfer.config import Config
from transfer.paths import require_writable
from transfer.plan import Plan
from transfer.records import Record
from transfer.validation import validate

log = logging.getLogger(__name__)


def run(config: Config) -> Record:
    """Check the config, then return its record: the one that is there, or that of a new or resumed training.

    Raises:
        UserError: with every problem that can be seen without training.
    """
    validate(config)
    return execute(planning.make(config), force=config.force)


def execute(plan: Plan, *, force: bool = False) -> Record:
    """The record of this plan, trained if need be, after the run it starts from."""
    for note in plan.notes:
        log.warning("%s", note)
    found = _complete(plan)
    if found and not force:
        log.info("%s is complete: nothing to train", _where(found))
        return found
    require_writable(plan.output_dir)
    with records.lock(
        plan.output_dir,
        plan.fingerprint,
        waiting=lambda: log.info("%s: another process trains this run; waiting", plan.folder),
    ):
        found = _complete(plan)
        if found and not force:
            return found
        parent = Path(execute(plan.parent)["_folder"]) / "model" if plan.parent else None
        return _train(plan, parent)


def _complete(plan: Plan) -> Record | None:
    return records.complete(plan.output_dir, plan.experiment, plan.stage, plan.fingerprint)


def _where(record: Record) -> str:
    return str(Path(record["_folder"]))


def _train(plan: Plan, parent: Path | None) -> Record:
    folder = plan.folder
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _tidy(folder, new):
        schema.save(plan.config, folder / "config.yaml")
        from transfer import launch

        launch.train(plan, parent)
    record = records.read(folder)
    assert record is not None, f"{folder} has no record"
    assert record["status"] == "complete", record["status"]
    return record


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
