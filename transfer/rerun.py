"""`transfer rerun`: the same config again, what has changed around it since, and whether the numbers still hold."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer import hardware, records
from transfer.config import OF_THE_CALL, Config, from_plain, to_plain
from transfer.data import files
from transfer.errors import Problem, UserError
from transfer.records import Record

RERUNS = ".reruns"
# Settings of a run that say where it goes, not what it is.
PLACES = ("output_dir", "cache_dir", *OF_THE_CALL)


@dataclass(frozen=True)
class Verdict:
    """One metric, then and now. `noise` is the difference that chance alone makes likely, None where it is unknown."""

    metric: str
    before: float
    now: float
    noise: float | None

    @property
    def word(self) -> str:
        if self.before == self.now:
            return "identical"
        return "within noise" if self.noise is not None and abs(self.now - self.before) <= self.noise else "different"


def command(record: Record) -> str:
    """The command line that reproduces a record: as it was typed, in the project's folder."""
    overrides = record.get("overrides") or []
    if overrides:
        return shlex.join(["transfer", "run", *overrides])
    return shlex.join(["transfer", "rerun", record["fingerprint"][:10]])


def find(output_dir: str, reference: str) -> list[Record]:
    """The complete records that a run id, a fingerprint or an experiment's name stands for; of target runs, no sources.

    Raises:
        UserError: there are none.
    """
    found = [record for record in records.lookup(output_dir, reference) if record["status"] == "complete"]
    if not found:
        of_experiment = records.find(output_dir, reference)
        found = [record for record in of_experiment if record["status"] == "complete" and record["arm"]]
    if not found:
        allowed = "a complete run (its id, or at least 4 characters of it) or an experiment with records"
        raise UserError(Problem("NAME_OR_RUN", reference, allowed, "`transfer runs` lists them"))
    return found


def config_of(record: Record, overrides: list[str]) -> Config:
    """The record's config with changes, to be run beside the record and not in its place.

    Raises:
        UserError: an override that does not fit.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = dict(record["config"])
    try:
        changed = OmegaConf.merge(OmegaConf.structured(Config), plain, OmegaConf.from_dotlist(overrides))
        config = from_plain(dict(OmegaConf.to_container(changed, enum_to_str=True)))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UserError(Problem("overrides", " ".join(overrides), "KEY=VALUE of the config", str(error))) from error
    folder = Path(record["_folder"])
    number = 1 + sum(1 for _ in (folder.parent / RERUNS).glob(f"{folder.name}-*"))
    config.folder = str(folder.parent / RERUNS / f"{folder.name}-{number}")
    config.output_dir = str(folder.parent.parent)
    config.force = True
    return config


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> dotted keys."""
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {key: value for name, child in node.items() for key, value in flatten(child, f"{prefix}{name}.").items()}


def differences(record: Record, config: Config) -> dict[str, list[str]]:
    """What is not as it was when the record was made: config, code, data, packages, hardware."""
    before, now = flatten(record["config"]), flatten(to_plain(config))
    keys = [key for key in sorted({*before, *now}) if key.split(".")[0] not in PLACES]
    changed = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    return {
        "config": changed,
        "code": _code(record),
        "data": _data(record, config),
        "packages": _changes(record["versions"], hardware.versions()),
        "hardware": _machine(record),
    }


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = sorted({*before, *now})
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def _code(record: Record) -> list[str]:
    before, now = record["git"], hardware.git()
    lines = []
    if before.get("commit") != now.get("commit"):
        lines.append(f"commit {str(before.get('commit'))[:12]} -> {str(now.get('commit'))[:12]}")
    kept = Path(record["_folder"]) / hardware.DIFF
    old = kept.read_text(encoding="utf-8") if kept.is_file() else ""
    if old != hardware.diff():
        changes = f"then {'with' if old else 'without'} uncommitted changes ({kept.name}), now "
        lines.append(changes + ("with other ones" if hardware.diff() else "without"))
    return lines


