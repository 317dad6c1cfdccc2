"""Where the trials of a search are kept: a journal in the sweep's folder, or a database."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from transfer.errors import Problem, UserError

KEY = "hydra.sweeper.storage"
JOURNAL = "journal.log"
# Of a database the jobs learn from this file: its password has no place in their configs.
URL = "storage.url"
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


class _ProcessLock(BaseJournalFileLock):
    """The operating system's lock, which goes with a killed process; Optuna's own would be waited for 30 seconds."""

    def __init__(self, path: Path) -> None:
        self.held = FileLock(path)

    def acquire(self) -> bool:
        self.held.acquire()
        return True

    def release(self) -> None:
        self.held.release()


def begin(folder: Path, url: str | None) -> BaseStorage:
    """The storage of a sweep, which is noted in its folder from now on. Who calls it holds the sweep's lock.

    Raises:
        UserError: the sweep was begun in another storage, or this is none that can be used.
    """
    begun = (folder / URL).is_file()
    _note(folder, url)
    try:
        return open_storage(folder)
    except UserError:
        if not begun:
            (folder / URL).unlink(missing_ok=True)
        raise


def _note(folder: Path, url: str | None) -> None:
    shown = masked(url) if url else None
    journal, file = folder / JOURNAL, folder / URL
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    known = masked(before) if before else None
    if (journal.is_file() or before) and shown != known:
        was = known or f"the journal in {folder}"
        action = "leave the storage as it was, or choose another sweep_name"
        raise UserError(Problem(KEY, shown or "null", f"{was}, where this search was begun", action))
    if url and url != before:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as kept:
            kept.write(url)


def masked(url: str) -> str:
    """The URL without its password.

    Raises:
        UserError: this is no URL of a database.
    """
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        allowed = "null (a journal in the sweep's folder) or a database: sqlite:///FILE, postgresql://USER@HOST/NAME"
        raise UserError(Problem(KEY, url, allowed, "")) from error


def open_storage(folder: Path) -> BaseStorage:
    """The storage that `begin` noted.

    Raises:
        UserError: the database cannot be reached, or its driver is not installed.
    """
    file = folder / URL
    if not file.is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            lock = _ProcessLock(folder / f"{JOURNAL}.lock")
            return JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock))
    url = file.read_text(encoding="utf-8")
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except (ImportError, NoSuchModuleError) as error:
        driver = getattr(error, "name", None) or make_url(url).get_driver_name()
        action = f"pip install '{DRIVERS.get(str(driver), driver)}'"
        raise UserError(Problem(KEY, masked(url), "a database whose driver is installed", action)) from error
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0] if str(error.orig) else type(error).__name__
        raise UserError(Problem(KEY, masked(url), "a database that can be reached", reason)) from error
