import pytest

from transfer.data import tagging

SENTENCES = {
    # John Smith, Ann Lee met in New York
    "IOB2 stays": ("B-PER I-PER O B-PER I-PER O O B-LOC I-LOC", "B-PER I-PER O B-PER I-PER O O B-LOC I-LOC"),
    "IOB1: B- only between two of a type": ("I-PER B-PER I-PER O I-LOC", "B-PER B-PER I-PER O B-LOC"),
    "IOB1: another type needs no B-": ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
    "I- alone": ("I-MISC O O I-MISC I-MISC O", "B-MISC O O B-MISC I-MISC O"),
    "IOBES": ("S-PER O B-LOC I-LOC E-LOC S-LOC", "B-PER O B-LOC I-LOC I-LOC B-LOC"),
    "BILOU": ("U-PER U-PER O B-LOC I-LOC L-LOC B-LOC L-LOC", "B-PER B-PER O B-LOC I-LOC I-LOC B-LOC I-LOC"),
    "BMES": ("B-LOC M-LOC E-LOC O S-PER", "B-LOC I-LOC I-LOC O B-PER"),
    "after E- another one begins": ("B-LOC E-LOC I-LOC", "B-LOC I-LOC B-LOC"),
    "an entity that begins with its end": ("O E-PER O", "O B-PER O"),
    "two that touch": ("B-PER B-PER", "B-PER B-PER"),
    "B- goes on with another type": ("B-PER I-LOC", "B-PER B-LOC"),
    "a type with a hyphen": ("B-creative-work I-creative-work", "B-creative-work I-creative-work"),
    "another separator": ("B_PER I_PER", "B-PER I-PER"),
    "nothing": ("O O", "O O"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_every_scheme_becomes_iob2(case):
    given, expected = (text.split() for text in SENTENCES[case])
    assert tagging.iob2(given) == expected
    assert tagging.iob2(expected) == expected, "what is IOB2 stays as it is"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O B-LOC", {("PER", 1, 3), ("LOC", 4, 5)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        ("I-PER I-PER O I-LOC I-PER", {("PER", 0, 2), ("LOC", 3, 4), ("PER", 4, 5)}),
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
        ("O O", set()),
    ],
)
def test_the_entities_of_a_sentence(tags, expected):
    assert tagging.entities(tags.split()) == expected


def test_a_word_without_a_tag_ends_an_entity():
    assert tagging.entities(["B-PER", "", "I-PER"]) == {("PER", 0, 1), ("PER", 2, 3)}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"O", "B-PER", "I-PER"}, True),
        ({"I-PER"}, True),
        ({"O", "S-LOC", "E-LOC", "B-LOC"}, True),
        ({"O"}, False),
        ({"NOUN", "VERB", "O"}, False),
        ({"B-PER", "NOUN"}, False),
        ({"B-", "O"}, False),
        (set(), False),
    ],
)
def test_plain_classes_are_no_scheme(tags, expected):
    assert tagging.is_scheme(tags) is expected
