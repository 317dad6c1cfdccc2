"""What initial weights make of the target's training rows, layer by layer: one pass, kept on disk."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from transfer import architecture, hardware, initial, legs, memory, parameters, predict, tasks
from transfer.choose.candidates import Candidate
from transfer.choose.kept import FEATURES_VERSION
from transfer.data.module import TransferData
from transfer.data.streaming import Stream
from transfer.errors import Problem, UserError
from transfer.identity import content
from transfer.legs import Leg
from transfer.paths import cache_folder
from transfer.pooling import mean_of_rows
from transfer.prefix import cache, store
from transfer.progress import bar

# Kinds of labels that tell rows (or words) apart by class or by value.
KINDS = ("single_label", "tags", "regression")
# A score over so many rows or words says the same as one over all of them.
MOST_ROWS = 5000
# Of the source, to tell its rows from the target's.
SOURCE_ROWS = 500
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Features:
    """Of each row of the target's training split; of each labelled word where words are tagged.

    Attributes:
        layers: the mean of the hidden states over a row's tokens (or over an image's places), embeddings first, each
            [rows, width].
        labels: numbers of classes from 0, or values [rows].
        probabilities: what the source's own head says [rows, source classes]; None where it has no classes.
        source: the last layer of rows of the source [source rows, width]; None where they are not of this kind.
        computed: whether the pass was made now.
    """

    layers: list[NDArray[np.float64]]
    labels: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None
    source: NDArray[np.float64] | None = None
    computed: bool = field(default=True, compare=False)

    @property
    def last(self) -> NDArray[np.float64]:
        return self.layers[-1]


def of(candidate: Candidate) -> Features:
    """The features of the initial weights of a run that need not be trained.

    Raises:
        UserError: what is wrong with data, model or weights; labels that tell no rows apart.
    """
    plan = candidate.plan
    leg = legs.load(plan)
    task = tasks.make(plan.task, leg.splits.labels, key=f"{plan.leg}.task")
    kind = task.problem_type
    if kind not in KINDS:
        raise UserError(Problem(f"{plan.leg}.task.name", plan.task.name, f"a task with {', '.join(KINDS)} labels", ""))
    leg = at_most(leg, MOST_ROWS)
    task.fit(leg.train)
    model, tokenizer, _ = initial.initial(plan, task, leg.train, lambda: legs.vocabulary_texts(plan), candidate.parent)
    limit = architecture.input_limit(model.config, tokenizer)
    data = legs.batches(plan, leg, task, tokenizer, limit, splits=["train"])
    beside = _source_rows(candidate, kind, leg, tokenizer, limit)
    precision = hardware.precision(plan.trainer.precision, plan.trainer.accelerator)
    name = _key(candidate.parent, model, data, beside, precision)
    file = cache_folder(plan.config.cache_dir) / "rank" / f"{name}.npz"
    if file.is_file():
        return _read(file)
    whole = _with_its_head(candidate.parent, model, kind)
    model = model if whole is None else whole
    model.to("cuda" if hardware.on_gpu(plan.trainer.accelerator) else "cpu").eval()  # type: ignore[arg-type]
    quick = _quick(model.device.type, precision)
    found = _pass(candidate.name, model, data, kind, quick, with_head=whole is not None)
    own = "tags" if kind == "tags" else ""
    source = _pass(candidate.name, model, beside, own, quick, with_head=False).last if beside else None
    made = Features(found.layers, found.labels, found.probabilities, source)
    _write(file, made)
    return made


def at_most(leg: Leg, number: int) -> Leg:
    """The leg with a sample of its training rows, the same each time, where they are more than ``number``."""
    if isinstance(leg.train, Stream):
        return Leg(leg.splits, leg.train.sample(), "")
    if len(leg.train) <= number:
        return leg
    chosen = np.random.default_rng(0).choice(len(leg.train), number, replace=False)
    return Leg(leg.splits, leg.train.select(np.sort(chosen)), "")


def _source_rows(candidate: Candidate, kind: str, leg: Leg, tokenizer: Any, limit: int | None) -> TransferData | None:
    """Rows of the source as the source's task reads them; None where they are not what the target's rows are."""
    source = candidate.source
    if source is None:
        return None
    rows = at_most(legs.load(source), SOURCE_ROWS)
    task = tasks.make(source.task, rows.splits.labels, key=f"{source.leg}.task")
    if task.problem_type not in (*KINDS, "multi_label") or (kind == "tags") != (task.problem_type == "tags"):
        return None
    if _inputs(rows.train) != _inputs(leg.train):
        return None
    task.fit(rows.train)
    return legs.batches(source, rows, task, tokenizer, limit, splits=["train"])


def _inputs(rows: Dataset) -> set[str]:
    return {"text", "tokens", "image", "features"} & {*rows.column_names}


def _with_its_head(folder: Path | None, model: Any, kind: str) -> Any:
    """The source's whole model, where it has classes and its backbone is what the run starts from; else None."""
    if folder is None or not predict.has_answers(folder):
        return None
    found = predict.load(folder)
    if found.task.problem_type != kind or kind == "regression":
        return None
    ours, theirs = _backbone(model), _backbone(found.model)
    same = ours.keys() == theirs.keys() and all(torch.equal(t.cpu(), theirs[n].cpu()) for n, t in ours.items())
    return found.model if same else None


