import time

import numpy as np
import pytest
from scipy.stats import norm

from transfer import floors
from transfer.floors import classification_floors, regression_floors

NAMES = ["bad", "good", "odd"]
GOOD, BAD = ["fine lovely great", "warm great fun"], ["dull awful slow", "cold awful mess"]
ODD = ["strange weird thing"]


def texts_and_labels(num_each: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    texts, labels = [], []
    for name, stock in (("bad", BAD), ("good", GOOD), ("odd", ODD)):
        for _ in range(num_each):
            filler = " ".join(f"w{k}" for k in rng.integers(0, 50, 6))
            texts.append(f"{filler} {stock[rng.integers(len(stock))]}")
            labels.append(name)
    return texts, labels


@pytest.mark.parametrize("num_each", [3, 30], ids=["default C", "chosen C"])
@pytest.mark.parametrize("as_places", [False, True])
def test_words_beat_the_majority(num_each, as_places):
    texts, labels = texts_and_labels(num_each)
    texts, labels = [*texts, "lovely fine"], [*labels, "good"]
    given = [NAMES.index(label) for label in labels] if as_places else labels
    test = ["it was great lovely fun", "awful dull", "a weird strange one"]
    found = classification_floors(texts, given, test, NAMES)
    assert list(found) == ["majority", "tfidf"]
    assert found["majority"].predictions == ["good"] * 3
    assert found["majority"].scores == pytest.approx([(num_each + 1) / len(labels)] * 3)
    assert found["tfidf"].predictions == ["good", "bad", "odd"]
    assert all(1 / 3 < score <= 1 for score in found["tfidf"].scores)
    assert classification_floors(texts, given, test, NAMES) == found


def test_equal_counts_take_the_first_label():
    found = classification_floors(["a", "b"], ["good", "bad"], ["a"], NAMES)
    assert found["majority"].predictions == ["bad"]


def test_chinese_is_read_by_characters():
    train = ["这家酒店很好", "服务很好非常满意", "房间太差了", "态度差不推荐"] * 8
    labels = ["good", "good", "bad", "bad"] * 8
    found = classification_floors(train, labels, ["早餐好", "卫生差"], NAMES)
    assert found["tfidf"].predictions == ["good", "bad"]


def test_a_pair_is_judged_by_what_its_texts_share():
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(200)]
    pairs, labels = [], []
    for k in range(200):
        left = rng.choice(words, 6, replace=False)
        right = left if k % 2 else rng.choice(words, 6, replace=False)
        pairs.append((" ".join(left), " ".join(rng.permutation(right))))
        labels.append(NAMES[k % 2])
    found = classification_floors(pairs[:150], labels[:150], pairs[150:], NAMES[:2])
    right_ones = [a == b for a, b in zip(found["tfidf"].predictions, labels[150:], strict=True)]
    assert np.mean(right_ones) > 0.9


def test_features_of_any_unit():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    features = z * [1e-6, 1e6] + [0, 1e7]
    labels = [NAMES[int(row[0] > row[1])] for row in z]
    found = classification_floors(features[:200], labels[:200], features[200:], NAMES[:2])
    assert list(found) == ["majority", "linear"]
    assert np.mean([a == b for a, b in zip(found["linear"].predictions, labels[200:], strict=True)]) > 0.9

    target = 3 * z[:, 0] - z[:, 1] + 7
    regressed = regression_floors(features[:200], target[:200].tolist(), features[200:])
    assert list(regressed) == ["mean", "linear"]
    np.testing.assert_allclose(regressed["mean"].predictions, target[:200].mean())
    np.testing.assert_allclose(regressed["linear"].predictions, target[200:], atol=0.01)
    assert regressed["linear"].scores is None


def test_regression_on_words():
    texts, labels = texts_and_labels(20)
    numbers = [{"bad": -2.0, "good": 2.0, "odd": 0.0}[label] for label in labels]
    found = regression_floors(texts, numbers, ["great lovely", "awful dull"])
    assert found["mean"].predictions == pytest.approx([0.0, 0.0], abs=1e-9)
    high, low = found["tfidf"].predictions
    assert high > 1 > -1 > low


@pytest.mark.parametrize("num_each", [2, 30], ids=["default C", "chosen C"])
def test_several_labels(num_each):
    texts = ["great fun", "awful mess", "great awful", "great fun"] * num_each
    labels = [["good"], ["bad"], ["bad", "good"], ["good"]] * num_each
    found = classification_floors(texts, labels, ["fun", "mess", "great awful"], NAMES, multi_label=True)
    assert found["majority"].predictions == [["good"]] * 3
    assert found["majority"].scores == [0.5] * 3
    assert found["tfidf"].predictions == [["good"], ["bad"], ["bad", "good"]]
    assert all(0.125 < score <= 1 for score in found["tfidf"].scores)


@pytest.mark.parametrize(
    ("train", "labels"),
    [
        pytest.param(["a b"], ["odd"], id="one example"),
        pytest.param(["a b", "c d"], ["odd", "odd"], id="one class"),
        pytest.param(["", "", " "], ["odd", "odd", "bad"], id="no words"),
        pytest.param([("", ""), ("", "")], ["odd", "odd"], id="empty pairs"),
    ],
)
def test_where_nothing_can_be_learned_both_floors_agree(train, labels):
    test = [train[0]] * 2
    found = classification_floors(train, labels, test, NAMES)
    assert found["tfidf"] == found["majority"]
    assert found["tfidf"].predictions == ["odd", "odd"]
    sets = classification_floors(train, [[] for _ in labels], test, NAMES, multi_label=True)
    assert sets["tfidf"].predictions == [[], []]


@pytest.mark.parametrize("train", [["a"], [""], ["a", "b"]])
def test_regression_on_almost_nothing(train):
    found = regression_floors(train, [1.0, 3.0][: len(train)], ["a", "zzz"])
    assert np.isfinite(found["tfidf"].predictions).all()
    assert len(found["tfidf"].predictions) == 2


def test_a_class_with_one_example_and_a_test_without_words():
    texts, labels = texts_and_labels(10)
    found = classification_floors(texts[:21], labels[:21], ["", "strange weird thing"], NAMES)
    assert found["tfidf"].predictions[1] == "odd"
    assert found["tfidf"].predictions[0] in NAMES


@pytest.mark.parametrize("inputs", [["a", "b"], np.ones((2, 3))])
def test_no_test_example_gives_no_prediction(inputs):
    for floor in classification_floors(inputs, ["good", "bad"], inputs[:0], NAMES).values():
        assert floor.predictions == []
        assert floor.scores == []


def test_regularisation_is_not_chosen_on_many_examples(monkeypatch):
    texts, labels = texts_and_labels(20)
    chosen = classification_floors(texts, labels, texts, NAMES)["tfidf"].scores
    monkeypatch.setattr(floors, "MAX_CHOSEN", 10)
    fixed = classification_floors(texts, labels, texts, NAMES)["tfidf"].scores
    assert chosen != fixed


def test_five_hundred_texts_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    weights = norm.pdf(np.linspace(0, 4, 5000))
    words = np.array([f"w{k}" for k in range(5000)])
    texts = [" ".join(rng.choice(words, 30, p=weights / weights.sum())) for _ in range(500)]
    labels = [NAMES[k % 3] for k in range(500)]
    classification_floors(["a", "b"], ["good", "bad"], ["a"], NAMES)  # the imports are not counted
    start = time.process_time()
    classification_floors(texts, labels, texts, NAMES)
    assert time.process_time() - start < 2
