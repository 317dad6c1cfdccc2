import copy
import logging

import numpy as np
import pytest
from datasets import Dataset

from transfer import tasks
from transfer.config import Task
from transfer.data.encoding import encode, max_length
from transfer.models.word_vectors import build_tokenizer

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w2 w2"]
LABELS = ["pos", "neg", "pos", "neg"]


@pytest.fixture
def task():
    return tasks.make(Task(), ["neg", "pos"], key="target.task")


@pytest.fixture
def rows():
    return Dataset.from_dict({"id": ["a", "b", "c", "d"], "text": TEXTS, "label": LABELS})


def files(cache):
    return sorted(path.name for path in (cache / "tokens").glob("*.arrow"))


class Counting:
    """A task that counts how often it is asked to tokenize; otherwise the one that it wraps."""

    def __new__(cls, task):
        made = copy.copy(task)
        made.calls = 0

        def counted(*args):
            made.calls += 1
            return task.encode(*args)

        made.encode = counted
        return made


def test_rows_become_inputs_with_their_length_and_label(task, rows, tokenizer):
    encoded = encode(rows, task, tokenizer, 16, None)
    assert set(encoded.column_names) == {"input_ids", "attention_mask", "length", "label", "row"}
    assert encoded["length"][:] == [3, 1, 6, 2]
    assert encoded["label"][:] == [1, 0, 1, 0]
    assert tokenizer.decode(encoded[2]["input_ids"]) == TEXTS[2]


def test_the_second_call_tokenizes_nothing(task, rows, tokenizer, cache):
    first = Counting(task)
    encoded = encode(rows, first, tokenizer, 16, None)
    assert first.calls == 1
    (name,) = files(cache)
    written = (cache / "tokens" / name).stat().st_mtime_ns
    again = Counting(task)
    assert encode(rows, again, tokenizer, 16, None)[:] == encoded[:]
    assert again.calls == 0
    assert files(cache) == [name]
    assert (cache / "tokens" / name).stat().st_mtime_ns == written


def test_a_tokenizer_that_has_been_used_is_still_the_same(task, rows, tokenizer, cache):
    """It keeps the truncation and padding of its last call in its state; a later run begins with a fresh one."""
    fresh = copy.deepcopy(tokenizer)
    encode(rows.select([0, 1]), task, tokenizer, 16, None)
    encode(rows.select([2, 3]), task, tokenizer, 16, None)
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=3)
    found = files(cache)
    for chosen in ([2, 3], [0, 1]):
        counting = Counting(task)
        encode(rows.select(chosen), counting, fresh, 16, None)
        encode(rows.select(chosen), counting, tokenizer, 16, None)
        assert counting.calls == 0
    assert files(cache) == found


def test_the_same_rows_from_elsewhere_are_found_again(task, rows, tokenizer, tmp_path):
    encode(rows, task, tokenizer, 16, None)
    rows.add_column("source", ["x"] * 4).to_parquet(tmp_path / "rows.parquet")
    elsewhere = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "datasets"))
    counting = Counting(task)
    encode(elsewhere.remove_columns(["id"]), counting, tokenizer, 16, None)
    assert counting.calls == 0


def other_vocabulary():
    return build_tokenizer(["w1 w2 w3 w4"], max_size=50, min_count=1, lowercase=True, max_length=32)


