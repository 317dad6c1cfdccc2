import json
import random
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset

from tests.running import BAD, GOOD, LSTM, cli, reviews, run
from transfer import memory, tasks
from transfer.config import Columns, Data, Task
from transfer.data.sources import load
from transfer.errors import UserError

CHOICES = ["first", "second", "third"]


def made(labels=CHOICES, **settings):
    return tasks.make(Task(name="multiple_choice", **settings), labels, key="target.task")


def rows_of(*rows):
    """(text, answers, column of the right one) of each row."""
    texts, choices, labels = zip(*rows, strict=True)
    return Dataset.from_dict({"text": list(texts), "choices": list(choices), "label": list(labels)})


ROWS = rows_of(("w1 w2", ["w3", "w4 w5 w6", "w7"], "second"), ("w8", ["w9", "w1", "w2 w3"], "first"))


@pytest.mark.parametrize("side", ["right", "left"])
def test_every_answer_is_read_with_the_question(tokenizer, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    encoded = Dataset.from_dict(made().encode({**ROWS[:], "row": [0, 1]}, tokenizer, 16))
    assert encoded["length"][:] == [2 + 1 + 3, 1 + 1 + 2]
    assert encoded["label"][:] == [1, 0]
    batch = made().collate([{**row, "index": i} for i, row in enumerate(encoded)], tokenizer)
    ids = batch["inputs"]["input_ids"]
    assert ids.shape == (2, 3, 6)
    assert tokenizer.decode(ids[0, 1], skip_special_tokens=True) == "w1 w2 w4 w5 w6"
    assert tokenizer.decode(ids[1, 2], skip_special_tokens=True) == "w8 w2 w3"
    assert batch["inputs"]["attention_mask"].sum(dim=-1).tolist() == [[4, 6, 4], [3, 3, 4]]


def test_a_second_text_goes_before_the_answer(tokenizer):
    columns = {**ROWS[:], "text_pair": ["w10", "w11"], "row": [0, 1]}
    encoded = made().encode(columns, tokenizer, 16)
    assert tokenizer.decode(encoded["input_ids"][1][2]) == "w8 [SEP] w11 w2 w3"


def test_the_right_answer_is_chosen():
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 3.0]])
    task = made()
    predicted = task.predict(task.answers(None, SimpleNamespace(logits=logits), {}), ROWS, ROWS)
    assert predicted.values == ["second", "third"]
    assert predicted.scores == pytest.approx(logits.softmax(-1).max(-1).values.tolist())
    assert task.score(predicted, ROWS, per_class=True) == {"accuracy": 0.5}
    batch = {"labels": torch.tensor([1, 0]), "logits": logits, "index": torch.arange(2), "share": torch.ones(2) / 2}
    whole = float(task.loss(SimpleNamespace(logits=logits), batch))
    assert whole == pytest.approx(float(-logits.log_softmax(-1)[[0, 1], [1, 0]].mean()))
    parts = [float(task.loss(SimpleNamespace(logits=part["logits"]), part)) / 2 for part in memory.parts(batch, 2)]
    assert sum(parts) == pytest.approx(whole)


@pytest.mark.parametrize("family", ["bert", "lstm"])
def test_the_head_of_another_choice_is_kept(tiny_model, family):
    task = made()
    model = tiny_model(family, 2, auto=task.auto_class)
    model.config.architectures = [type(model).__name__]
    assert task.same_head(model.config)
    model.config.architectures = ["BertForQuestionAnswering"]
    assert not task.same_head(model.config)


def written(path: Path, labels, choices=("x", "y", "z")) -> Data:
    """A file whose label column says in some way which of the answers is right."""
    rows = [{"q": f"question {i}", "c": "so", **dict(zip(CHOICES, choices, strict=True))} for i in range(len(labels))]
    rows = [row if label is None else {**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return Data(path=str(path), columns=Columns(text="q", text_pair="c", choices=CHOICES))


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2], ["0", "1", "2"], [0.0, 1.0, 2.0], ["A", "B", "C"], ["a", "b", "c"], CHOICES, ["x", "y", " z "]],
    ids=str,
)
def test_however_a_label_says_it(tmp_path, labels):
    splits = load(written(tmp_path / "all.jsonl", labels * 10), key="target.data", data_seed=0, problem_type="choice")
    assert splits.labels == CHOICES
    for part in (splits.train, splits.validation, splits.test):
        expected = [CHOICES[int(row["text"].split()[1]) % 3] for row in part]
        assert part["label"][:] == expected
        assert part["choices"][0] == ["x", "y", "z"]