def _data(record: Record, config: Config) -> list[str]:
    leg = config.source if record["stage"] in records.SOURCE_STAGES else config.target
    key = "source.data" if record["stage"] in records.SOURCE_STAGES else "target.data"
    now = files.fingerprint(leg.data, key=key)
    found = [] if now == record["data"]["fingerprint"] else [f"{record['data']['fingerprint'][:10]} -> {now[:10]}"]
    for name, about in record.get("also", {}).items():
        now = files.fingerprint(config.source.also[name].data, key=f"source.also.{name}.data")
        found += [] if now == about["fingerprint"] else [f"{name}: {about['fingerprint'][:10]} -> {now[:10]}"]
    return found


def _machine(record: Record) -> list[str]:
    then = record["hardware"].get("device")
    if record["hardware"].get("accelerator") != "cpu":
        return []  # what a GPU is called is known only once torch is there; the new record has it
    return [] if then == hardware.cpu_name() else [f"{then} -> {hardware.cpu_name()}"]


def verdicts(before: Record, now: Record, siblings: list[Record]) -> list[Verdict]:
    """Every metric of both records.

    The noise of a metric is two standard deviations over the seeds where at least three runs differ in nothing else;
    else, for a proportion, two binomial standard errors of the difference of two samples of that size.
    """
    found = []
    for metric, old in sorted(before["metrics"].items()):
        new = now["metrics"].get(metric)
        if old is None or new is None or metric.startswith("floor_") or metric == "num_steps":
            continue
        found.append(Verdict(metric, old, new, _noise(metric, old, before, siblings)))
    return found


def _noise(metric: str, value: float, record: Record, siblings: list[Record]) -> float | None:
    values = [run["metrics"][metric] for run in siblings if run["metrics"].get(metric) is not None]
    if len(values) >= 3:
        mean = sum(values) / len(values)
        return 2 * math.sqrt(sum((each - mean) ** 2 for each in values) / (len(values) - 1))
    num = record["data"]["num_val" if metric.startswith("val/") else "num_test"]
    proportion = metric.split("/")[1] in ("accuracy", "precision", "recall", "f1") and 0 <= value <= 1
    return 2 * math.sqrt(2 * max(value * (1 - value), 1 / num) / num) if proportion and num else None


def siblings(record: Record, output_dir: str) -> list[Record]:
    """The complete runs that differ from this one in their seeds alone, itself among them."""

    def rest(each: Record) -> dict[str, Any]:
        flat = flatten(each["config"])
        return {
            key: value for key, value in flat.items() if not key.endswith("seed") and key.split(".")[0] not in PLACES
        }

    own = rest(record)
    runs = records.find(output_dir, record["experiment"])
    return [run for run in runs if run["status"] == "complete" and run["stage"] == record["stage"] and rest(run) == own]


def rerun(output_dir: str, reference: str, overrides: list[str]) -> bool:
    """Show what has changed, run again, compare; whether every metric is identical or within noise."""
    from rich.table import Table

    from transfer.listing import console
    from transfer.run import run

    out = console()
    good = True
    for record in find(output_dir, reference):
        config = config_of(record, overrides)
        out.print(f"[bold]{Path(record['_folder']).name}[/bold]", highlight=False)
        for kind, lines in differences(record, config).items():
            for line in lines or ["as it was"]:
                out.print(f"  {kind:9} {line}", highlight=False, style="yellow" if lines else "dim", markup=False)
        new = run(config)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("metric", "before", "now", "verdict"):
            table.add_column(column, justify="left" if column in ("metric", "verdict") else "right")
        colours = {"identical": "green", "within noise": "yellow", "different": "red"}
        for verdict in verdicts(record, new, siblings(record, output_dir)):
            style = colours[verdict.word]
            row = (verdict.metric, f"{verdict.before:.6g}", f"{verdict.now:.6g}", f"[{style}]{verdict.word}[/{style}]")
            table.add_row(*row)
            good &= verdict.word != "different"
        out.print(table)
    return good
