"""Files too large to have their rows in memory give the same splits as others, and take little of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer import config
from transfer.data import files, formats, mapped, sources, stored
from transfer.data.budgets import subset_hash
from transfer.data.encoding import column_content
from transfer.data.stored import Stored
from transfer.errors import UserError

KEY = "target.data"
ROWS: list[dict[str, Any]] = [
    {"text": f"text {n} \u2028 é\r {n % 7}", "label": ["yes", "no", None][n % 11 % 3], "id": n // 2 * 2 + n % 2}
    for n in range(150)
]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large, and has several blocks."""
    monkeypatch.setattr(stored, "LARGE", 0)
    monkeypatch.setattr(stored, "BLOCK", 16)
    monkeypatch.setattr(mapped, "LARGE", 0)
    monkeypatch.setattr(mapped, "BLOCK", 16)
    stored._block.cache_clear()


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def everything(data: config.Data, kind: str, folder: Path | None) -> Any:
    made = sources.load(data, key=KEY, data_seed=3, problem_type=kind, folder=folder)
    splits = [split.to_list() for split in (made.train, made.validation, made.test)]
    return splits, made.labels, made.notes, [*made.strata], made.train.features


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "some without a label": (ROWS, {}, "single_label"),
    "ids": (ROWS, {"columns": config.Columns(id="id")}, "single_label"),
    "groups": (
        [row | {"doc": row["id"] // 5} for row in ROWS],
        {"columns": config.Columns(group="doc")},
        "single_label",
    ),
    "folds": ([row | {"label": "ab"[row["id"] % 2]} for row in ROWS], {"folds": 3, "fold": 1}, "single_label"),
    "caps": (ROWS, {"validation_size": 5, "test_size": 7}, "single_label"),
    "texts alone": (ROWS, {"columns": config.Columns(label=None)}, "none"),
    "texts for labels": ([row | {"label": f"to {row['id']}"} for row in ROWS], {}, "text"),
    "numbers": ([row | {"label": row["id"] / 3} for row in ROWS], {}, "regression"),
    "several": ([row | {"label": ["a", "b"][: 1 + row["id"] % 2]} for row in ROWS], {}, "multi_label"),
    "pairs": (
        [row | {"b": f"b {row['id']}"} for row in ROWS],
        {"columns": config.Columns(text_pair="b")},
        "single_label",
    ),
    "a column that comes late": ([*ROWS[:100], *(row | {"c": [1, None]} for row in ROWS[100:])], {}, "single_label"),
    "tags": (
        [{"tokens": row["text"].split(), "label": ["O"] * len(row["text"].split())} for row in ROWS],
        {"columns": config.Columns(text=None, tokens="tokens")},
        "tags",
    ),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("case", CASES)
def test_the_same_splits(tmp_path: Path, case: str) -> None:
    rows, settings, kind = CASES[case]
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows), **settings)
    expected = everything(data, kind, None)
    assert everything(data, kind, tmp_path / "rows") == expected
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    assert len(kept) == 4, "the rows as they are in the file, and those of each split"
    assert everything(data, kind, tmp_path / "rows") == expected
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()} == kept, "nothing is written twice"


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["my.csv", "my.tsv.gz", "my.jsonl.gz", "my.txt", "my.parquet"])
def test_every_format(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"text {n}", "label": str(n % 2)} for n in range(60)]
    separator = "," if "csv" in name else "\t"
    lines = [separator.join(row.values()) for row in [{"text": "text", "label": "label"}, *rows]]
    if "json" in name:
        lines = [json.dumps(row) for row in rows]
    content = "\r\n".join(lines).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    if name == "my.parquet":
        pq.write_table(pa.Table.from_pylist([row | {"when": pa.scalar(1, pa.date32()).as_py()} for row in rows]), path)
    data = config.Data(path=str(path), columns=config.Columns(label=None if name == "my.txt" else "label"))
    kind = "none" if name == "my.txt" else "single_label"
    assert everything(data, kind, tmp_path / "rows") == everything(data, kind, None)
    assert (tmp_path / "rows").is_dir()


