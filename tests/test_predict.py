"""A run's answers to rows of any file, in their order and in chunks; and its model as a folder that others open."""

import csv
import gzip
import io
import json
import sys

import pandas as pd
import pytest

from tests.running import BAD, GOOD, LSTM, QUICK, TINY_BERT, cli, record_of, reviews, write_csv
from transfer import predict

ROWS = [{"review": f"{word} film, it was {word}\nand long", "stars": i} for i, word in enumerate(GOOD + BAD)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def trained(outputs):
    """A tiny model that tells good from bad words."""
    data = reviews(outputs / "target.csv", num=80)
    arguments = [
        *QUICK,
        *TINY_BERT,
        "stage=scratch",
        "data@target.data=csv",
        f"target.data.path={data}",
        "scratch.lr=5e-3",
    ]
    outcome = cli("run", *arguments, "scratch.max_epochs=6", f"output_dir={outputs / 'runs'}")
    assert outcome.code == 0, outcome.err
    return record_of(outcome.out)


def written(path, rows=ROWS):
    if path.name.startswith("rows.parquet"):
        pd.DataFrame(rows).to_parquet(path)
    elif ".jsonl" in path.name:
        content = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    else:
        write_csv(path, rows)
    return path


def read(path):
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_dict("records")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("rows.csv", "o.jsonl"), ("rows.jsonl", "o.csv"), ("rows.jsonl.gz", "o.parquet"), ("rows.parquet", "o.tsv")],
)
def test_every_row_comes_back_in_its_place_with_its_answer(trained, tmp_path, given, wanted, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 3)
    arguments = ["--input", written(tmp_path / given), "--output", tmp_path / wanted, "--column", "text=review"]
    outcome = cli("predict", trained["_folder"], *arguments)
    assert outcome.code == 0, outcome.err
    found = read(tmp_path / wanted)
    assert [row["review"] for row in found] == [row["review"] for row in ROWS]
    assert [int(row["stars"]) for row in found] == list(range(len(ROWS)))
    right = [row["prediction"] == ("pos" if i < len(GOOD) else "neg") for i, row in enumerate(found)]
    assert sum(right) >= 8
    assert all(0.5 <= float(row["score"]) <= 1 for row in found)


def test_the_answers_are_those_of_the_test(trained, tmp_path):
    tested = pd.read_parquet(f"{trained['_folder']}/predictions.parquet")
    written(tmp_path / "rows.jsonl", tested[["text"]].to_dict("records"))
    arguments = ["--input", tmp_path / "rows.jsonl", "--output", tmp_path / "o.parquet"]
    assert cli("predict", trained["run_id"], "--output-dir", trained["config"]["output_dir"], *arguments).code == 0
    found = pd.read_parquet(tmp_path / "o.parquet")
    assert found["prediction"].tolist() == tested["prediction"].tolist()
    assert found["score"].tolist() == pytest.approx(tested["score"].tolist(), abs=1e-4)


@pytest.mark.parametrize("lines", ["a superb film\nan awful film\n", '{"text": "superb"}\n{"text": "awful", "n": 1}\n'])
def test_a_pipe_goes_through(trained, monkeypatch, lines):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    outcome = cli("predict", trained["_folder"])
    assert outcome.code == 0, outcome.err
    assert [json.loads(line)["prediction"] for line in outcome.out.splitlines()] == ["pos", "neg"]


MISTAKES = {
    "--input nothing.csv": ("--input", "a file"),
    "--input rows.csv --output o.xlsx": ("--output", ".parquet"),
    "--input rows.csv --output no/o.csv": ("--output", "folder that exists"),
    "--input rows.csv --output o.csv": ("--input.columns.text", "review"),
    "--input rows.csv --output o.csv --column words=review": ("--column", "text"),
    "--input rows.csv --output o.csv --column review": ("--column", "FIELD=NAME"),
    "--input broken.csv --output o.csv": ("--input", "the header has 2"),
    "--input broken.jsonl --output o.csv": ("--input", "line 2"),
    "--input answered.csv --output o.csv": ("--input", "prediction"),
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_said(trained, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "rows.csv")
    (tmp_path / "broken.csv").write_text("text,n\ngood,1\ngood\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "good"}\n{"text"\n')
    write_csv(tmp_path / "answered.csv", [{"text": "good", "prediction": "pos"}])
    outcome = cli("predict", trained["_folder"], *arguments.split())
    key, words = MISTAKES[arguments]
    assert outcome.code == 2, outcome.err
    assert f"\n{key}\n" in outcome.err
    assert words in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("reference", ["nothing-here", "."])
def test_what_is_no_run_cannot_answer(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    assert cli("predict", reference).code == 2


def test_an_export_opens_in_a_pipeline_and_tells_what_it_is(trained, tmp_path):
    from transformers import pipeline

    outcome = cli("export", trained["_folder"], tmp_path / "exported")
    assert outcome.code == 0, outcome.err
    assert "says what the run said of 16 test texts" in outcome.out
    opened = pipeline("text-classification", model=str(tmp_path / "exported"), device="cpu")
    assert [answer["label"] for answer in opened(["superb", "awful"])] == ["pos", "neg"]
    card = (tmp_path / "exported" / "README.md").read_text()
    assert f"| accuracy | {trained['metrics']['test/accuracy']:.4f} |" in card
    assert "transfer run " in card
    again = cli("predict", tmp_path / "exported", "--input", written(tmp_path / "rows.csv"), "--column", "text=review")
    assert len(again.out.splitlines()) == len(ROWS)


def test_an_export_does_not_write_over_other_things(trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    outcome = cli("export", trained["_folder"], tmp_path)
    assert outcome.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture
def exported(tmp_path):
    """Overrides -> what `transfer export --onnx` says of a model trained with them."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")

    def run(family):
        data = reviews(tmp_path / "target.csv", num=40)
        arguments = [*QUICK, *family, "stage=scratch", "data@target.data=csv", f"target.data.path={data}"]
        record = record_of(cli("run", *arguments, "scratch.max_epochs=1", f"output_dir={tmp_path / 'runs'}").out)
        return cli("export", record["_folder"], tmp_path / "exported", "--onnx")

    return run


def test_onnx_agrees_with_torch(exported):
    outcome = exported(TINY_BERT)
    assert outcome.code == 0, outcome.err
    assert "model.onnx differs from torch by at most" in outcome.out


def test_what_has_no_graph_is_said_and_leaves_none(exported, tmp_path):
    """Packed sequences have a length that only the data know."""
    outcome = exported(LSTM)
    assert outcome.code == 2
    assert "a model that torch.onnx can export" in outcome.err
    assert not (tmp_path / "exported" / "model.onnx").exists()
