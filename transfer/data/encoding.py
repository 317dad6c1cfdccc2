"""Rows -> model inputs, once for each set of rows and tokenizer: kept on disk, memory-mapped, shared by all runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from datasets import Dataset
from transformers.image_processing_base import ImageProcessingMixin

from transfer import tasks
from transfer.data import workers
from transfer.data.mapped import blocks, large_files, release, release_files
from transfer.paths import cache_folder
from transfer.tasks.base import BaseTask

log = logging.getLogger(__name__)

VERSION = 2
# After so many rows the memory in which the texts were mapped is given back.
RELEASED = 1 << 16
# The hash of what was written out of a tokenizer, with the number of its tokens then.
_backends: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()
# The columns of a split that a task may read, the label aside.
INPUTS = ("text", "text_pair", "tokens", "choices", "features", "image")


def max_length(wanted: int, limit: int | None, *, key: str) -> int:
    """What is asked for, or what the model takes if that is less."""
    if limit is not None and wanted > limit:
        log.warning("%s=%d is more than the model takes: texts are cut to %d tokens", key, wanted, limit)
        return limit
    return wanted


def encode(
    rows: Dataset, task: Any, tokenizer: Any, max_length: int, cache_dir: str | None, *, training: bool = False
) -> Dataset:
    """The inputs of these rows with their encoded `label` and their `length`; from the cache where it is there."""
    by = task.encode_training if training else task.encode
    names = [name for name in INPUTS if name in rows.column_names]
    large = large_files(rows)

    def batch(columns: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        encoded: dict[str, list[Any]] = by({**columns, "row": numbers}, tokenizer, max_length)
        if numbers[0] // RELEASED != numbers[-1] // RELEASED:
            release_files(large)
        return encoded

    # A set of features is as quickly computed as read.
    folder = cache_folder(cache_dir) / "tokens" if tokenizer is not None else None
    key = _key(rows, names, task, tokenizer, max_length, training=training)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    # Rows that are joined may be joined otherwise where each process has its part of them.
    joined = training and type(task).encode_training is not BaseTask.encode_training
    several = None if joined or folder is None else workers.tokenizing(len(rows))
    with workers.environment_kept() if several else nullcontext():
        encoded: Dataset = rows.map(
            batch,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            cache_file_name=str(folder / f"{key}.arrow") if folder else None,
            keep_in_memory=folder is None,
            new_fingerprint=key,
            num_proc=several,
            desc="tokenizing" if len(rows) > 5000 else None,
        )
    release(rows)
    _report_truncation(encoded, max_length)
    for note in task.notes(encoded):
        log.info("%s", note)
    return encoded


def _key(rows: Dataset, names: list[str], task: Any, tokenizer: Any, max_length: int, *, training: bool) -> str:
    """Of the texts and labels themselves: the same rows from another file, or in another run, are found again."""
    digest = hashlib.blake2b(digest_size=16)
    about = {
        "version": VERSION,
        "task": [type(task).__module__, code] if (code := tasks.code(task.task.name)) else type(task).__module__,
        "labels": task.labels,
        "options": task.encoding_options(),
        "max_length": max_length,
        "names": names,
        "training": training,
    }
    digest.update(json.dumps(about, sort_keys=True).encode())
    if tokenizer is not None:
        digest.update(json.dumps(_tokenizer_identity(tokenizer)).encode())
    for name in [*names, "label"]:
        for part in column_content(rows, name):
            digest.update(part)
    return digest.hexdigest()


def column_content(rows: Dataset, name: str) -> Iterator[bytes]:
    """Bytes that differ where the values of this column differ: its JSON, in parts; of encoded images, their hash."""
    between, images = b"[", None
    for values in blocks(rows, name):
        if isinstance(values[0], bytes):
            images = images or hashlib.blake2b(digest_size=16)
            for value in values:
                images.update(len(value).to_bytes(8) + value)
        else:
            yield between + json.dumps(values, ensure_ascii=True)[1:-1].encode()
            between = b", "
    yield images.digest() if images else b"[]" if between == b"[" else b"]"


def _tokenizer_identity(tokenizer: Any) -> list[Any]:
    if isinstance(tokenizer, ImageProcessingMixin):
        return [type(tokenizer).__name__, tokenizer.to_dict()]
    own = [type(tokenizer).__name__, tokenizer.truncation_side, list(tokenizer.model_input_names)]
    if not tokenizer.is_fast:
        return [*own, sorted(tokenizer.get_vocab().items())]
    return [*own, _backend(tokenizer)]


def _backend(tokenizer: Any) -> str:
    """Once for each tokenizer, unless tokens are added: to write out the 30,000 of BERT takes a tenth of a second."""
    known = _backends.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        # A tokenizer remembers the truncation and padding of its last call; ours are those of the call to come.
        kept = {name: value for name, value in whole.items() if name not in ("truncation", "padding")}
        known = _backends[tokenizer] = len(tokenizer), hashlib.blake2b(json.dumps(kept).encode()).hexdigest()
    return known[1]


def _report_truncation(encoded: Dataset, max_length: int) -> None:
    cut, before = 0, None
    for numbers, lengths in zip(blocks(encoded, "row"), blocks(encoded, "length"), strict=True):
        if any(one == next_one for one, next_one in pairwise([before, *numbers])):
            return  # what is too long became several rows, one after the other
        cut, before = cut + sum(length >= max_length for length in lengths), numbers[-1]
    if cut > 0.05 * len(encoded):
        log.info("%d of %d texts have %d tokens or more and were cut there", cut, len(encoded), max_length)
