from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from transfer import config
from transfer.data.files import fingerprint, locate
from transfer.errors import Problem, UserError

KEY = "target.data"


@pytest.fixture(autouse=True)
def _no_transfer_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFER_DATA", raising=False)


def write(path: Path, content: str = "text,label\na,x\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


def problems(data: config.Data) -> list[Problem]:
    with pytest.raises(UserError) as caught:
        locate(data, key=KEY)
    return caught.value.problems


@pytest.mark.parametrize("name", ["my.csv", "my.tsv.gz", "my.JSONL", "my.json", "my.parquet"])
def test_a_file_is_the_training_split(tmp_path: Path, name: str) -> None:
    location = locate(config.Data(path=write(tmp_path / name)), key=KEY)
    assert location.files == {"train": tmp_path / name}
    assert location.formats == {"train": name.lower().split(".")[1]}


def test_relative_paths_start_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my.csv")
    monkeypatch.chdir(tmp_path)
    assert locate(config.Data(path="my.csv"), key=KEY).files["train"].resolve() == tmp_path / "my.csv"


@pytest.mark.parametrize("validation", ["validation", "valid", "dev"])
@pytest.mark.parametrize("test", ["test", "t10k"])
def test_a_folder(tmp_path: Path, validation: str, test: str) -> None:
    for name in ("train", validation, test, "README"):
        write(tmp_path / f"{name}.csv")
    write(tmp_path / "train.rst")
    location = locate(config.Data(path=str(tmp_path)), key=KEY)
    names = {split: path.name for split, path in location.files.items()}
    assert names == {"train": "train.csv", "validation": f"{validation}.csv", "test": f"{test}.csv"}


def test_named_files(tmp_path: Path) -> None:
    files = config.Files(train=write(tmp_path / "a.csv"), test=write(tmp_path / "b.csv"))
    assert sorted(locate(config.Data(files=files), key=KEY).files) == ["test", "train"]


def test_the_format_overrides_the_extension(tmp_path: Path) -> None:
    data = config.Data(path=write(tmp_path / "my.data"), format="csv")
    assert locate(data, key=KEY).formats == {"train": "csv"}


@pytest.mark.parametrize("path", ["imdb", "stanfordnlp/imdb"])
def test_a_hub_id(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(config.Data(path=path), key=KEY).hub == path
    write(tmp_path / path / "train.csv")
    assert locate(config.Data(path=path), key=KEY).hub is None


@pytest.mark.parametrize("path", ["stanfordnlp/imdb", None])
def test_the_local_copy_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    write(tmp_path / "root" / "imdb" / "train.csv")
    monkeypatch.setenv("TRANSFER_DATA", str(tmp_path / "root"))
    location = locate(config.Data(path=path, local="imdb"), key=KEY)
    assert location.files["train"] == tmp_path / "root" / "imdb" / "train.csv"
    assert location.local
    # a file of the user's own is never replaced
    own = config.Data(path=write(tmp_path / "my.csv"), local="imdb")
    assert locate(own, key=KEY).files["train"] == tmp_path / "my.csv"


def test_embedded() -> None:
    assert locate(config.Data(path="embedded:movies"), key=KEY).files["train"].name == "movies.jsonl.gz"


# what is wrong -> (the key, what the message must say); {} is the folder of the test
WRONG = {
    "nothing": (config.Data(), "path", "target.data.path=my.csv"),
    "embedded": (config.Data(path="embedded:movie"), "path", "Did you mean embedded:movies?"),
    "embedded, far": (config.Data(path="embedded:zzz"), "path", "embedded:editorials"),
    "missing": (config.Data(path="{}/trian.csv"), "path", "Did you mean train.csv?"),
    "missing, far": (config.Data(path="{}/zzz.csv"), "path", "train.csv"),
    "missing folder": (config.Data(path="{}/no/my.csv"), "path", "does not exist"),
    "missing, no extension": (config.Data(path="{}/trian"), "path", "Did you mean train.csv?"),
    "extension": (config.Data(path="{}/notes.rst"), "path", "unknown extension"),
    "format": (config.Data(path="{}/train.csv", format="jsonlines"), "format", "Did you mean jsonl?"),
    "format, far": (config.Data(path="{}/train.csv", format="excel"), "format", "csv, tsv, jsonl, json, parquet"),
    "both": (config.Data(path="x", files=config.Files(train="y")), "files", "one of the two"),
    "no train": (config.Data(files=config.Files(test="{}/train.csv")), "files.train", "null"),
    "folder as file": (config.Data(files=config.Files(train="{}/empty")), "files.train", "a folder"),
    "file": (config.Data(files=config.Files(train="{}/train.csv", test="{}/tset.csv")), "files.test", "no such file"),
    "empty folder": (config.Data(path="{}/empty"), "path", "no files"),
    "no train in folder": (config.Data(path="{}/other"), "path", "all.csv"),
    "two in folder": (config.Data(path="{}/two"), "path", "train.csv, train.jsonl"),
    "local": (config.Data(local="ohsumed"), "local", "TRANSFER_DATA is not set"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str, tmp_path: Path) -> None:
    for name in ("train.csv", "notes.rst", "other/all.csv", "two/train.csv", "two/train.jsonl"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    data, field, said = WRONG[case]
    if data.path:
        data = replace(data, path=data.path.format(tmp_path))
    names = {split: name.format(tmp_path) for split, name in vars(data.files).items() if name}
    (problem,) = problems(replace(data, files=config.Files(**names)))
    assert problem.key == f"{KEY}.{field}"
    assert said in str(problem)
    assert all([problem.received, problem.allowed, problem.action])


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    files = config.Files(train=str(tmp_path / "a.csv"), validation=str(tmp_path / "b.csv"))
    assert [problem.key for problem in problems(config.Data(files=files))] == [
        "target.data.files.train",
        "target.data.files.validation",
    ]


def test_a_missing_local_copy_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFER_DATA", str(tmp_path))
    (problem,) = problems(config.Data(local="ohsumed"))
    assert str(tmp_path) in str(problem.received)


def test_fingerprint_is_of_the_content_not_the_path(tmp_path: Path) -> None:
    first = config.Data(path=write(tmp_path / "a.csv"), name="a")
    second = config.Data(path=write(tmp_path / "b.csv"), name="b", train_size=5)
    folder = config.Data(path=str(Path(write(tmp_path / "folder" / "train.csv")).parent))
    files = config.Data(files=config.Files(train=str(tmp_path / "a.csv")))
    assert len({fingerprint(data, key=KEY) for data in (first, second, folder, files)}) == 1
    write(tmp_path / "b.csv", "text,label\na,y\n")
    assert fingerprint(first, key=KEY) != fingerprint(second, key=KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": config.Columns(label="other")},
        {"columns": config.Columns(group="other")},
        {"labels": ["x", "y"]},
        {"label_map": {"x": "y"}},
        {"label_separator": "|"},
        {"validation_fraction": 0.3},
        {"test_fraction": 0.3},
        {"validation_size": 3},
        {"test_size": 3},
    ],
)
@pytest.mark.parametrize("path", ["embedded:movies", "stanfordnlp/imdb"])
def test_fingerprint_depends_on_what_shapes_the_rows(change: dict, path: str) -> None:
    data = config.Data(path=path)
    assert fingerprint(data, key=KEY) != fingerprint(replace(data, **change), key=KEY)


def test_fingerprint_of_a_hub_set() -> None:
    data = config.Data(path="stanfordnlp/imdb")
    others = [replace(data, path="x/imdb"), replace(data, revision="abc"), replace(data, config_name="plain_text")]
    assert len({fingerprint(each, key=KEY) for each in [data, *others]}) == 4
    assert fingerprint(data, key=KEY) == fingerprint(replace(data, local="imdb"), key=KEY)


def test_fingerprint_tells_the_splits_apart(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.csv"), write(tmp_path / "b.csv", "text,label\nb,y\n")
    straight = config.Data(files=config.Files(train=one, test=two))
    crossed = config.Data(files=config.Files(train=two, test=one))
    validation = config.Data(files=config.Files(train=one, validation=two))
    assert len({fingerprint(data, key=KEY) for data in (straight, crossed, validation)}) == 3


def test_fingerprint_imports_nothing_heavy() -> None:
    script = (
        "import json, sys; from transfer import config; from transfer.data.files import fingerprint;"
        "fingerprint(config.Data(path='embedded:movies'), key='x'); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "datasets", "pandas", "pyarrow", "numpy", "transformers", "hydra"}


def test_fingerprint_of_a_gzip_file_is_of_its_bytes(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"text,label\na,x\n", mtime=0))
    first, second = (config.Data(path=str(tmp_path / name)) for name in ("a.csv.gz", "b.csv.gz"))
    assert fingerprint(first, key=KEY) == fingerprint(second, key=KEY)
