"""Answers to questions about a context by means that need no learning: words that question and context share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from transfer.floors import TOKEN_PATTERN

Span = dict[str, Any]
_TOKEN = re.compile(TOKEN_PATTERN)
# Where a sentence ends: its mark before a blank or the end, or that of Chinese and Japanese anywhere.
_END = re.compile(r"[.!?]+(?=\s|$)|[。！？]|\n+")
# Too frequent to answer anything by themselves.
_FUNCTION = frozenset(
    ("a", "an", "the", "of", "in", "on", "at", "to", "for", "and", "or", "by", "with", "from", "as", "is", "are", "was")
)


def floors(
    train_answers: Sequence[Sequence[Span]], questions: Sequence[str], contexts: Sequence[str]
) -> dict[str, Any]:
    """`sentence`: that with the most words of the question. `window`: the sliding window of Richardson et al. 2013.

    The latter is the first baseline of SQuAD (Rajpurkar et al. 2016). Their candidates are the phrases of a parser;
    here they are all runs of as many words as the median training answer has, without a word of the question and not
    across sentences.
    """
    sizes = [len(_TOKEN.findall(spans[0]["text"])) for spans in train_answers if spans]
    size = max(1, round(median(sizes))) if sizes else 1
    pairs = list(zip(questions, contexts, strict=True))
    return {
        "sentence": [sentence(question, context) for question, context in pairs],
        "window": [window(question, context, size) for question, context in pairs],
    }


def sentence(question: str, context: str) -> list[Span]:
    """The first of the sentences with the most different words of the question."""
    asked = {word.lower() for word in _TOKEN.findall(question)} - _FUNCTION
    best = max(_sentences(context), key=lambda ends: _shared(asked, context[slice(*ends)]), default=None)
    return [] if best is None else _span(context, *best)


def _shared(asked: set[str], text: str) -> int:
    return len(asked & {word.lower() for word in _TOKEN.findall(text)})


def window(question: str, context: str, size: int) -> list[Span]:
    """The candidate whose neighbourhood, as many words as question and answer have, weighs most.

    A word of the question or of the candidate weighs log(1 + 1 / its count in the context) there (Richardson et al.
    2013, algorithm 1).
    """
    asked = {word.lower() for word in _TOKEN.findall(question)}
    found = list(_TOKEN.finditer(context))
    names = [match.group().lower() for match in found]
    counts = Counter(names)
    weights = {word: math.log(1 + 1 / count) for word, count in counts.items()}
    ends = [end for _, end in _sentences(context)]
    number = [sum(end <= match.start() for end in ends) for match in found]
    best, chosen = 0.0, None
    for begin in range(len(found) - size + 1):
        inside = names[begin : begin + size]
        if asked & set(inside) or {inside[0], inside[-1]} & _FUNCTION or number[begin] != number[begin + size - 1]:
            continue
        side = -(-len(asked) // 2)
        near = names[max(0, begin - side) : begin + size + side]
        weight = sum(weights[word] for word in near if word in asked) + sum(weights[word] for word in inside)
        if weight > best:
            best, chosen = weight, begin
    if chosen is None:
        return sentence(question, context)
    return _span(context, found[chosen].start(), found[chosen + size - 1].end())


def _sentences(context: str) -> list[tuple[int, int]]:
    """Begin and end of each sentence that has a word."""
    begin, found = 0, []
    for end in [*(match.end() for match in _END.finditer(context)), len(context)]:
        if _TOKEN.search(context, begin, end):
            found.append((begin, end))
            begin = end
    return found


def _span(context: str, begin: int, end: int) -> list[Span]:
    text = context[begin:end]
    return [{"text": text.strip(), "start": begin + len(text) - len(text.lstrip())}]
