"""Labels that are no class and no number: tags of words, answers in a context or to choose from, a text, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from transfer import config
from transfer.data import choices, tagging
from transfer.data.columns import Rows, each, first
from transfer.errors import Problem, UserError, nearest

KINDS = ("tags", "spans", "choice", "text", "none")


def read(made: Rows, data: config.Data, key: str, problem_type: str, problems: list[Problem]) -> Sequence[Any]:
    """The labels of one split in their canonical form, None where there is none; what is wrong goes to ``problems``."""
    if problem_type == "none":
        return [""] * len(made)
    if problem_type == "text":
        return each(made.labels, _text)
    reader: Any = {"tags": _tags, "spans": _spans, "choice": choices.read}[problem_type]
    read_labels: Sequence[Any] = reader(made, data, key, problems)
    return read_labels


def _text(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value)


def strata(labels: Sequence[Any], problem_type: str) -> Sequence[Any]:
    """By what rows are stratified: the entity types of a sentence, whether a question has an answer, else nothing."""
    if problem_type == "tags":
        return [sorted({tag.partition("-")[2] or tag for tag in tags} - {tagging.OUTSIDE}) for tags in labels]
    if problem_type == "spans":
        return ["answered" if spans else "unanswerable" for spans in labels]
    return labels if problem_type == "choice" else [problem_type] * len(labels)


def tag_names(rows: dict[str, Rows], data: config.Data, *, key: str) -> list[str]:
    """The tags in their order: O, then B- and I- of every entity type; plain classes of words sorted.

    Raises:
        UserError: a type in another split that no training row has, or that is not in `data.labels`.
    """
    found = {split: Counter(tag for tags in made.labels for tag in tags) for split, made in rows.items()}
    scheme = tagging.is_scheme(found["train"])
    counts = {split: _types(counted) if scheme else counted for split, counted in found.items()}
    known = sorted(counts["train"])
    column = f"{key}.columns.label"
    if not known:
        received = f"{data.columns.label}: only O in {rows['train'].name}"
        raise UserError(Problem(column, received, "at least one entity", "Name the column with the tags."))
    problems = []
    for split, counted in counts.items():
        unknown = {name: count for name, count in sorted(counted.items()) if name not in counts["train"]}
        if unknown:
            listed = ", ".join(f"{name} ({count} times)" for name, count in list(unknown.items())[:5])
            guess = nearest(next(iter(unknown)), known)
            action = f"Join names with {key}.label_map" + (f" ({guess}?)" if guess else "") + ", or mend the split."
            received = f"{listed}: in {rows[split].name} ({split}), but in no training row"
            problems.append(Problem(column, received, ", ".join(known), action))
    outside = [name for name in known if data.labels and name not in data.labels]
    if outside:
        received, action = f"{list(data.labels)}, without {', '.join(outside)}", "Add what is missing."
        problems.append(Problem(f"{key}.labels", received, "every type of the training rows", action))
    if problems:
        raise UserError(problems)
    names = list(data.labels) or known
    return [tagging.OUTSIDE, *(f"{mark}-{name}" for name in names for mark in "BI")] if scheme else names


def _types(counted: Counter[str]) -> Counter[str]:
    types: Counter[str] = Counter()
    for tag, count in counted.items():
        if tag != tagging.OUTSIDE:
            types[tag[2:]] += count
    return types


def _tags(made: Rows, data: config.Data, key: str, problems: list[Problem]) -> list[Any]:
    """IOB2 with `label_map` over the types, or plain classes."""
    words = made.inputs.get("tokens")
    if words is None:
        allowed = f"{key}.columns.tokens: a column of lists of words, or a CoNLL file"
        problems.append(Problem(f"{key}.columns.tokens", "null", allowed, "Tags stand beside words, not beside text."))
        return [None] * len(made)
    wrong = [
        place
        for place, tags, sentence in zip(made.numbers, made.labels, words, strict=True)
        if not (isinstance(tags, list) and len(tags) == len(sentence) and all(isinstance(tag, str) for tag in tags))
    ]
    if wrong:
        received = f"{data.columns.label}: {len(wrong)} of {len(made)} rows ({first(wrong)} of {made.name})"
        action = "Mend these rows: the words and the tags of a row have the same number."
        problems.append(Problem(f"{key}.columns.label", received, "a list with one tag for every word", action))
        return [None] * len(made)
    scheme = tagging.is_scheme({tag for tags in made.labels for tag in tags})
    if not scheme:
        return [[data.label_map.get(tag, tag) for tag in tags] for tags in made.labels]
    renamed = [
        [tag if tag == tagging.OUTSIDE else tag[:2] + data.label_map.get(tag[2:], tag[2:]) for tag in tags]
        for tags in made.labels
    ]
    return [tagging.iob2(tags) for tags in renamed]


def _spans(made: Rows, data: config.Data, key: str, problems: list[Problem]) -> list[Any]:
    """Lists of {text, start}; an empty one is a question without an answer in its context."""
    contexts = made.inputs.get("text_pair")
    if contexts is None:
        allowed = f"{key}.columns.text: the question, {key}.columns.text_pair: its context"
        problems.append(Problem(f"{key}.columns.text_pair", "null", allowed, "Name the column with the context."))
        return [None] * len(made)
    answers = [_answers(value) for value in made.labels]
    unreadable = [place for place, found in zip(made.numbers, answers, strict=True) if found is None]
    if unreadable:
        received = f"{data.columns.label}: {len(unreadable)} of {len(made)} rows ({first(unreadable)} of {made.name})"
        allowed = "answers as SQuAD has them: {text: [...], answer_start: [...]}, or a list of {text, answer_start}"
        problems.append(Problem(f"{key}.columns.label", received, allowed, "Mend these rows."))
        return [None] * len(made)
    elsewhere = [
        index
        for index, (found, context) in enumerate(zip(answers, contexts, strict=True))
        if any(context[span["start"] : span["start"] + len(span["text"])] != span["text"] for span in found or [])
    ]
    if elsewhere and not data.drop_invalid:
        places = first([made.numbers[index] for index in elsewhere])
        received = f"{len(elsewhere)} of {len(made)} rows of {made.name} have another text there ({places})"
        action = f"Mend them, or leave these rows out with {key}.drop_invalid=true."
        allowed = "answers that stand in the context at answer_start"
        problems.append(Problem(f"{key}.columns.label", received, allowed, action))
    for index in elsewhere:
        answers[index] = None
    return answers


def _answers(value: Any) -> list[dict[str, Any]] | None:
    """[] without an answer; None for what cannot be read."""
    if value is None:
        return []
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            return None
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        return None
    spans = []
    for item in value:
        text, start = (
            (item.get("text"), item.get("answer_start", item.get("start"))) if isinstance(item, dict) else (0, 0)
        )
        if not isinstance(text, str) or not isinstance(start, int) or start < 0:
            return None
        if text:
            spans.append({"text": text, "start": start})
    return spans
