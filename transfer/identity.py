"""The identity of a run: everything that changes its result, and nothing else, with contents in place of paths."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer import records, tasks
from transfer.config import Budget, Model, Task
from transfer.data import files
from transfer.errors import Problem, UserError
from transfer.methods import GROUPS
from transfer.paths import PACKAGE_PREFIX, resolve_package_path

if TYPE_CHECKING:
    from transfer.plan import Plan

# The words for `init`; anything else names a run or a path.
RANDOM, PRETRAINED, SOURCE = "random", "pretrained", "source"


def identity(plan: Plan) -> dict[str, Any]:
    """What the fingerprint is made of: no paths, no logging, no placement on devices.

    What came later to the config is left out where it is as it was before.
    """
    trainer = plan.trainer
    data_key = f"{plan.leg}.data"
    first, *others = plan.vocabulary_data
    vocabulary_key = "source.data" if first == plan.config.source.data else "target.data"
    builds_vocabulary = not (plan.model.name or plan.model.tokenizer)
    weights = asdict(plan.weights)
    reinit_top_k = weights.pop("reinit_top_k")
    later: dict[str, Any] = {name: asdict(getattr(plan, name)) for name in GROUPS if getattr(plan, name).name != "none"}
    if plan.also:
        later |= {"also": _further(plan), "temperature": plan.temperature}
    if plan.meta.algorithm != "none":
        later["meta"] = asdict(plan.meta)
    if reinit_top_k and plan.init != RANDOM:
        later["reinit_top_k"] = reinit_top_k
    if builds_vocabulary and others:
        later["more_vocabulary"] = [files.split_fingerprint(data, key="target.data") for data in others]
    return later | {
        "schema": records.SCHEMA,
        "stage": plan.stage,
        "init": plan.init if plan.init in (RANDOM, PRETRAINED, SOURCE) else "weights",
        "parents": [parent["fingerprint"] for parent in plan.parents],
        "weights_from": content(plan.weights_from) if plan.weights_from else None,
        "data": files.split_fingerprint(plan.data, key=data_key),
        "train_size": plan.data.train_size,
        "task": task_identity(plan.task),
        "budget": budget_identity(plan.budget),
        "equal_epochs": plan.equal_epochs,
        "model": model_identity(plan.model),
        "vocabulary": files.split_fingerprint(first, key=vocabulary_key) if builds_vocabulary else None,
        "weights": weights if plan.parents or plan.weights_from else None,
        "freezing": asdict(plan.freezing),
        "optimizer": asdict(plan.optimizer),
        "scheduler": asdict(plan.scheduler),
        "seeds": asdict(plan.seeds),
        "precision": trainer.precision,
        "clip": trainer.gradient_clip_val,
        "accumulate": trainer.accumulate_grad_batches,
        "limits": [trainer.limit_train_batches, trainer.limit_eval_batches],
    }


def _further(plan: Plan) -> dict[str, Any]:
    """Of each further data set of a source, by name, what the identity has of the first one."""
    return {
        name: {
            "data": files.split_fingerprint(each.data, key=f"source.also.{name}.data"),
            "train_size": each.data.train_size,
            "task": task_identity(each.task),
        }
        for name, each in plan.also.items()
    }


def pair_id(plan: Plan) -> str:
    """12 hex digits that the arms of one comparison share: data, label subset, training budget, seeds and model."""
    target = plan.config.target
    shared = {
        "data": files.split_fingerprint(target.data, key="target.data"),
        "train_size": target.data.train_size,
        "task": task_identity(target.task),
        "budget": budget_identity(target.budget),
        "model": model_identity(plan.model),
        "seeds": asdict(plan.seeds),
    }
    return records.fingerprint(shared)[:12]


def budget_identity(budget: Budget) -> dict[str, Any]:
    """The budget's settings, with the one of the two sizes of a batch that is used."""
    settings = asdict(budget)
    del settings["tokens_per_batch" if budget.tokens_per_batch is None else "batch_size"]
    return settings


def task_identity(task: Task) -> dict[str, Any]:
    """The task's settings; without options as it was before there were any. With the code of one of the user's own."""
    settings = asdict(task)
    if not task.options:
        del settings["options"]
    code = tasks.code(task.name)
    return settings | {"code": code} if code else settings


def model_identity(model: Model) -> dict[str, Any]:
    """The model's settings, with the contents of local folders in place of their paths.

    What came later to the settings is left out where it is as it was before.
    """
    settings = asdict(model)
    if settings["decoder"] is None:
        del settings["decoder"]
    if settings["vocabulary"]["kind"] == "words":
        del settings["vocabulary"]["kind"]
    for name in settings.keys() & {"name", "decoder", "tokenizer"}:
        folder = local_folder(settings[name])
        if folder:
            settings[name] = content(folder)
    vectors = settings["vectors"]
    for name in ("path", "words"):
        if vectors[name]:
            path = vectors[name]
            local = (
                resolve_package_path(path, key="model.vectors.path") if path.startswith(PACKAGE_PREFIX) else Path(path)
            )
            vectors[name] = content(local) if local.exists() else path
    return settings


def local_folder(name: str | None) -> Path | None:
    """The folder that a model name stands for, or None for a hub id.

    Raises:
        UserError: the name is a path or a package, and nothing is there.
    """
    if not name:
        return None
    if name.startswith(PACKAGE_PREFIX):
        return resolve_package_path(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.is_file():
        raise UserError(
            Problem("model.name", name, "a hub id, package:NAME/PATH, or a folder that exists", "check the path")
        )
    return None


def content(path: Path) -> str:
    """BLAKE2b over the names and bytes of a file or of the files in a folder."""
    entries = (
        [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    )
    stats = [(entry, entry.stat()) for entry in entries]
    return _content(path, tuple((entry, stat.st_size, stat.st_mtime_ns) for entry, stat in stats))


@lru_cache(maxsize=256)
def _content(path: Path, entries: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for entry, _, _ in entries:
        if entry != path:
            digest.update(str(entry.relative_to(path)).encode())
        with open(entry, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
