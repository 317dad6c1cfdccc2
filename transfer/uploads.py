"""`transfer sync`: finished W&B runs that were kept offline, uploaded by `wandb sync` itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from transfer import records
from transfer.errors import Problem, UserError
from transfer.records import Record
from transfer.wandb_environment import has_key, server

# Each run holds a lock, an open file, while it is uploaded.
AT_ONCE = 100
OFFLINE = "wandb/offline-run-*/*.wandb"
SYNCED = ".synced"  # `wandb sync` leaves such a mark beside what it has uploaded


class _HeldError(Exception):
    """Another process has the lock of this run."""


@dataclass(frozen=True)
class Kept:
    """The offline W&B files of one folder that are still to be uploaded; without a record: those of a study."""

    folder: Path
    files: tuple[Path, ...]
    record: Record | None

    @property
    def unfinished(self) -> bool:
        """Whether its training broke off and will go on. A failed or pruned run has come to its end."""
        if self.record is None:
            return not self.is_study
        return self.record["status"] == "interrupted" and not self.record.get("error")

    @property
    def is_study(self) -> bool:
        return self.folder.name == "study"


def sync(output_dir: str, names: Sequence[str], *, dry_run: bool, say: Callable[[str], None] = print) -> bool:
    """Upload what is finished and not uploaded yet; whether all of it arrived.

    Args:
        names: experiments or runs; all of them where none are named.
        dry_run: only say what would be done.

    Raises:
        UserError: nothing goes by a name, or no key is there.
    """
    kept, done = _find(Path(output_dir), names)
    if not kept:
        say(f"nothing to upload; {done} uploaded before" if done else "nothing to upload: no offline W&B runs here")
        return True
    if not dry_run and not has_key():
        received = f"none for {server()}, and {_runs(len(kept))} to upload"
        action = "`wandb login`, or set WANDB_API_KEY; --dry-run lists the runs"
        raise UserError(Problem("W&B key", received, "an API key of your account", action))
    sent, failed, waiting = 0, 0, 0
    for start in range(0, len(kept), AT_ONCE):
        with ExitStack() as locks:
            ready = []
            for one in kept[start : start + AT_ONCE]:
                reason = _why_not(one, Path(output_dir), locks)
                if reason:
                    say(f"left     {one.folder}: {reason}")
                    waiting += 1
                else:
                    ready.append(one)
            if dry_run:
                for one in ready:
                    say(f"would upload  {one.folder}")
            elif ready:
                _upload(ready)
            for one in [] if dry_run else ready:
                arrived = all(_is_synced(file) for file in one.files)
                failed += not arrived
                say(f"{'uploaded' if arrived else 'FAILED  '} {one.folder}")
            sent += len(ready)
    verb = "to upload" if dry_run else "uploaded"
    others = {"failed": failed, "left": waiting, "uploaded before": done}
    say(", ".join([f"{_runs(sent - failed)} {verb}", *(f"{count} {name}" for name, count in others.items() if count)]))
    return failed == 0


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _is_synced(file: Path) -> bool:
    return file.with_name(file.name + SYNCED).exists()


def _find(output_dir: Path, names: Sequence[str]) -> tuple[list[Kept], int]:
    """What is to be uploaded, and how many folders were before."""
    kept, done = [], 0
    for folder in dict.fromkeys(_folders(output_dir, names)):
        files = sorted(folder.glob(OFFLINE))
        left = tuple(file for file in files if not _is_synced(file))
        if left:
            kept.append(Kept(folder, left, records.read(folder)))
        elif files:
            done += 1
    return kept, done


def _folders(output_dir: Path, names: Sequence[str]) -> Iterator[Path]:
    """The folders that may hold W&B files, of runs and of studies."""
    unknown = []
    for name in names or [entry.name for entry in sorted(output_dir.glob("*")) if not entry.name.startswith(".")]:
        experiment = output_dir / name
        if experiment.is_dir() and not (experiment / records.RECORD).exists():
            yield from sorted(path for path in experiment.iterdir() if (path / "wandb").is_dir())
        elif found := records.lookup(output_dir, name):
            yield from (Path(record["_folder"]) for record in found)
        elif names:
            unknown.append(name)
    if unknown:
        action = "`transfer list` and `transfer runs` show them"
        raise UserError(
            [Problem("EXPERIMENT or RUN", name, f"an experiment or a run in {output_dir}", action) for name in unknown]
        )


def _why_not(kept: Kept, output_dir: Path, locks: ExitStack) -> str:
    """Why this run has to wait; "" once its lock is held, so that nobody goes on with it meanwhile."""
    if kept.is_study:
        return ""
    fingerprint = kept.record["fingerprint"] if kept.record else _fingerprint(kept)

    def held() -> None:
        raise _HeldError

    try:
        locks.enter_context(records.lock(output_dir, fingerprint, waiting=held))
    except _HeldError:
        return "it is being trained"
    return "it is unfinished; the command that began it goes on with it" if kept.unfinished else ""


def _fingerprint(kept: Kept) -> str:
    """The id of a run without a record, which is its fingerprint, from the name of its W&B file."""
    return kept.files[0].stem.removeprefix("run-")


def _upload(ready: Sequence[Kept]) -> None:
    """All files in one call, which puts those of one run one after the other; it marks what has arrived."""
    files = [str(file.resolve()) for one in ready for file in one.files]
    # A run that was to be offline is not: that is what has been asked for.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    command = [sys.executable, "-m", "wandb", "sync", *files]
    with (
        tempfile.TemporaryDirectory() as logs,  # else its logs go to the folder it is called in
        subprocess.Popen(
            command,
            env=environment | {"WANDB_DIR": logs},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None, "a pipe was asked for"
        for line in process.stdout:
            print(line, end="", file=sys.stderr, flush=True)
