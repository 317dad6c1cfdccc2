from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer import config
from transfer.data import formats, parsing, sources
from transfer.data.files import Location
from transfer.data.sources import Splits, load
from transfer.errors import Problem, UserError

KEY = "target.data"
ROWS = [{"text": f"text {n}", "label": "yes" if n % 3 else "no"} for n in range(60)]


@pytest.fixture(autouse=True)
def _no_transfer_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFER_DATA", raising=False)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(data: config.Data, problem_type: str = "single_label", data_seed: int = 0) -> Splits:
    return load(data, key=KEY, data_seed=data_seed, problem_type=problem_type)


def problems(data: config.Data, problem_type: str = "single_label") -> list[Problem]:
    with pytest.raises(UserError) as caught:
        read(data, problem_type)
    for problem in caught.value.problems:
        assert problem.key.startswith(KEY + ".")
        assert all([problem.allowed, problem.action])
    return caught.value.problems


def everything(splits: Splits) -> list[list[dict[str, Any]]]:
    return [splits.train.to_list(), splits.validation.to_list(), splits.test.to_list()]


def write(path: Path, extension: str) -> str:
    """`ROWS` in each of the formats."""
    table = pa.Table.from_pylist(ROWS)
    if extension.startswith("parquet"):
        pq.write_table(table, path)
        content = path.read_bytes()
    elif extension.startswith("jsonl"):
        content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    elif extension.startswith("json"):
        content = json.dumps(ROWS).encode()
    else:
        separator = "," if extension.startswith("csv") else "\t"
        lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in ROWS)]
        # with the byte order mark and the line ends of a spreadsheet
        content = b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", separator).encode()
    path.write_bytes(gzip.compress(content) if extension.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize(
    "extension", [f"{name}{gz}" for name in ("csv", "tsv", "jsonl", "json", "parquet") for gz in ("", ".gz")]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, extension: str) -> None:
    expected = read(config.Data(path=jsonl(tmp_path / "reference.jsonl", ROWS)))
    made = read(config.Data(path=write(tmp_path / f"my.{extension}", extension)))
    assert everything(made) == everything(expected)
    assert made.labels == ["no", "yes"]


def test_columns_and_types(tmp_path: Path) -> None:
    splits = read(config.Data(path=jsonl(tmp_path / "my.jsonl", ROWS)))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (42, 6, 12)
    assert splits.train.column_names == ["id", "text", "label"]
    rows = {row["id"]: row for part in everything(splits) for row in part}
    assert rows == {f"train-{n}": {"id": f"train-{n}", **row} for n, row in enumerate(ROWS, start=1)}


def test_values_are_not_guessed(tmp_path: Path) -> None:
    lines = ["text,label,key"] + [f"NA,{'007' if n % 2 else 'NA'},{n:03}" for n in range(20)]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    splits = read(config.Data(path=str(tmp_path / "my.csv"), columns=config.Columns(id="key")))
    assert splits.labels == ["007", "NA"]
    assert set(splits.train["text"]) == {"NA"}
    assert "003" in {row["id"] for part in everything(splits) for row in part}


def test_drawn_splits_are_stratified_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": "rare" if n < 20 else "common"} for n in range(200)]
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows))
    first, again, other = read(data), read(data), read(data, data_seed=1)
    assert everything(first) == everything(again) != everything(other)
    for part, size in zip(everything(first), (140, 20, 40), strict=True):
        assert len(part) == size
        assert Counter(row["label"] for row in part)["rare"] == pytest.approx(size / 10, abs=1)
    assert any("drawn from my.jsonl" in note for note in first.notes)


def test_a_class_of_one_row_stays_in_train(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "single", "label": "single"}]
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows))
    for seed in range(5):
        assert "single" in read(data, data_seed=seed).train["label"]


