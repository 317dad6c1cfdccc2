"""What a run leaves behind: its fingerprint, its record, how it is written, locked and found again. No torch here."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transfer.errors import Problem, UserError

SCHEMA = 1
RECORD = "record.json"
LOCKS = ".locks"
FIELDS = [
    "schema",
    "run_id",
    "fingerprint",
    "experiment",
    "stage",
    "arm",
    "status",
    "seed",
    "model",
    "freezing",
    "task",
    "source",
    "target",
    "train_size",
    "metrics",
    "monitor",
    "parents",
    "weights",
    "parameters",
    "data",
    "time",
    "throughput",
    "versions",
    "git",
    "hardware",
    "config",
]
# Of the runs that others start from.
SOURCE_STAGES = ("pretrain", "meta")
STATUSES = ("complete", "failed", "interrupted")

Record = dict[str, Any]


def fingerprint(identity: dict[str, Any]) -> str:
    """40 hex digits of BLAKE2b over the canonical JSON of everything that changes a result."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def run_name(stage: str, fingerprint: str) -> str:
    """The name of a run's folder, and how people refer to it."""
    return f"{stage}-{fingerprint[:10]}"


def write_atomically(path: Path, text: str) -> None:
    """Write so that a reader sees the whole text or what was there before, even when the writer is killed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a metric that does not exist is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write(folder: Path, record: Record) -> None:
    """Write the record of a run, last of all its files."""
    missing = [name for name in FIELDS if name not in record]
    assert not missing, f"record lacks {missing}"
    assert record["status"] in STATUSES, record["status"]
    write_atomically(folder / RECORD, json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read(folder: Path) -> Record | None:
    """The record in a run's folder with its `_folder`, or None where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not (isinstance(record, dict) and {"fingerprint", "status", "time"} <= record.keys()):
        return None  # somebody else's file of this name
    record["_folder"] = str(folder)
    return record


def complete(output_dir: Path, experiment: str, stage: str, fingerprint: str) -> Record | None:
    """The complete record of this fingerprint: of this experiment, else (for a shared source) of any other one."""
    name = run_name(stage, fingerprint)
    folders = [output_dir / experiment / name]
    if stage in SOURCE_STAGES and output_dir.is_dir():
        folders += sorted(output_dir.glob(f"*/{name}"))
    for folder in folders:
        record = read(folder)
        if record and record["status"] == "complete" and record["fingerprint"] == fingerprint:
            return record
    return None


def tested(record: Record) -> bool:
    """Whether its test split has been looked at; a run of a search is trained with `test=false`."""
    return any(name.startswith("test/") for name in record["metrics"])


def find(output_dir: Path | str, experiment: str | None = None) -> list[Record]:
    """All records below `output_dir`, newest first."""
    pattern = f"{experiment or '*'}/*/{RECORD}"
    found = (read(path.parent) for path in Path(output_dir).glob(pattern))
    return sorted((record for record in found if record), key=lambda record: record["time"]["started"], reverse=True)


def lookup(output_dir: Path | str, reference: str) -> list[Record]:
    """Records that `reference` names: a run folder, a run id, a folder name, or the start of a fingerprint."""
    as_folder = Path(reference)
    if (as_folder / RECORD).is_file():
        record = read(as_folder)
        return [record] if record else []
    if len(reference) < 4:
        return []
    return [
        record
        for record in find(output_dir)
        if record["fingerprint"].startswith(reference) or Path(record["_folder"]).name.startswith(reference)
    ]


def one_run(output_dir: Path | str, reference: str) -> Record:
    """The complete record that a run id, the start of a fingerprint or a run's folder stands for.

    Raises:
        UserError: it stands for none or for several.
    """
    found = [record for record in lookup(output_dir, reference) if record["status"] == "complete"]
    if len(found) != 1:
        received = f"{reference} ({', '.join(record['run_id'] for record in found)})" if found else reference
        allowed = "one complete run: its id, the start of its fingerprint, or its folder"
        raise UserError(Problem("RUN", received, allowed, "`transfer runs` lists them"))
    return found[0]


def model_folder(output_dir: Path | str, reference: str) -> Path:
    """The weights of `one_run`, or of a folder that holds a model.

    Raises:
        UserError: it stands for none or for several.
    """
    if (Path(reference) / "config.json").is_file():
        return Path(reference)
    return Path(one_run(output_dir, reference)["_folder"]) / "model"


@contextmanager
def without_collector() -> Iterator[None]:
    """Thousands of records, or of configs, are millions of objects that the garbage collector would walk through again
    and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def lock(output_dir: Path, fingerprint: str, *, waiting: Any = None) -> Iterator[None]:
    """Hold the lock of one fingerprint; who comes second waits, then finds the record complete.

    The lock is the operating system's, so it goes with its process, also with one that was killed. Its file stays,
    except after the user's mistake, where nothing was made; who waits for a file that is gone notices.

    Args:
        waiting: called once, without arguments, when another process holds the lock.
    """
    from filelock import FileLock, Timeout

    path = output_dir / LOCKS / f"{fingerprint}.lock"
    held, patience = FileLock(path), 0.1
    while not held.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=patience)
        except FileNotFoundError:
            continue  # another process has just tidied the empty folder away
        except Timeout:
            patience = -1
            if waiting:
                waiting()
    try:
        yield
    except ValueError:
        path.unlink(missing_ok=True)
        raise
    finally:
        held.release()


def now() -> str:
    """UTC, to the millisecond, sortable as text."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
