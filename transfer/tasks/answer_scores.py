"""How much of the right answer an answer has: exact match and F1 of words, as for SQuAD (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

ARTICLES = ("a", "an", "the")
# Scripts without spaces: each character is a word, as in the scores of CMRC 2018 (Cui et al. 2019) and of MLQA (Lewis
# et al. 2020) for Chinese, where English words and numbers in between stay whole.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """The words of an answer in lower case, without punctuation and English articles.

    Punctuation is that of ASCII, as in SQuAD's own script, and of Unicode, as in that of MLQA. It is taken out before
    words are told apart: "U.S." is one word.
    """
    kept = "".join(char for char in text.lower() if not _is_punctuation(char))
    return tuple(word for word in _WORD.findall(kept) if word not in ARTICLES)


@lru_cache(maxsize=4096)
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 where the words are those of one of the right answers; "" is the right one where there is none."""
    said = words(answer)
    return float(any(said == words(one) for one in right or [""]))


def f1(answer: str, right: Sequence[str]) -> float:
    """The best F1 of words over the right answers; of no answer 1 where there is none, else 0 (Rajpurkar 2018)."""
    return max(_f1(words(answer), words(one)) for one in right or [""])


def _f1(said: tuple[str, ...], right: tuple[str, ...]) -> float:
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))