def test_groups_are_never_split(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": str(n % 2), "patient": f"p{n // 7}"} for n in range(700)]
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows), columns=config.Columns(id="text", group="patient"))
    splits = read(data)
    groups = [{int(row["id"]) // 7 for row in part} for part in everything(splits)]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 100
    assert (len(splits.test), len(splits.validation)) == pytest.approx((140, 70), abs=4)
    assert any("whole groups" in note for note in splits.notes)


def test_given_splits_are_kept(tmp_path: Path) -> None:
    for split, rows in (("train", ROWS[:30]), ("dev", ROWS[30:40]), ("test", ROWS[40:])):
        jsonl(tmp_path / f"{split}.jsonl", rows)
    splits = read(config.Data(path=str(tmp_path)))
    assert [[row["text"] for row in part] for part in everything(splits)] == [
        [row["text"] for row in part] for part in (ROWS[:30], ROWS[30:40], ROWS[40:])
    ]
    assert splits.notes == []


def test_only_what_is_missing_is_drawn(tmp_path: Path) -> None:
    files = config.Files(train=jsonl(tmp_path / "a.jsonl", ROWS[:40]), test=jsonl(tmp_path / "b.jsonl", ROWS[40:]))
    splits = read(config.Data(files=files))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 20)
    assert {row["id"] for row in splits.test.to_list()} == {f"test-{n}" for n in range(1, 21)}


def test_a_group_in_two_given_splits_is_noted(tmp_path: Path) -> None:
    rows = [{**row, "document": f"d{n // 6}"} for n, row in enumerate(ROWS)]
    jsonl(tmp_path / "train.jsonl", rows[:40])
    jsonl(tmp_path / "test.jsonl", rows[40:])
    splits = read(config.Data(path=str(tmp_path), columns=config.Columns(group="document")))
    assert any("1 groups of the test rows" in note for note in splits.notes)


def test_caps_are_stratified_and_nested() -> None:
    data = config.Data(path="embedded:movies", columns=config.Columns(id="id"))
    full = read(data)
    small, large = (read(replace(data, test_size=size, validation_size=size // 2)) for size in (100, 400))
    assert (len(small.test), len(large.test), len(small.validation)) == (100, 400, 50)
    assert set(small.test["id"]) < set(large.test["id"]) < set(full.test["id"])
    assert Counter(small.test["label"])["negative"] == pytest.approx(50, abs=2)
    assert list(small.train["id"]) == list(full.train["id"])
    assert len(read(replace(data, test_size=10**6)).test) == len(full.test)


def test_train_size_is_checked_and_not_applied(tmp_path: Path) -> None:
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", ROWS), train_size=42)
    assert len(read(data).train) == 42
    assert len(read(replace(data, train_size=10)).train) == 42
    (problem,) = problems(replace(data, train_size=43))
    assert problem.key == "target.data.train_size"


def test_ids_that_start_anew_in_each_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        jsonl(tmp_path / f"{split}.jsonl", [{**row, "key": n} for n, row in enumerate(ROWS)])
    splits = read(config.Data(path=str(tmp_path), columns=config.Columns(id="key")))
    ids = [row["id"] for part in everything(splits) for row in part]
    assert len(set(ids)) == 120
    assert {"test-0", "train-0"} < set(ids)


def test_pairs(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "context": f"c{n}", "answer": n % 2} for n in range(20)]
    columns = config.Columns(text="question", text_pair="context", label="answer")
    splits = read(config.Data(path=jsonl(tmp_path / "my.jsonl", rows), columns=columns))
    assert splits.train.column_names == ["id", "text", "text_pair", "label"]
    assert all(row["text"][1:] == row["text_pair"][1:] for row in splits.train.to_list())
    assert splits.labels == ["0", "1"]


def test_features() -> None:
    columns = config.Columns(text=None, features=["x", "y"], label="y")
    splits = read(config.Data(path="embedded:linear_source", columns=columns), "regression")
    assert splits.labels == []
    row = splits.train[0]
    assert len(row["features"]) == 2
    assert row["features"][1] == row["label"]


def test_regression_is_split_by_decile() -> None:
    columns = config.Columns(label="valence", id="id")
    splits = read(config.Data(path="embedded:movies", columns=columns), "regression")
    means = [sum(row["label"] for row in part) / len(part) for part in everything(splits)]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 10605
    assert max(means) - min(means) < 0.05


def test_rows_without_a_label_are_dropped_and_noted() -> None:
    splits = read(config.Data(path="embedded:products", columns=config.Columns(id="id", group="document")))
    assert sum(map(len, everything(splits))) == 3610
    assert any("98 of 3708 rows" in note for note in splits.notes)


@pytest.mark.parametrize("value", [-1, None, ""])
@pytest.mark.parametrize("validation", [True, False])
def test_an_unlabelled_test_split(tmp_path: Path, value: object, validation: bool) -> None:
    jsonl(tmp_path / "train.jsonl", ROWS[:40])
    jsonl(tmp_path / "test.jsonl", [{"text": "?", "label": value}] * 5)
    if validation:
        jsonl(tmp_path / "validation.jsonl", ROWS[40:])
    splits = read(config.Data(path=str(tmp_path)))
    assert len(splits.test) == (20 if validation else 8)
    assert len(splits.train) == (36 if validation else 28)
    assert any("test.jsonl has no labels" in note for note in splits.notes)


def test_a_test_file_without_the_label_column(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "test.jsonl", [{"text": "?"}])
    assert len(read(config.Data(path=str(tmp_path))).test) == 12


def test_minus_one_may_be_a_class(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"text": str(n), "label": -1 if n % 2 else 1} for n in range(20)])
    jsonl(tmp_path / "test.jsonl", [{"text": "last", "label": -1}])
    splits = read(config.Data(path=str(tmp_path)))
    assert splits.labels == ["-1", "1"]
    assert splits.test["label"][:] == ["-1"]


def test_label_map_and_order(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "my.jsonl", [{"text": str(n), "label": n % 3} for n in range(30)])
    data = config.Data(path=path, label_map={"0": "bad", "1": "good", "2": "good"}, labels=["good", "bad"])
    splits = read(data)
    assert splits.labels == ["good", "bad"]
    assert Counter(label for part in everything(splits) for label in [row["label"] for row in part]) == {
        "good": 20,
        "bad": 10,
    }


@pytest.mark.parametrize("separator", [None, "|"])
def test_multi_label(tmp_path: Path, separator: str | None) -> None:
    values = [["b", "a"], ["c"], [], ["a", "a"]] * 10
    rows = [
        {"text": str(n), "label": value if separator is None else " | ".join(value)} for n, value in enumerate(values)
    ]
    data = config.Data(path=jsonl(tmp_path / "my.jsonl", rows), label_separator=separator, label_map={"c": "d"})
    splits = read(data, "multi_label")
    assert splits.labels == ["a", "b", "d"]
    found = {row["text"]: row["label"] for part in everything(splits) for row in part}
    assert [found[str(n)] for n in range(4)] == [["a", "b"], ["d"], [], ["a"]]


def test_what_is_odd_is_noted(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": " ", "label": "yes"}, {"text": "x", "label": "Yes"}, {"text": "y", "label": "Yes"}]
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "test.jsonl", ROWS[:5])
    notes = read(config.Data(path=str(tmp_path), labels=["no", "yes", "Yes", "maybe"])).notes
    for said in ("1 of 63 rows of train.jsonl have an empty text", "label maybe", "Yes, yes", "5 of 5 rows of test"):
        assert any(said in note for note in notes), said


def test_local_copies_may_have_plain_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "sst2" / "train.jsonl", ROWS)
    monkeypatch.setenv("TRANSFER_DATA", str(tmp_path))
    data = config.Data(
        path="stanfordnlp/sst2", local="sst2", columns=config.Columns(text="sentence", label="sentiment")
    )
    assert len(read(data).train) == 42
    named = [problem.key for problem in problems(replace(data, path=str(tmp_path / "sst2")))]
    assert named == ["target.data.columns.label", "target.data.columns.text"]


