from __future__ import annotations

import datasets
import pytest

from transfer.data.leakage import overlap


def rows(texts: list[str], pairs: list[str] | None = None) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": texts} | ({"text_pair": pairs} if pairs else {}))


TRAIN = rows(["A good  film", "Straße", "bad"])


@pytest.mark.parametrize(
    ("texts", "repeated"), [(["a GOOD film ", "new"], 1), (["STRASSE", "bad\n", "bad"], 3), (["goo d", "ba d"], 0)]
)
def test_case_and_white_space_do_not_count(texts: list[str], repeated: int) -> None:
    notes = overlap(TRAIN, {"target test": rows(texts)}, name="source train")
    assert len(notes) == (repeated > 0)
    if repeated:
        assert f"{repeated} of {len(texts)} rows of target test" in notes[0]
        assert notes[0].endswith("source train")


def test_one_note_for_each_data_set_with_repeated_rows() -> None:
    notes = overlap(TRAIN, {"validation": rows(["bad"]), "test": rows(["new"]), "third": rows(["new", "bad"])})
    assert [note.split(" of ")[2].split()[0] for note in notes] == ["validation", "third"]


def test_a_pair_is_repeated_only_as_a_whole() -> None:
    train = rows(["question", "question"], ["one", "two"])
    assert overlap(train, {"test": rows(["question"], ["three"])}) == []
    assert len(overlap(train, {"test": rows(["Question"], ["TWO"])})) == 1
    assert overlap(train, {"test": rows(["question"])}) == []


def test_numbers_are_not_compared() -> None:
    numbers = datasets.Dataset.from_dict({"features": [[1.0], [2.0]]})
    assert overlap(numbers, {"test": numbers}) == []
