"""Readers of published word vectors. Each returns only the wanted words, so that a file of any size fits in memory."""

from __future__ import annotations

import gzip
import json
import mmap
import zlib
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from transfer.errors import Problem, UserError
from transfer.paths import PACKAGE_PREFIX, resolve_package_path

VECTORS_KEY = "model.vectors.path"
WORDS_KEY = "model.vectors.words"
FORMATS = "GloVe or word2vec text (.txt, .vec), word2vec .bin, either with .gz, or .npy with a file of its words"
WORDS_FORMATS = (".txt", ".json", ".parquet")


def read_vectors(path: str | Path, wanted: set[str], words_path: str | Path | None = None) -> dict[str, np.ndarray]:
    """Vectors, float32 [dim], of those `wanted` words that the file holds; of a word held twice, the first.

    Raises:
        UserError: no such file, or one that is damaged or of another format than its name says.
    """
    file = _existing_file(path, VECTORS_KEY)
    if not file.stat().st_size:
        raise _bad(file, "is empty")
    if file.suffix == ".npy":
        return _read_npy(file, wanted, _words_file(file, words_path))
    if words_path is not None:
        action = "leave model.vectors.words out"
        raise UserError(Problem(WORDS_KEY, words_path, "null, for this file holds its words itself", action))
    read = _read_binary if file.name.endswith((".bin", ".bin.gz")) else _read_text
    try:
        return read(file, wanted)
    except (OSError, EOFError, zlib.error) as error:
        raise _bad(file, str(error)) from error


def _existing_file(path: str | Path, key: str) -> Path:
    is_inside_package = str(path).startswith(PACKAGE_PREFIX)
    file = resolve_package_path(str(path), key=key) if is_inside_package else Path(path).expanduser()
    if not file.is_file():
        raise UserError(Problem(key, path, "a file", "check the path"))
    return file


def _bad(file: Path, received: str, action: str = "check the file, or download it again") -> UserError:
    return UserError(Problem(VECTORS_KEY, f"{file}: {received}", FORMATS, action))


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _read_text(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """GloVe text, or word2vec text with its first line of two counts. In bytes: some published words are no UTF-8."""
    keys = {word.encode(): word for word in wanted}
    vectors: dict[str, np.ndarray] = {}
    with _open(file) as lines:
        first = lines.readline()
        dim, has_header = _text_layout(file, first)
        for number, raw in enumerate(chain([] if has_header else [first], lines), start=2 if has_header else 1):
            line = raw.rstrip()
            if line.count(b" ") + line.count(b"\t") < dim:
                raise _bad(file, f"line {number} has fewer than {dim} numbers, unlike line 1")
            if line.split(None, 1)[0] not in keys:
                continue
            # a few published words hold spaces: the word is all that stands before the numbers
            name, *fields = line.rsplit(None, dim)
            if name in keys:
                vectors.setdefault(keys[name], _numbers(file, f"line {number}", fields))
    return vectors


def _text_layout(file: Path, first: bytes) -> tuple[int, bool]:
    """(numbers a line, whether the first line is a header of two counts)."""
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields) and int(fields[1]) > 0:
        return int(fields[1]), True
    if len(fields) < 2:
        raise _bad(file, f"line 1 holds no vector: {first[:40]!r}")
    _numbers(file, "line 1", fields[1:])
    return len(fields) - 1, False


def _numbers(file: Path, place: str, fields: list[bytes]) -> np.ndarray:
    try:
        row = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError as error:
        raise _bad(file, f"{place}: {error}") from error
    if not np.isfinite(row).all():
        raise _bad(file, f"{place} holds a number that is not finite")
    return row


def _read_binary(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """word2vec's own format: a line of two counts, then for each word its bytes, a space and little-endian float32."""
    keys = {word.encode(): word for word in wanted}
    vectors: dict[str, np.ndarray] = {}
    with _open(file) as stream:
        # a compressed file has no map; its text is then held in memory while it is searched
        data = stream.read() if file.suffix == ".gz" else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        end = data.find(b"\n")
        counts = data[: max(end, 0)].split()
        if len(counts) != 2 or not all(count.isdigit() for count in counts):
            raise _bad(file, "does not begin with the numbers of words and of dimensions")
        num_words, dim = int(counts[0]), int(counts[1])
        place = end + 1
        for k in range(num_words):
            space = data.find(b" ", place)
            if space < 0 or space + 1 + 4 * dim > len(data):
                raise _bad(file, f"ends in word {k + 1} of {num_words}")
            name = data[place:space].lstrip(b"\n")
            place = space + 1 + 4 * dim
            if name in keys:
                row = np.frombuffer(data[space + 1 : place], dtype="<f4").astype(np.float32)
                if not np.isfinite(row).all():
                    raise _bad(file, f"word {k + 1} holds a number that is not finite")
                vectors.setdefault(keys[name], row)
    return vectors


def _read_npy(file: Path, wanted: set[str], words_file: Path) -> dict[str, np.ndarray]:
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _bad(file, str(error)) from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise _bad(file, f"an array {matrix.shape} of {matrix.dtype}, not a matrix of numbers")
    words = _read_words(words_file)
    if len(words) != len(matrix):
        received = f"{words_file}: {len(words)} words for {len(matrix)} rows of {file.name}"
        raise UserError(Problem(WORDS_KEY, received, "one word for each row", "take the words of this very matrix"))
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        if word in wanted:
            rows.setdefault(word, row)
    values = np.asarray(matrix[list(rows.values())], dtype=np.float32)
    if not np.isfinite(values).all():
        raise _bad(file, "holds a number that is not finite")
    return dict(zip(rows, values, strict=True))


def _words_file(file: Path, words_path: str | Path | None) -> Path:
    """The named file of words, else the one that lies beside the matrix."""
    if words_path is not None:
        return _existing_file(words_path, WORDS_KEY)
    beside = sorted(entry for entry in file.parent.iterdir() if entry.suffix in WORDS_FORMATS)
    same_name = [entry for entry in beside if entry.stem == file.stem]
    candidates = same_name or beside
    if len(candidates) != 1:
        names = ", ".join(entry.name for entry in candidates) or "none"
        action = f"set {WORDS_KEY} to the file with the words of its rows"
        raise UserError(Problem(WORDS_KEY, f"null, and beside {file.name}: {names}", "one file of words", action))
    return candidates[0]


def _read_words(file: Path) -> list[str]:
    """The word of each row."""
    try:
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            words = sorted(content, key=content.__getitem__) if isinstance(content, dict) else content
            if isinstance(content, dict) and sorted(content.values()) != list(range(len(content))):
                raise ValueError("the rows are not the numbers from 0, each once")
        elif file.suffix == ".parquet":
            words = _parquet_words(file)
        else:
            words = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("not a list of words")
    except (OSError, TypeError, ValueError) as error:  # pyarrow's, json's and the codec's errors are ValueErrors
        raise UserError(Problem(WORDS_KEY, f"{file}: {error}", ", ".join(WORDS_FORMATS), "check the file")) from error
    return words


def _parquet_words(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    textual = [
        field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    if len(textual) != 1:
        raise ValueError(f"columns of strings: {', '.join(textual) or 'none'}; one is needed")
    return table.column(textual[0]).to_pylist()
