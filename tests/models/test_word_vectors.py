import gzip
import json
import struct
import sys

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from transfer.errors import UserError
from transfer.models.recurrent import RecurrentConfig, RecurrentModel
from transfer.models.word_vectors import build_tokenizer, load_vectors, set_embeddings, train_word2vec

VECTORS = {
    "the": [0.25, -1.0, 2.0],
    "film": [1.5, 0.5, -0.125],
    "Paris": [3.0, 3.0, 3.0],
    "n't": [-1.0, -2.0, -4.0],
    "电": [0.5, 0.5, 0.5],
    ". . .": [9.0, 9.0, 9.0],
}
WORDS = ["[PAD]", "[UNK]", "The", "film", "paris", "n't", "电", ".", "unheard"]


def tokenizer_of(texts, **settings):
    defaults = {"max_size": 100, "min_count": 1, "lowercase": True, "max_length": 16}
    return build_tokenizer(texts, **(defaults | settings))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's GREAT, don't you think?!", ["it", "'s", "great", ",", "do", "n't", "you", "think", "?", "!"]),
        ("I can\u2019t", ["i", "ca", "n't"]),
        ("这家店很好abc，5星", ["这", "家", "店", "很", "好", "abc", ",", "5", "星"]),
        ("Ｎａïve привет हिन्दी テスト", ["naïve", "привет", "हिन्दी", "テ", "ス", "ト"]),
        ("", []),
    ],
)
def test_words_are_split_in_any_script(text, tokens):
    tokenizer = tokenizer_of([text, "x"])
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_vocabulary_is_ordered_by_count_then_word():
    texts = ["b a c c", "c b a rare"]
    tokenizer = tokenizer_of(iter(texts), min_count=2)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert words == ["[PAD]", "[UNK]", "[SEP]", "c", "a", "b"]
    assert tokenizer("c rare")["input_ids"] == [3, tokenizer.unk_token_id]
    assert len(tokenizer_of(texts, max_size=5)) == 5
    assert tokenizer_of(["B b"], lowercase=False).tokenize("B b") == ["B", "b"]


def test_batches_pairs_and_a_saved_folder(tmp_path):
    tokenizer = tokenizer_of(["a b c"], max_length=4)
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        encoded = one(["a b", "c"], padding=True)
        assert encoded["input_ids"] == [[3, 4], [5, 0]]
        assert encoded["attention_mask"] == [[1, 1], [1, 0]]
        assert "token_type_ids" not in encoded
        assert one("a", "b c")["input_ids"] == [3, 2, 4, 5]
        assert len(one("a b c a b c", truncation=True)["input_ids"]) == 4


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="min_count"):
        tokenizer_of(["once only"], min_count=2)
    with pytest.raises(UserError, match="no word"):
        tokenizer_of([])


def text_lines(header: bool) -> bytes:
    lines = [f"{len(VECTORS)} 3"] if header else []
    lines += [f"{word} {' '.join(map(str, row))}" for word, row in VECTORS.items()]
    return ("\n".join(lines) + "\n").encode() + b"\xff\xfe 1 2 3\n"


def binary(line_feeds: bool = True) -> bytes:
    body = [word.encode() + b" " + struct.pack("<3f", *row) for word, row in VECTORS.items() if " " not in word]
    return f"{len(body)} 3\n".encode() + (b"\n" if line_feeds else b"").join(body)


