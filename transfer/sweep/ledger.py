"""What a sweep is made of, on disk: its jobs, each with the config it was frozen with, and what became of them.

`outputs/.sweeps/<name>/` holds `sweep.json` (written once, at the start, or by a search with each of its trials),
`jobs/<number>.yaml` (a resolved config each) and `errors/<number>.json` for jobs that came to no record. The state of
all other jobs is that of their records.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transfer import config as schema
from transfer import records
from transfer.config import Config
from transfer.errors import Problem, UserError, nearest
from transfer.records import Record

FOLDER = ".sweeps"
FILE = "sweep.json"
PENDING = "pending"
# What a job returns that another process is training.
BUSY = "busy"


@dataclass
class Job:
    """One job. `fingerprint` is empty where its config is wrong, and `error` says how."""

    number: int
    overrides: list[str]
    experiment: str = ""
    stage: str = ""
    fingerprint: str = ""
    error: str = ""


@dataclass
class Ledger:
    """A sweep and its jobs."""

    name: str
    output_dir: Path
    overrides: list[str]
    started: str
    jobs: list[Job] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.output_dir / FOLDER / self.name

    def config_file(self, job: Job) -> Path:
        return self.folder / "jobs" / f"{job.number:04d}.yaml"

    def write(self, configs: dict[int, Config]) -> None:
        """Freeze the sweep: its list of jobs and each job's resolved config. What is there already stays."""
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        for job in self.jobs:
            file = self.config_file(job)
            if job.number in configs and not file.exists():
                schema.save(configs[job.number], file)
        if not (self.folder / FILE).exists():
            self._write_jobs()

    def _write_jobs(self) -> None:
        plain = asdict(self) | {"output_dir": str(self.output_dir)}
        records.write_atomically(self.folder / FILE, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")

    def add(self, jobs: list[Job], configs: dict[int, Config], *, without: Collection[int] = ()) -> None:
        """Further jobs of a sweep that does not know them all at its start; its other processes may have added some.

        Who calls it holds the sweep's lock.

        Args:
            without: numbers of jobs that no longer count.
        """
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        for job in jobs:
            if job.number in configs:
                schema.save(configs[job.number], self.config_file(job))
        file = self.folder / FILE
        by_number: dict[int, Job] = {}
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            self.started = known["started"]
            by_number = {job["number"]: Job(**job) for job in known["jobs"]}
        by_number |= {job.number: job for job in jobs}
        self.jobs = [by_number[number] for number in sorted(by_number) if number not in without]
        self._write_jobs()

    def record(self, job: Job) -> Record | None:
        """The record that a job came to, whatever its status."""
        if not job.fingerprint:
            return None
        done = records.complete(self.output_dir, job.experiment, job.stage, job.fingerprint)
        name = records.run_name(job.stage, job.fingerprint)
        return done or records.read(self.output_dir / job.experiment / name)

    def status(self, job: Job) -> str:
        """complete, failed, interrupted, or pending where nothing is recorded yet."""
        found = self.record(job)
        if found:
            return str(found["status"])
        return "failed" if job.error or self._error_file(job).is_file() else PENDING

    def pending(self) -> list[Job]:
        """The jobs that could be composed and are not complete."""
        return [job for job in self.jobs if job.fingerprint and self.status(job) != "complete"]

    def _error_file(self, job: Job) -> Path:
        return self.folder / "errors" / f"{job.number:04d}.json"

    def note_error(self, job: Job, message: str) -> None:
        """Why a job has no record."""
        file = self._error_file(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        records.write_atomically(file, json.dumps({"overrides": job.overrides, "error": message}, indent=1) + "\n")

    def clear_error(self, job: Job) -> None:
        self._error_file(job).unlink(missing_ok=True)

    def error(self, job: Job) -> str:
        """What went wrong with a failed job, as far as it is known."""
        if job.error:
            return job.error
        if self._error_file(job).is_file():
            return str(json.loads(self._error_file(job).read_text(encoding="utf-8"))["error"])
        found = self.record(job)
        return str(found.get("error", "")) if found else ""

    def counts(self) -> Counter[str]:
        return Counter(self.status(job) for job in self.jobs)


def names(output_dir: Path | str) -> list[str]:
    """The sweeps below an output folder."""
    return sorted(path.parent.name for path in (Path(output_dir) / FOLDER).glob(f"*/{FILE}"))


def read(output_dir: Path | str, name: str) -> Ledger:
    """The ledger of the sweep of this name, or else of the newest whose name begins like this, as with an experiment's.

    Raises:
        UserError: there is none.
    """
    have = names(output_dir)
    matching = [name] if name in have else [each for each in have if each.startswith(name)]
    if not matching:
        meant = nearest(name, have)
        allowed = ", ".join(have) or f"no sweep in {output_dir} yet"
        raise UserError(Problem("--sweep", name, allowed, f"did you mean {meant}?" if meant else ""))
    files = [Path(output_dir) / FOLDER / each / FILE for each in matching]
    plain = max((json.loads(file.read_text(encoding="utf-8")) for file in files), key=lambda each: each["started"])
    jobs = [Job(**job) for job in plain["jobs"]]
    return Ledger(plain["name"], Path(output_dir), plain["overrides"], plain["started"], jobs)
