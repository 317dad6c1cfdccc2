"""What a target could be started from: words of the command line as runs that are planned and not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transfer import compose, config, records
from transfer import plan as planning
from transfer.errors import UserError
from transfer.paths import search_folders
from transfer.plan import Plan, source_name
from transfer.records import Record
from transfer.validation import validate


@dataclass(frozen=True)
class Candidate:
    """One initialisation of the target's model.

    Attributes:
        name: as it was given.
        key: the same in the records of runs that start from it (`key_of`).
        words: what `transfer run` is told to start from it.
        plan: the run on the target that would start from it.
        parent: the model folder of the source's run; None where the plan says by itself where its weights are.
        source: the run that made them, where it is known.
        trained: whether there are weights; a data set that nothing was trained on yet has none, but its texts.
    """

    name: str
    key: str
    words: tuple[str, ...]
    plan: Plan
    parent: Path | None = None
    source: Plan | None = None
    trained: bool = True


def key_of(record: Record) -> str:
    """What a recorded run on a target started from."""
    if record["arm"] == "direct":
        return f"direct:{record['model']}"
    parents = record["parents"]
    return f"source:{parents[-1]['fingerprint']}" if parents else f"init:{record['config']['init']}"


def read(
    experiment: str, overrides: Sequence[str], sources: Sequence[str], models: Sequence[str]
) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates that can be looked at, and why the others cannot.

    Args:
        sources: data sets (files of conf/data), runs, model folders, weight files.
        models: files of conf/model, or hub ids and folders: published weights.

    Raises:
        UserError: the experiment itself cannot be composed.
    """
    first = [f"experiment={experiment}", *overrides]
    compose.compose(first)
    found, skipped = [], {}
    for make, names in ((_from_source, sources), (_from_model, models)):
        for name in dict.fromkeys(names):
            try:
                found.append(make(name, first))
            except UserError as error:
                skipped[name] = why(error)
    return found, skipped


def why(error: UserError) -> str:
    """The problems of a candidate in one line."""
    said = [f"{p.key}: {p.received}" + (f" ({p.action})" if p.action else "") for p in error.problems]
    return " ".join("; ".join(said).split())


def trained_sources(output_dir: Path) -> dict[str, str]:
    """Complete source runs, by folder -> what they were trained on; each once, the newest first."""
    found: dict[str, Record] = {}
    for record in records.find(output_dir):
        if record["arm"] is None and record["status"] == "complete":
            found.setdefault(record["fingerprint"], record)
    return {str(record["_folder"]): str(record["source"]) for record in found.values()}


def _from_model(name: str, first: list[str]) -> Candidate:
    word = f"model={name}" if _is_in("model", name) else f"model.name={name}"
    return no_source(name, first, word)


def no_source(name: str, first: list[str], *words: str) -> Candidate:
    """The published weights, from which the direct arm starts.

    Raises:
        UserError: the model has none.
    """
    plan = _planned([*first, *words, "arm=direct"])
    model = plan.model.name or plan.model.config.get("cell") or plan.model.config.get("model_type")
    return Candidate(name, f"direct:{model}", (*words, "arm=direct,scratch"), plan)


def _from_source(name: str, first: list[str]) -> Candidate:
    both = "arm=transfer,scratch"
    if not _is_in("data", name):
        word = f"init={name}"
        plan = _planned([*first, "arm=transfer", word])
        key = f"source:{plan.parents[-1]['fingerprint']}" if plan.parents else f"init:{name}"
        source = _of_run(plan.weights_from)
        if source is not None and plan.parents:
            name = f"{source_name(source.config)} ({plan.parents[-1]['run_id']})"
        return Candidate(name, key, (word, both), plan, plan.weights_from, source)
    word = f"data@source.data={name}"
    plan = _planned([*first, "arm=transfer", "init=source", word])
    source = plan.parent
    assert source is not None
    done = records.complete(plan.output_dir, source.experiment, source.stage, source.fingerprint)
    key = f"source:{source.fingerprint}"
    if done is None:
        return Candidate(name, key, (word, both), plan, None, source, trained=False)
    return Candidate(name, key, (word, both), plan, Path(done["_folder"]) / "model", source)


def _of_run(weights: Path | None) -> Plan | None:
    """The plan of the run that left these weights; None where no run did, or what it read is not there any more."""
    file = weights.parent / "config.yaml" if weights else None
    if file is None or not file.is_file():
        return None
    try:
        return planning.make(replace(config.load(file), folder=None, force=False, search=None))
    except UserError:
        return None


def _planned(words: list[str]) -> Plan:
    composed = compose.compose(words)
    validate(composed)
    return planning.make(composed)


def _is_in(group: str, name: str) -> bool:
    return any((folder / group / f"{name}.yaml").is_file() for folder in search_folders("conf"))