# the lines of a csv -> (changes to Data, problem type, key, what the message says)
WRONG: dict[str, tuple[str, dict[str, Any], str, str, str]] = {
    "empty": ("", {}, "single_label", "path", "no rows"),
    "header only": ("text,label\n", {}, "single_label", "path", "no rows"),
    "short row": ("text,label\na,x\nb\nc,y\n", {}, "single_label", "path", "line 3 has 1 fields"),
    "long row": ("text,label\na,x\nb,y,z\n", {}, "single_label", "path", "line 3 has 3 fields"),
    "open quote": ('text,label\na,x\n"b,y\nc,z\n', {}, "single_label", "path", "unexpected end of data"),
    "column twice": ("text,text\na,x\n", {}, "single_label", "path", "text twice"),
    "columns": ("texts,lable\na,x\n", {}, "single_label", "columns.label", "Did you mean lable?"),
    "columns, case": ("Text,label\na,x\n", {}, "single_label", "columns.text", "Did you mean Text?"),
    "one class": ("text,label\na,x\nb,x\nc,x\nd,x\n", {}, "single_label", "columns.label", "only x in"),
    "no label": ("text,label\na,\nb,\nc,\nd,\n", {}, "single_label", "columns.label", "no label in my.csv"),
    "labels": ("text,label\na,x\nb,y\nc,x\nd,y\n", {"labels": ["x", "z"]}, "single_label", "labels", "without y"),
    "label_map": ("text,label\na,x\nb,y\n", {"label_map": {"X": "z"}}, "single_label", "label_map", "x, y"),
    "separator": ("text,label\na,x|y\nb,y\n", {}, "multi_label", "label_separator", "'x|y'"),
    "text label": (
        "text,label\na,1\nb,two\nc,\nd,nan\n",
        {},
        "regression",
        "columns.label",
        "3 of 4 are not (rows 2, 3, 4",
    ),
    "infinite": ("text,label\na,1\nb,inf\n", {}, "regression", "columns.label", "row 2"),
    "constant": ("text,label\na,1\nb,1\nc,1\nd,1\n", {}, "regression", "columns.label", "1.0 in every row"),
    "classes": ("text,label\na,1\nb,2\n", {"labels": ["1"]}, "regression", "labels", "a regression has no classes"),
    "fraction": ("text,label\na,x\nb,y\n", {"test_fraction": 1.0}, "single_label", "test_fraction", "below 1"),
    "cap": ("text,label\na,x\nb,y\nc,x\nd,y\n", {"test_size": 0}, "single_label", "test_size", "1 and more"),
    "few": ("text,label\na,x\nb,y\n", {}, "single_label", "test_fraction", "2 rows"),
    "no text": ("a,label\nb,x\n", {"columns": config.Columns(text=None)}, "single_label", "columns.text", "features"),
    "features": (
        "text,label\n1,1\nx,2\n,3\n",
        {"columns": config.Columns(features=["text"])},
        "regression",
        "columns.features",
        "2 of 3 are not (rows 2, 3 of my.csv, such as 'x')",
    ),
    "ids": ("text,label\na,x\na,y\n", {"columns": config.Columns(id="text")}, "single_label", "columns.id", "a"),
    "no ids": ("text,label\na,x\n,y\n", {"columns": config.Columns(id="text")}, "single_label", "columns.id", "row 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(tmp_path: Path, case: str) -> None:
    content, changes, problem_type, field, said = WRONG[case]
    (tmp_path / "my.csv").write_text(content)
    found = problems(replace(config.Data(path=str(tmp_path / "my.csv")), **changes), problem_type)
    assert found[0].key == f"{KEY}.{field}"
    assert said in str(found[0])


CUT_GZIP = gzip.compress(b"text,label\n" + bytes(range(97, 123)) * 500, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("my.jsonl", b'{"text": "a", "label": "x"}\n\n{"text": \n', "line 3: "),
        ("my.jsonl", b'{"text": "a", "label": "x"}\n[1, 2]\n', "line 2 is no object"),
        ("my.json", b'[{"text": "a"},\n{"text" "b"}]', "line 2: "),
        ("my.json", b'{"text": ["a"]}', "not a list of objects"),
        ("my.json", b'[{"text": "a"}, 3]', "element 2"),
        ("my.csv", "text,label\na,x\nb,é\n".encode("latin-1"), "line 3 is not UTF-8 (byte 0xe9)"),
        ("my.parquet", b"text,label\n", "a parquet file"),
        ("my.csv.gz", b"text,label\na,x\n", "not a whole gzip file"),
        ("my.csv.gz", CUT_GZIP, "not a whole gzip file"),
    ],
)
def test_unreadable(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    (problem,) = problems(config.Data(files=config.Files(train=str(tmp_path / name))))
    assert problem.key == "target.data.files.train"
    assert said in str(problem)
    assert name in str(problem)


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\na\n")
    assert len(problems(config.Data(path=str(tmp_path)))) == 2
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("a,b\n1,2\n")
    found = problems(config.Data(path=str(tmp_path), columns=config.Columns(id="key", group="patient")))
    assert [problem.key.rpartition(".")[2] for problem in found] == ["label", "id", "group", "text"]
    assert all("train.csv or test.csv" in str(problem.received) for problem in found[:2])


@pytest.mark.parametrize(("value", "said"), [(None, "2 without a value"), (3, "2 of type int")])
def test_texts_that_are_none(tmp_path: Path, value: object, said: str) -> None:
    path = jsonl(tmp_path / "my.jsonl", [*ROWS, {"text": value, "label": "yes"}, {"text": value, "label": "no"}])
    (problem,) = problems(config.Data(path=path))
    assert problem.key == "target.data.columns.text"
    assert said in str(problem)
    assert "rows 61, 62" in str(problem)


def test_lists_where_one_label_is_wanted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "my.jsonl", [{"text": "a", "label": ["x"]}, {"text": "b", "label": ["y"]}])
    (problem,) = problems(config.Data(path=path))
    assert problem.key == "target.data.columns.label"
    assert "multi_label" in problem.action


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_label_that_train_lacks(tmp_path: Path, split: str, multi_label: bool) -> None:
    def wrap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "label": [row["label"]]} for row in rows] if multi_label else rows

    jsonl(tmp_path / "train.jsonl", wrap(ROWS))
    jsonl(tmp_path / f"{split}.jsonl", wrap([{"text": "a", "label": "yess"}] * 3 + [{"text": "b", "label": "yes"}]))
    (problem,) = problems(config.Data(path=str(tmp_path)), "multi_label" if multi_label else "single_label")
    assert problem.key == "target.data.columns.label"
    assert "yess (3 rows)" in str(problem.received)
    assert split in str(problem.received)
    assert "yes?" in problem.action


