"""What the pipelines of transformers say of the rows of a kind of task, to be compared with `transfer predict`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from transfer import models
from transfer.tasks.likelihood import IGNORED

# Kinds of tasks that no pipeline of transformers 5 opens.
NONE = {
    "class of numbers": "pipelines read texts, images and sounds",
    "number of numbers": "pipelines read texts, images and sounds",
    "choice": "there has never been one for multiple choice",
    "answer": "question-answering was taken out in transformers 5",
    "translation": "translation and text2text-generation were taken out in transformers 5",
    "summary": "summarization was taken out in transformers 5",
}
UNSAID = object()
# Prediction (UNSAID where there is none to compare) and score of each row.
Said = Iterator[tuple[Any, float | None]]


def opened(kind: str, folder: Path) -> Any:
    """The pipeline of this folder, as anyone opens it."""
    models.register()
    make: Any = transformers.pipeline
    return make(kind, model=str(folder), device="cpu")


def _classes(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    pair = built.plan.data.columns.text_pair
    given = [{"text": row["text"], "text_pair": row[pair]} if pair else row["text"] for row in rows]
    for answer in pipeline(given):
        yield answer["label"], answer["score"]


def _several(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    for answers in pipeline([row["text"] for row in rows], top_k=None):
        sure = {answer["label"]: answer["score"] for answer in answers}
        said = [label for label in built.task.labels if sure[label] > 0.5]
        yield said, min(max(score, 1 - score) for score in sure.values())


def _numbers(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    for answer in pipeline([row["text"] for row in rows]):
        yield answer["score"], None


def _tags(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    for answers in pipeline([" ".join(row["words"]) for row in rows], ignore_labels=[]):
        yield [answer["entity"] for answer in answers], float(min(answer["score"] for answer in answers))


def _images(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    folder = built.plan.output_dir.parent
    for best, *_ in pipeline([str(folder / row["image"]) for row in rows]):
        yield best["label"], best["score"]


def _next_words(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    """It continues a text, of which `transfer predict` says how likely it was: by the pipeline's own model."""
    for row, ids in zip(rows, built.encoded["input_ids"][:], strict=True):
        (continued,) = pipeline(row["text"], max_new_tokens=2, do_sample=False)
        assert continued["generated_text"].startswith(row["text"])
        whole = torch.tensor([ids])
        with torch.no_grad():
            yield float(pipeline.model(whole, labels=whole).loss.exp()), None


def _hidden_words(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    """Of a word behind the mask both say how likely it is; now and then another word, or its own, stands there."""
    tokenizer, masked = built.tokenizer, 0
    for number in range(len(rows)):
        batch = built.batch([number])
        shown, labels = batch["inputs"]["input_ids"][0], batch["labels"][0]
        if tokenizer.mask_token_id not in shown.tolist():
            yield UNSAID, None
            continue
        word = tokenizer.decode(labels[labels != IGNORED])
        (answer,) = pipeline(tokenizer.decode(shown), targets=[word])
        masked += 1
        yield 1 / answer["score"], None
    assert masked


def _responses(pipeline: Any, built: Any, rows: list[dict[str, Any]]) -> Said:
    """The tokens around a prompt have to be written out."""
    batch = built.batch()
    for ids, mask in zip(batch["prompts"]["input_ids"], batch["prompts"]["attention_mask"], strict=True):
        prompt = built.tokenizer.decode(ids[mask.bool()])
        most = built.task.options["max_new_tokens"]
        (answer,) = pipeline(prompt, max_new_tokens=most, do_sample=False, return_full_text=False)
        yield answer["generated_text"].strip(), None


CHECKS: dict[str, tuple[str, Callable[[Any, Any, list[dict[str, Any]]], Said]]] = {
    "class": ("text-classification", _classes),
    "class of a pair": ("text-classification", _classes),
    "several classes": ("text-classification", _several),
    "number": ("text-classification", _numbers),
    "tags": ("token-classification", _tags),
    "image": ("image-classification", _images),
    "next words": ("text-generation", _next_words),
    "hidden words": ("fill-mask", _hidden_words),
    "response": ("text-generation", _responses),
}
