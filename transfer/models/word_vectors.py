"""The word vocabulary of models without a tokenizer of their own, and word vectors for its embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transfer.errors import Problem, UserError
from transfer.models.vector_files import VECTORS_KEY, read_vectors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
KEPT = 4
_kept: dict[str, str] = {}
# Scripts written without spaces: each character is a word.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"
_WORD = rf"[\w&&[^{UNSPACED}]]+"
# English clitics are split as in the Penn treebank, the tokenization of the published GloVe vectors: do n't, it 's.
_SPLIT = rf"(?i)[{UNSPACED}]|{_WORD}?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|{_WORD}|[^\w\s]"


def build_tokenizer(
    texts: Iterable[str],
    *,
    max_size: int,
    min_count: int,
    lowercase: bool,
    max_length: int,
    special_tokens: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `texts`: [PAD] 0, [UNK] 1, [SEP] 2 (between the two texts of a pair), what else is
    asked for (`special_tokens`, such as mask_token: "[MASK]"), then the words.

    Words are ordered by count, equal counts by spelling. `max_size` counts the special tokens too: it is the largest
    number of rows of the embedding. Characters of unspaced scripts (Chinese, Japanese) and punctuation stand alone.
    The texts are gone through twice, from where they are.

    Raises:
        UserError: no word is left to learn from.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    named = SPECIAL_TOKENS | dict(special_tokens or {})
    special = list(dict.fromkeys(named.values()))
    texts = list(texts) if isinstance(texts, Iterator) else texts
    tokenizer = Tokenizer.from_str(_trained(texts, max_size, min_count, lowercase, special))
    if tokenizer.get_vocab_size() <= len(special):
        raise UserError(
            Problem(
                "model.vocabulary",
                f"no word (max_size {max_size}, min_count {min_count})",
                f"texts with words, and max_size above {len(special)}",
                "look at the training texts, or lower model.vocabulary.min_count",
            )
        )
    separator = SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A",
        pair=f"$A {separator}:1 $B:1",
        special_tokens=[(separator, special.index(separator))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )


def _trained(texts: Iterable[str], max_size: int, min_count: int, lowercase: bool, special: list[str]) -> str:
    """The counted words as the tokenizer's JSON; the last ones are kept, for the jobs of a sweep share their texts."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    digest = hashlib.blake2b(json.dumps([max_size, min_count, lowercase, special]).encode())
    for text in texts:
        digest.update(f"\0{text}".encode(errors="surrogatepass"))
    key = digest.hexdigest()
    if key in _kept:
        return _kept[key]
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=SPECIAL_TOKENS["unk_token"]))
    steps = [normalizers.NFKC(), normalizers.Replace("\u2019", "'")]
    tokenizer.normalizer = normalizers.Sequence(steps + ([normalizers.Lowercase()] if lowercase else []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=max_size,
        min_frequency=min_count,
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    while len(_kept) >= KEPT:
        _kept.pop(next(iter(_kept)))
    _kept[key] = tokenizer.to_str()
    return _kept[key]


def load_vectors(
    path: str | Path, words: Sequence[str], words_path: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(matrix float32 [len(words), dim], found bool [len(words)]); rows of words without a vector are zero.

    Each word is looked up as written, then in lower case. `path` and `words_path` may be `package:NAME/sub/path`, a
    place inside an installed package. `words_path` names the rows of an `.npy` matrix: one word a line (.txt), a list
    or a word -> row object (.json), or a column of strings (.parquet); without it, the file beside the matrix is taken.

    Raises:
        UserError: there is no such file, it is damaged or of another format, or it has none of the words.
    """
    vectors = read_vectors(path, set(words) | {word.lower() for word in words}, words_path)
    rows = [vectors.get(word, vectors.get(word.lower())) for word in words]
    found = np.array([row is not None for row in rows], dtype=bool)
    if not found.any():
        sample = ", ".join([word for word in words if word not in SPECIAL_TOKENS.values()][:5])
        received = f"{path}: none of {len(words)} words ({sample} ...)"
        action = "take vectors of the texts' own language"
        raise UserError(Problem(VECTORS_KEY, received, "vectors of at least one word of the vocabulary", action))
    matrix = np.zeros((len(words), len(next(iter(vectors.values())))), dtype=np.float32)
    matrix[found] = np.stack([row for row in rows if row is not None])
    return matrix, found


def set_embeddings(model: PreTrainedModel, matrix: np.ndarray, found: np.ndarray | None = None) -> None:
    """Copy the found rows (all, without `found`) into the model's input embeddings; the others stay as they were.

    Raises:
        UserError: the vectors are not as wide as the embeddings.
    """
    import torch

    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    if matrix.shape[1] != weight.shape[1]:
        action = f"set model.config.embedding_size={matrix.shape[1]}"
        raise UserError(Problem(VECTORS_KEY, f"vectors of {matrix.shape[1]}", f"vectors of {weight.shape[1]}", action))
    assert len(matrix) <= len(weight), f"{len(matrix)} words for {len(weight)} embeddings"
    rows = np.arange(len(matrix)) if found is None else np.flatnonzero(found)
    with torch.no_grad():
        weight[torch.from_numpy(rows)] = torch.from_numpy(matrix[rows]).to(weight)


def train_word2vec(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, dim: int, epochs: int = 5, window: int = 5, *, seed: int
) -> np.ndarray:
    """Skip-gram vectors with negative sampling (Mikolov et al. 2013) from `texts`, float32 [len(tokenizer), dim].

    Tokens that the texts do not hold get N(0, 0.1), padding gets zeros. One thread, so that a seed gives one result.

    Raises:
        UserError: gensim is not installed, or the texts hold no word.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        action = "pip install 'transfer[word2vec]'"
        raise UserError(Problem("model.vectors.train", True, "false where gensim is missing", action)) from error

    encoded = tokenizer(list(texts), truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
    sentences = [[str(token) for token in ids] for ids in encoded if ids]
    if not sentences:
        raise UserError(Problem("model.vectors.train", "texts without a word", "texts with words", "look at the texts"))
    trained = Word2Vec(
        sentences=sentences,
        vector_size=dim,
        window=window,
        epochs=epochs,
        seed=seed,
        sg=1,
        hs=0,
        negative=5,
        min_count=1,
        workers=1,
    ).wv
    matrix = np.random.default_rng(seed).normal(0.0, 0.1, (len(tokenizer), dim)).astype(np.float32)
    for token in range(len(tokenizer)):
        if str(token) in trained.key_to_index:
            matrix[token] = trained[str(token)]
    matrix[tokenizer.pad_token_id] = 0.0
    return matrix
