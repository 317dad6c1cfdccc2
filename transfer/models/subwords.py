"""Subword vocabularies: pieces of words from which every text can be written again as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from transfer.errors import Problem, UserError
from transfer.models.word_vectors import SPECIAL_TOKENS, UNSPACED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEPT = 4
_kept: dict[str, str] = {}


def build_tokenizer(
    texts: Iterable[str],
    *,
    max_size: int,
    min_count: int,
    lowercase: bool,
    max_length: int,
    special_tokens: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al. 2016) over `texts`: the special tokens as among words, characters, merges.

    Spaces belong to the piece that follows them, so that decoding gives the text back; runs of spaces become one.
    Characters of unspaced scripts (Chinese, Japanese) and punctuation are never merged. `max_size` counts all of them.
    The texts are gone through twice, from where they are.

    Raises:
        UserError: there is nothing to learn from.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    named = SPECIAL_TOKENS | dict(special_tokens or {})
    special = list(dict.fromkeys(named.values()))
    texts = list(texts) if isinstance(texts, Iterator) else texts
    tokenizer = Tokenizer.from_str(_trained(texts, max_size, min_count, lowercase, special))
    if tokenizer.get_vocab_size() <= len(special):
        received, action = f"no character (max_size {max_size})", "look at the training texts"
        allowed = f"texts, and max_size above {len(special)}"
        raise UserError(Problem("model.vocabulary", received, allowed, action))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **named,
    )


def _trained(texts: Iterable[str], max_size: int, min_count: int, lowercase: bool, special: list[str]) -> str:
    """The tokenizer's JSON; the last ones are kept, for the jobs of a sweep share their texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    digest = hashlib.blake2b(json.dumps([max_size, min_count, lowercase, special]).encode())
    for text in texts:
        digest.update(f"\0{text}".encode(errors="surrogatepass"))
    key = digest.hexdigest()
    if key in _kept:
        return _kept[key]
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence(steps + ([normalizers.Lowercase()] if lowercase else []))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Split(Regex(f"[{UNSPACED}]"), behavior="isolated"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=max_size,
        min_frequency=max(2, min_count),
        special_tokens=special,
        limit_alphabet=max(1, max_size - len(special)),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    separator = SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair=f"$A {separator}:1 $B:1", special_tokens=[(separator, special.index(separator))]
    )
    while len(_kept) >= KEPT:
        _kept.pop(next(iter(_kept)))
    _kept[key] = tokenizer.to_str()
    return _kept[key]