def truncating_left(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.truncation_side = "left"
    return other


CHANGES = {
    "length": lambda call: call | {"max_length": 2},
    "vocabulary": lambda call: call | {"tokenizer": other_vocabulary()},
    "truncation side": lambda call: call | {"tokenizer": truncating_left(call["tokenizer"])},
    "labels": lambda call: call | {"task": tasks.make(Task(), ["pos", "neg"], key="target.task")},
    "a text": lambda call: call | {"rows": Dataset.from_dict({"text": [*TEXTS[:3], "w2 w3"], "label": LABELS})},
    "a label": lambda call: call | {"rows": Dataset.from_dict({"text": TEXTS, "label": ["pos"] * 4})},
    "order": lambda call: call | {"rows": call["rows"].select([1, 0, 2, 3])},
    "fewer rows": lambda call: call | {"rows": call["rows"].select([0, 1, 2])},
    "pairs": lambda call: call | {"rows": call["rows"].add_column("text_pair", TEXTS)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_inputs_has_its_own_entry(task, rows, tokenizer, cache, change):
    call = {"rows": rows, "task": task, "tokenizer": tokenizer, "max_length": 16, "cache_dir": None}
    encode(**call)
    changed = CHANGES[change](call)
    cached = encode(**changed)[:]
    assert len(files(cache)) == 2
    assert cached == encode(**{**changed, "cache_dir": str(cache / "empty")})[:], "not what the other entry holds"


def test_texts_are_cut_and_said_to_be(task, rows, tokenizer, caplog):
    with caplog.at_level(logging.INFO, "transfer"):
        encoded = encode(rows, task, tokenizer, 3, None)
    assert encoded["length"][:] == [3, 1, 3, 2]
    assert tokenizer.decode(encoded[2]["input_ids"]) == "w5 w6 w7"
    assert "2 of 4 texts have 3 tokens or more" in caplog.text


def test_nothing_is_said_where_nothing_is_cut(task, rows, tokenizer, caplog):
    with caplog.at_level(logging.INFO, "transfer"):
        encode(rows, task, tokenizer, 16, None)
    assert "tokens or more" not in caplog.text


def test_pairs_stand_in_one_row_and_share_its_length(task, rows, tokenizer):
    pairs = rows.add_column("text_pair", ["w11 w12 w13 w14", "w11", "w11 w12", "w11"])
    encoded = encode(pairs, task, tokenizer, 6, None)
    assert encoded["length"][:] == [6, 3, 6, 4]
    words = tokenizer.convert_ids_to_tokens(encoded[1]["input_ids"])
    assert words == ["w4", "[SEP]", "w11"]
    cut = tokenizer.convert_ids_to_tokens(encoded[2]["input_ids"])
    assert cut == ["w5", "w6", "w7", "[SEP]", "w11", "w12"], "the longer of the two is cut"


def test_features_pass_unchanged_and_leave_no_file(task, cache):
    features = [[0.5, 1e6], [2.0, -3.25]]
    rows = Dataset.from_dict({"id": ["a", "b"], "features": features, "label": ["pos", "neg"]})
    encoded = encode(rows, task, None, 16, None)
    assert encoded["features"][:] == features
    assert (encoded["length"][:], encoded["label"][:]) == ([1, 1], [1, 0])
    assert not cache.exists()
    batch = task.collate([{**encoded[0], "index": 0}, {**encoded[1], "index": 1}], None)
    np.testing.assert_array_equal(batch["inputs"]["features"].numpy(), np.float32(features))


def test_a_batch_is_padded_to_its_longest_row(task, rows, tokenizer):
    encoded = encode(rows, task, tokenizer, 16, None)
    batch = task.collate([{**encoded[row], "index": row} for row in (3, 0)], tokenizer)
    assert batch["index"].tolist() == [3, 0]
    assert batch["inputs"]["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["inputs"]["input_ids"][0, 2] == tokenizer.pad_token_id
    assert set(batch["inputs"]) == {"input_ids", "attention_mask"}


def test_several_labels_a_row_and_numbers_are_encoded(tokenizer):
    several = tasks.make(Task(multi_label=True), ["a", "b", "c"], key="target.task")
    rows = Dataset.from_dict({"text": ["w1", "w2"], "label": [["c", "a"], []]})
    assert encode(rows, several, tokenizer, 16, None)["label"][:] == [[1, 0, 1], [0, 0, 0]]
    number = tasks.make(Task(name="regression", monitor="mse", mode="min"), [], key="target.task")
    rows = Dataset.from_dict({"text": ["w1", "w2"], "label": [1.5, -2.0]})
    assert encode(rows, number, tokenizer, 16, None)["label"][:] == [1.5, -2.0]


@pytest.mark.parametrize(
    ("wanted", "limit", "expected"), [(128, 512, 128), (512, 512, 512), (600, 512, 512), (9, None, 9)]
)
def test_the_model_limits_the_length(wanted, limit, expected, caplog):
    assert max_length(wanted, limit, key="target.task.max_length") == expected
    assert ("target.task.max_length=600 is more" in caplog.text) == (wanted == 600)