def _backbone(model: Any) -> dict[str, Tensor]:
    inside = parameters.in_backbone(model)
    return {name: tensor for name, tensor in model.state_dict().items() if inside(name)}


def _key(folder: Path | None, model: Any, data: TransferData, beside: TransferData | None, precision: str) -> str:
    about = {
        "version": FEATURES_VERSION,
        # The source's head, which is not in the model that the run starts with, has its say in `probabilities`.
        "source_model": content(folder) if folder else None,
        "class": type(model).__name__,
        "config": {k: v for k, v in model.config.to_dict().items() if k not in cache.ABOUT_THE_HEAD},
        "rows": data.encoded["train"]._fingerprint,
        "source": beside.encoded["train"]._fingerprint if beside else None,
        "precision": precision,
    }
    return store.identity(_backbone(model).items(), about)


def _quick(device: str, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, DTYPES[precision]) if precision in DTYPES else nullcontext()


@torch.inference_mode()
def _pass(
    name: str, model: Any, data: TransferData, kind: str, quick: AbstractContextManager[Any], *, with_head: bool
) -> Features:
    """Every training row once, with what the head says of it on the way."""
    parts: list[list[Tensor]] = []
    shown: dict[str, Any] = {}
    hook = model.base_model.register_forward_hook(lambda *given: shown.update(outputs=given[-1]))

    def look(batch: dict[str, Any]) -> None:
        inputs = {key: value.to(model.device) for key, value in batch["inputs"].items()}
        with quick:
            outputs = (model if with_head else model.base_model)(**inputs, output_hidden_states=True)
        index, labels = batch["index"], batch["labels"]
        at, mask = labels >= 0 if kind == "tags" else None, batch["inputs"].get("attention_mask")
        hidden = [each.float().cpu() for each in _hidden(shown["outputs"])]
        rows = [mean_of_rows(each, mask) if at is None else each[at] for each in hidden]
        if with_head:
            logits = outputs.logits.float().cpu()
            rows.append((logits if at is None else logits[at]).softmax(-1))
        index, labels = (index, labels) if at is None else (index[:, None].expand_as(labels)[at], labels[at])
        parts.append([index, labels, *rows])

    splits = 1
    try:
        with bar(f"features of {name}") as advance:
            times = cache.AT_ONCE.get(model.device.type, cache.ELSEWHERE)
            for batch in data.every_row("train", times * data.tokens_per_step()):
                splits = memory.without_gradients(batch, splits, look, "looking at")
                advance(len(batch["index"]))
    finally:
        hook.remove()
    index, labels, *rows = (torch.cat(each) for each in zip(*parts, strict=True))
    order = torch.argsort(index, stable=True)[:MOST_ROWS]
    arrays = [each[order].numpy().astype(np.float64) for each in rows]
    numbers = labels[order].numpy()
    probabilities = arrays.pop() if with_head else None
    return Features(
        arrays, numbers if np.issubdtype(numbers.dtype, np.integer) else numbers.astype(float), probabilities
    )


def _hidden(outputs: Any) -> tuple[Tensor, ...]:
    """The hidden states of every layer; of a model that does not show them, its last."""
    found = getattr(outputs, "hidden_states", None)
    return tuple(found) if found else (outputs.last_hidden_state,)


def _write(file: Path, found: Features) -> None:
    """Whole or not at all."""
    arrays: dict[str, Any] = {f"layer_{i}": each.astype(np.float32) for i, each in enumerate(found.layers)}
    arrays["labels"] = found.labels
    for name in ("probabilities", "source"):
        if getattr(found, name) is not None:
            arrays[name] = getattr(found, name).astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with open(temporary, "wb") as sink:
        np.savez(sink, **arrays)
    os.replace(temporary, file)


def _read(file: Path) -> Features:
    with np.load(file) as kept:
        layers = [kept[f"layer_{i}"].astype(np.float64) for i in range(sum(n.startswith("layer_") for n in kept.files))]
        more = {n: kept[n].astype(np.float64) for n in ("probabilities", "source") if n in kept.files}
        return Features(layers, kept["labels"], **more, computed=False)