def write(folder, kind: str):
    """Write VECTORS as `kind`; returns (path, words_path)."""
    matrix = np.array(list(VECTORS.values()), dtype=np.float64)
    files = {
        "glove.txt": text_lines(header=False),
        "glove.txt.gz": gzip.compress(text_lines(header=False)),
        "word2vec.vec": text_lines(header=True),
        "word2vec.bin": binary(),
        "gensim.bin": binary(line_feeds=False),
        "word2vec.bin.gz": gzip.compress(binary()),
    }
    if kind in files:
        (folder / kind).write_bytes(files[kind])
        return folder / kind, None
    np.save(folder / "matrix.npy", matrix)
    words = list(VECTORS)
    if kind == "npy+txt":
        (folder / "matrix.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        (folder / "notes.txt").write_text("not these\n")
    elif kind == "npy+json list":
        (folder / "vocabulary.json").write_text(json.dumps(words))
    elif kind == "npy+json rows":
        (folder / "vocabulary.json").write_text(json.dumps({w: words.index(w) for w in reversed(words)}))
    elif kind == "npy+parquet":
        pd.DataFrame({"index": words}).to_parquet(folder / "glove_index.parquet")
    else:
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        pd.DataFrame({"word": words, "count": range(len(words))}).to_parquet(elsewhere / "words.parquet")
        return folder / "matrix.npy", elsewhere / "words.parquet"
    return folder / "matrix.npy", None


KINDS = ["glove.txt", "glove.txt.gz", "word2vec.vec", "word2vec.bin", "gensim.bin", "word2vec.bin.gz"]
KINDS += ["npy+txt", "npy+json list", "npy+json rows", "npy+parquet", "npy+words elsewhere"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_vectors(kind, tmp_path):
    path, words_path = write(tmp_path, kind)
    matrix, found = load_vectors(path, WORDS, words_path)
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(WORDS), 3)
    # "The" is found in lower case; "paris" is not, for the file has it only as "Paris"
    assert [word for word, is_found in zip(WORDS, found, strict=True) if is_found] == ["The", "film", "n't", "电"]
    np.testing.assert_array_equal(matrix[found], [VECTORS[word] for word in ("the", "film", "n't", "电")])


@pytest.mark.parametrize("kind", ["glove.txt", "npy+parquet"])
def test_package_path_is_resolved_without_import(kind, tmp_path, monkeypatch):
    package = tmp_path / "packed_vectors"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    path, _ = write(package / "data", kind)
    monkeypatch.syspath_prepend(str(tmp_path))
    matrix, found = load_vectors(f"package:packed_vectors/data/{path.name}", ["film"])
    assert found.all()
    assert matrix[0].tolist() == VECTORS["film"]
    assert "packed_vectors" not in sys.modules
    with pytest.raises(UserError, match=r"model\.vectors\.path"):
        load_vectors("package:packed_vectors/data/absent.txt", ["film"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"the 1 2 3\nfilm 1 2\n", "line 2 has fewer than 3 numbers"),
        ("a.txt", b"the 1 2 3\nfilm 1 two 3\n", "line 2: could not convert"),
        ("a.txt", b"the 1 2 3\nfilm 1 nan 3\n", "line 2 holds a number that is not finite"),
        ("a.txt", b"<html> not found\n", "line 1: could not convert"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"Film 1 2 3\n", "none of 1 words"),
        ("a.txt.gz", b"the 1 2 3\n", "gzipped"),
        ("a.txt.gz", gzip.compress(b"film 1 2 3\n" * 500, mtime=0)[:-12], "end-of-stream"),
        ("a.bin", b"film 1 2 3\n", "does not begin with the numbers"),
        ("a.bin", binary()[:-2], "ends in word 5 of 5"),
        ("a.bin", b"", "is empty"),
        ("a.npy", b"no array", r"a\.npy"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "words.json").write_text('["film"]')
    with pytest.raises(UserError, match=message):
        load_vectors(tmp_path / name, ["film"])


@pytest.mark.parametrize(
    ("files", "words_path", "message"),
    [
        ({}, None, "beside matrix.npy: none"),
        ({"a.txt": "film", "b.txt": "film"}, None, r"a\.txt, b\.txt"),
        ({"a.txt": "film\nthe\none more\n"}, None, "3 words for 2 rows"),
        ({"a.json": '{"film": 1, "the": 2}'}, None, "the rows are not the numbers from 0"),
        ({"a.json": "[1, 2]"}, None, "not a list of words"),
        ({"a.json": "{"}, None, r"a\.json"),
        ({"a.parquet": "x"}, None, r"a\.parquet"),
        ({}, "absent.txt", r"absent\.txt"),
    ],
)
def test_wrong_words_of_a_matrix(files, words_path, message, tmp_path):
    np.save(tmp_path / "matrix.npy", np.ones((2, 3)))
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_vectors(tmp_path / "matrix.npy", ["film"], words_path and tmp_path / words_path)
    assert error.value.problems[0].key == "model.vectors.words"


def test_words_file_beside_a_text_file_is_refused(tmp_path):
    path, _ = write(tmp_path, "glove.txt")
    with pytest.raises(UserError, match=r"model\.vectors\.words"):
        load_vectors(path, ["film"], path)


def test_missing_words_keep_their_initialisation():
    model = RecurrentModel(RecurrentConfig(vocab_size=4, embedding_size=3, hidden_size=4))
    before = model.embeddings.weight.detach().clone()
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    set_embeddings(model, matrix, np.array([False, True, False, True]))
    after = model.embeddings.weight.detach()
    assert after[[1, 3]].tolist() == matrix[[1, 3]].tolist()
    assert after[[0, 2]].tolist() == before[[0, 2]].tolist()
    assert model.embeddings.weight.requires_grad
    with pytest.raises(UserError, match=r"embedding_size=5"):
        set_embeddings(model, np.ones((4, 5), dtype=np.float32))


def test_word2vec_without_gensim_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim", None)  # what an import of a missing package meets
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(UserError, match=r"pip install 'transfer\[word2vec\]'"):
        train_word2vec(["a b"], tokenizer_of(["a b"]), dim=4, seed=0)


def test_word2vec_brings_words_of_one_topic_together():
    pytest.importorskip("gensim")
    rng = np.random.default_rng(0)
    topics = [["sun", "sky", "rain", "wind"], ["bank", "loan", "coin", "debt"]]
    texts = [" ".join(rng.choice(topics[k % 2], 8)) for k in range(400)]
    tokenizer = tokenizer_of([*texts, "unseen"])
    matrix = train_word2vec(texts, tokenizer, dim=16, epochs=60, seed=0)
    again = train_word2vec(texts, tokenizer, dim=16, epochs=60, seed=0)
    np.testing.assert_array_equal(matrix, again)
    assert matrix.shape == (len(tokenizer), 16)
    assert not matrix[0].any()
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    sun, sky, bank = (unit[tokenizer.convert_tokens_to_ids(word)] for word in ("sun", "sky", "bank"))
    assert sun @ sky > sun @ bank + 0.3