def test_a_long_field_of_a_csv(tmp_path: Path) -> None:
    lines = ["text,label"] + [f"{'long ' * 40000}{n},{n % 2}" for n in range(4)]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    assert len(read(config.Data(path=str(tmp_path / "my.csv"))).train) == 2


def test_a_hub_set_keeps_its_splits_and_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "tags": datasets.List(datasets.ClassLabel(names=["p", "q"])),
        }
    )

    def split(size: int, label: int | None = None) -> datasets.Dataset:
        content = {
            "sentence": [f"{label} {size} {n}" for n in range(size)],
            "label": [n % 2 if label is None else label for n in range(size)],
            "tags": [[n % 2] for n in range(size)],
        }
        return datasets.Dataset.from_dict(content, features=features)

    hub = datasets.DatasetDict({"train": split(20), "dev": split(6), "test": split(5, label=-1)})
    tables = sources._from_hub(hub, Location(hub="owner/name"), key=KEY)
    assert {name: len(table["label"]) for name, table in tables.items()} == {"train": 20, "validation": 6, "test": 5}
    assert tables["train"]["label"][:2] == ["bad", "good"]
    assert tables["train"]["tags"][:2] == [["p"], ["q"]]
    assert tables["test"]["label"] == [None] * 5
    # the one thing put in place of a real one: the download
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub)
    splits = read(config.Data(path="owner/name", columns=config.Columns(text="sentence")))
    assert len(splits.test) == 6
    assert splits.labels == ["bad", "good"]
    assert any("revision" in note for note in splits.notes)
    with pytest.raises(UserError, match=r"target\.data\.path"):
        sources._from_hub(
            datasets.DatasetDict({"dev": split(3), "test": split(3)}), Location(hub="owner/name"), key=KEY
        )
    alone = sources._from_hub(datasets.DatasetDict({"dev": split(3)}), Location(hub="owner/name"), key=KEY)
    assert [*alone] == ["train"], "one split is split like a single file"


@pytest.mark.parametrize("local", [None, "imdb"])
def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local: str | None) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    (problem,) = problems(config.Data(path="nobody/nothing", local=local))
    assert problem.key == "target.data.path"
    for said in ("nobody/nothing", "TRANSFER_DATA", f"$TRANSFER_DATA/{local or 'NAME'}", "train.csv", "embedded:"):
        assert said in str(problem)


def test_a_table_has_no_types_of_its_own() -> None:
    rows = parsing.READERS["jsonl"](io.BytesIO(b'{"a": 1}\n{"b": "x\xe2\x80\xa8y"}\n'))
    assert formats.table(list(rows)) == {"a": [1, None], "b": [None, "x\u2028y"]}
