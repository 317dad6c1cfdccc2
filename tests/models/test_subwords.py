import pytest
from transformers import AutoTokenizer

from transfer.errors import UserError
from transfer.models.subwords import build_tokenizer

TEXTS = [
    "Zwei junge Männer (links) sind im Freien.",
    'Ein T-Shirt, "rot": 10 Euro?',
    "我保證它不會再發生。",
    "an apple's",
]


def tokenizer_of(texts=TEXTS, **settings):
    defaults = {"max_size": 200, "min_count": 1, "lowercase": False, "max_length": 64}
    return build_tokenizer(texts * 3, **(defaults | settings))


@pytest.mark.parametrize("text", [*TEXTS, "Männer im T-Shirt (rot).", "它 T-Shirt 不。", "", "a"])
def test_a_text_can_be_written_again(text, tmp_path):
    tokenizer = tokenizer_of()
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert one.decode(one(text)["input_ids"], skip_special_tokens=True) == text


def test_spaces_are_made_one_and_case_may_go():
    tokenizer = tokenizer_of(lowercase=True)
    assert tokenizer.decode(tokenizer("  Zwei\u3000JUNGE\n ")["input_ids"]) == "zwei junge"


def test_chinese_and_punctuation_stand_alone():
    tokenizer = tokenizer_of()
    assert tokenizer.tokenize("我保證它.") == ["▁", "我", "保", "證", "它", "."]
    assert tokenizer.tokenize("Männer (links)") == ["▁Männer", "▁", "(", "links", ")"]


def test_a_size_and_special_tokens_are_kept_to():
    assert len(tokenizer_of(max_size=60)) <= 60
    tokenizer = tokenizer_of(special_tokens={"mask_token": "[MASK]"})
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3]
    assert tokenizer("an", "apple")["input_ids"].count(2) == 1, "pairs are separated"
    with pytest.raises(UserError, match="no character"):
        tokenizer_of([""])