@pytest.mark.usefixtures("small_blocks")
def test_what_is_wrong_is_said_in_the_same_words(tmp_path: Path) -> None:
    for rows in ([*ROWS, {"text": 3, "label": "no"}], [row | {"id": 1} for row in ROWS]):
        data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows), columns=config.Columns(id="id"))
        said = []
        for folder in (None, tmp_path / "rows"):
            with pytest.raises(UserError) as raised:
                everything(data, "single_label", folder)
            said.append(str(raised.value))
        assert said[0] == said[1]
    (tmp_path / "my.jsonl").write_text('{"text": "a", "label": "b"}\n' * 40 + "{\n")
    with pytest.raises(UserError, match="line 41"):
        everything(config.Data(path=str(tmp_path / "my.jsonl")), "single_label", tmp_path / "rows")
    assert not [path for path in (tmp_path / "rows").iterdir() if path.name.startswith(".new")]


@pytest.mark.usefixtures("small_blocks")
def test_a_column_on_disk_is_like_a_list(tmp_path: Path) -> None:
    values = ["a", None, "\0 not JSON", 3, 2.5, [1, {"x": None}], True, "", "\ud800", *map(str, range(40))]
    column = stored.table(lambda: ({"v": value} for value in values), tmp_path / "v.arrow")["v"]
    assert list(column) == values
    assert [column[i] for i in (*range(len(values)), -1)] == [*values, values[-1]]
    chosen = np.array([1, 4, 5, 17, 40])
    taken = column.take(chosen).take(np.array([0, 2, 3, 4])).map(repr)
    assert list(taken) == [taken[i] for i in range(4)] == [repr(values[i]) for i in (1, 5, 17, 40)]
    assert column[3:6] == values[3:6]


@pytest.mark.usefixtures("small_blocks")
def test_the_content_of_a_column_is_its_json(tmp_path: Path) -> None:
    splits = sources.load(
        config.Data(path=jsonl(tmp_path / "my.jsonl", ROWS)),
        key=KEY,
        data_seed=0,
        problem_type="single_label",
        folder=tmp_path,
    )
    texts = splits.train["text"][:]
    assert b"".join(column_content(splits.train, "text")) == json.dumps(texts).encode()
    mapped.release(splits.train)
    assert splits.train["text"][:] == texts, "what was given back comes again"


def test_the_hash_of_a_subset_is_that_of_its_ids_in_order() -> None:
    ids = ["train-10", "train-9", "é", "z", "𝒳", "train-1"]
    digest = hashlib.blake2b("".join(f"{each}\0" for each in sorted(ids)).encode(), digest_size=8)
    assert subset_hash(iter(ids)) == digest.hexdigest()


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 MB of text, no column is ever in memory as a whole."""
    for module in (stored, mapped):
        monkeypatch.setattr(module, "BLOCK", 128)
    monkeypatch.setattr(stored, "LARGE", 0)
    rows = [{"text": f"{n} " + "word" * 500, "label": "yes" if n % 2 else "no"} for n in range(4000)]
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows))
    size = sum(len(row["text"]) for row in rows)
    del rows
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        splits = sources.load(data, key=KEY, data_seed=0, problem_type="single_label", folder=tmp_path)
        digest = sum(map(len, column_content(splits.train, "text")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(splits.train) == 2800
    assert digest > 0.6 * size
    assert pa.total_allocated_bytes() - before < size / 8
    assert peak < size / 3


def test_columns_of_a_small_file_are_lists(tmp_path: Path) -> None:
    location = files.locate(config.Data(path=jsonl(tmp_path / "my.jsonl", ROWS)), key=KEY)
    table = formats.read_files(location, key=KEY, folder=tmp_path)["train"]
    assert not any(isinstance(column, Stored) for column in table.values())