def test_a_withheld_test_split_and_a_missing_label(tmp_path):
    files = {"train": [0, 1, None] * 10, "validation": [1, 2], "test": [-1, -1]}
    for name, labels in files.items():
        data = written(tmp_path / f"{name}.jsonl", labels)
    data.path = str(tmp_path)
    splits = load(data, key="target.data", data_seed=0, problem_type="choice")
    assert splits.test["label"][:] == ["second", "third"], "the validation split"
    assert len(splits.train) + len(splits.validation) == 20
    assert any("no labels" in note for note in splits.notes)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"labels": [1, 2, 3]}, "label", "0 to 2"),
        ({"labels": ["x", "y", "q"]}, "label", "such as 'q'"),
        ({"labels": ["x"], "choices": ("x", "x", "z")}, "label", "such as 'x'"),
        ({"columns": []}, "choices", "at least two"),
        ({"columns": ["first"]}, "choices", "at least two"),
    ],
)
def test_labels_that_cannot_be_read_are_said(tmp_path, change, key, words):
    data = written(tmp_path / "all.jsonl", change.get("labels", [0, 1]) * 10, change.get("choices", "xyz"))
    data.columns.choices = change.get("columns", CHOICES)
    with pytest.raises(UserError) as caught:
        load(data, key="target.data", data_seed=0, problem_type="choice")
    (problem,) = caught.value.problems
    assert problem.key == f"target.data.columns.{key}"
    assert words in str(problem)


def test_label_map_comes_first(tmp_path):
    data = written(tmp_path / "all.jsonl", [1, 2, 3] * 10)
    data.label_map = {"1": "first", "2": "second", "3": "third"}
    train = load(data, key="target.data", data_seed=0, problem_type="choice").train
    assert train["label"][:] == [CHOICES[int(text.split()[1]) % 3] for text in train["text"]]


def test_settings_that_do_not_fit_are_said():
    for settings in ({"monitor": "f1"}, {"class_weights": "balanced"}, {"options": {"stride": 1}}):
        with pytest.raises(UserError):
            made(**settings)


def test_floors_by_hand():
    """The commonest place, and what the words of question and answer have in common in right pairs."""
    train = rows_of(*((f"red {i}", ["red", "blue", "green"], "first") for i in range(6)))
    other = rows_of(*((f"blue {i}", ["red", "green", "blue"], "third") for i in range(5)))
    train = Dataset.from_dict({name: train[name][:] + other[name][:] for name in train.column_names})
    test = rows_of(("red 9", ["green", "blue", "red"], "third"), ("blue 9", ["blue", "red", "green"], "first"))
    assert made().floors(train, test) == {"majority": ["first", "first"], "tfidf": ["third", "first"]}


COLUMNS = ["target.data.columns.text=question", f"target.data.columns.choices=[{','.join(CHOICES)}]"]


def test_a_classifier_of_texts_starts_a_chooser(tmp_path):
    """A whole run, and answers to a file: the good word is right."""
    chance, rows = random.Random(0), []
    for number in range(90):
        place = number % 3
        choices = [chance.choice(GOOD if i == place else BAD) for i in range(3)]
        rows.append({"question": f"which of {number % 7}", **dict(zip(CHOICES, choices, strict=True)), "label": place})
    file = tmp_path / "choices.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    record = run(
        *[*LSTM, "data@source.data=csv", f"source.data.path={reviews(tmp_path / 'reviews.csv', num=40)}"],
        *["task@target.task=multiple_choice", *COLUMNS, f"target.data.path={file}", "floors=true"],
        *["optimizer.lr=0.02", "source.budget.max_epochs=1", "target.budget.max_epochs=5"],
        *["model.vocabulary.texts=target", "arm=transfer", f"output_dir={tmp_path / 'out'}"],
    )
    assert record["weights"]["fraction_loaded"] == 1.0
    assert record["metrics"]["test/accuracy"] > 0.9
    assert {"floor_majority/accuracy", "floor_tfidf/accuracy"} <= {*record["metrics"]}
    done = cli("predict", record["_folder"], "--input", file)
    assert done.code == 0, done.err
    said = [json.loads(line)["prediction"] for line in done.out.splitlines()]
    found = pd.read_parquet(Path(record["_folder"]) / "predictions.parquet")
    numbers = [int(number.rpartition("-")[2]) - 1 for number in found["id"]]
    assert [said[number] for number in numbers] == list(found["prediction"])
