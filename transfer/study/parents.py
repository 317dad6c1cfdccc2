"""The source runs of a study: where they are, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer import records
from transfer.study.strategies import Record, Run


class Parents:
    """Finds the source run of a target run: among the given records, else beside them in the outputs folder."""

    def __init__(self, given: Sequence[Record]) -> None:
        self._known: dict[str, Record | None] = {r["fingerprint"]: r for r in given if r.get("fingerprint")}

    def find(self, run: Run) -> list[Record]:
        """The records of the run's parents that can be found."""
        found = []
        for parent in run.record.get("parents") or []:
            fingerprint = parent.get("fingerprint")
            if fingerprint not in self._known:
                self._known[fingerprint] = self._on_disk(run, parent)
            record = self._known[fingerprint]
            found += [record] if record is not None else []
        return found

    def line(self, run: Run) -> list[Record]:
        """The run's parents and theirs, of a chain of sources, the nearest first."""
        found = self.find(run)
        for record in found:  # grows while it is read
            found += [r for r in self.find(Run(record)) if r["fingerprint"] not in {f["fingerprint"] for f in found}]
        return found

    def _on_disk(self, run: Run, parent: Record) -> Record | None:
        """A source that two experiments share lies in the folder of the one that trained it."""
        if not run.folder or not parent.get("run_id"):
            return None
        for folder in sorted(Path(run.folder).parent.parent.glob(f"*/{parent['run_id']}")):
            record = records.read(folder)
            if record and record.get("fingerprint") == parent.get("fingerprint"):
                return record
        return None


@dataclass(frozen=True)
class Cost:
    """What a strategy's runs took on the average; nan where not recorded.

    `padding_fraction` is of the tokens, `model_flops_utilisation` of the machine's matrix peak; `peak_bytes` are those
    of a GPU, or of main memory where there was none.
    """

    label: str
    num_labels: int | None
    num_runs: int
    wall_s: float
    train_s: float
    examples_per_s: float
    padding_fraction: float
    train_flops: float
    model_flops_utilisation: float
    peak_bytes: float


def cost(label: str, num_labels: int | None, runs: Sequence[Record]) -> Cost:
    """The means over the records."""

    def mean(part: str, key: str) -> float:
        values = [value for r in runs if (value := (r.get(part) or {}).get(key)) is not None]
        return sum(values) / len(values) if values else float("nan")

    return Cost(
        label,
        num_labels,
        len(runs),
        mean("time", "wall_s"),
        mean("time", "train_s"),
        mean("throughput", "examples_per_s"),
        mean("throughput", "padding_fraction"),
        mean("throughput", "train_flops"),
        mean("throughput", "model_flops_utilisation"),
        mean("memory", "peak_gpu_bytes" if mean("memory", "peak_gpu_bytes") > 0 else "peak_rss_bytes"),
    )
