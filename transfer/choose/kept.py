"""Scores of earlier rankings, found without looking at a model or at data: they belong to the run that was planned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transfer.choose.candidates import Candidate
from transfer.paths import cache_folder
from transfer.records import write_atomically

# Of what a pass keeps, and of the formulas: what other ones gave is not taken for theirs.
FEATURES_VERSION = 2
SCORES_VERSION = 2


def read(candidate: Candidate) -> dict[str, Any] | None:
    """What `write` was given for the same candidate; None where it was given nothing, or nothing readable."""
    try:
        found = json.loads(_file(candidate).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(candidate: Candidate, about: dict[str, Any]) -> None:
    """Whole or not at all."""
    file = _file(candidate)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(about))


def _file(candidate: Candidate) -> Path:
    return cache_folder(candidate.plan.config.cache_dir) / "rank" / f"scores-{_identity(candidate)}.json"


def _identity(candidate: Candidate) -> str:
    """Of the run that would start from it (its data, labels, model and parents), of its source and of its weights.

    A fingerprint has the bytes of data and of weights that no run made; those of a source's run are told apart by size
    and time: the same run on another machine leaves slightly others.
    """
    plan, source = candidate.plan, candidate.source
    about = {
        "versions": [FEATURES_VERSION, SCORES_VERSION],
        "run": plan.fingerprint,
        "source": source.fingerprint if source else None,
        "trained": candidate.trained,
        "weights": _state(candidate.parent) if candidate.parent else None,
        "accelerator": plan.trainer.accelerator,
    }
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()


def _state(path: Path) -> list[list[Any]]:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return [[str(each.relative_to(path)), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
