import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from transfer.study.weighted_metrics import METRICS, membership

CLASSIFICATION = {
    "accuracy": reference.accuracy_score,
    "precision_macro": lambda y, p: reference.precision_score(y, p, average="macro", zero_division=0),
    "recall_macro": lambda y, p: reference.recall_score(y, p, average="macro", zero_division=0),
    "f1_macro": lambda y, p: reference.f1_score(y, p, average="macro", zero_division=0),
    "f1_micro": lambda y, p: reference.f1_score(y, p, average="micro", zero_division=0),
    "mcc": reference.matthews_corrcoef,
}
REGRESSION = {
    "mse": reference.mean_squared_error,
    "mae": reference.mean_absolute_error,
    "pearson": lambda y, p: stats.pearsonr(y, p)[0],
    "spearman": lambda y, p: stats.spearmanr(y, p)[0],
}


def repeated(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.repeat(values, weights.astype(int), axis=0)


@pytest.fixture
def weights() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate([np.ones((1, 60)), rng.multinomial(60, np.full(60, 1 / 60), size=4)]).astype(float)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classification_metrics_are_those_of_the_repeated_sample(name, weights):
    rng = np.random.default_rng(2)
    classes = np.array(["a", "b", "c", "rare"])
    labels = classes[rng.choice(4, 60, p=[0.5, 0.3, 0.18, 0.02])]
    predictions = np.where(rng.random(60) < 0.6, labels, classes[rng.integers(3, size=60)])
    expected = [CLASSIFICATION[name](repeated(labels, w), repeated(predictions, w)) for w in weights]
    assert METRICS[name](labels, predictions, weights) == pytest.approx(expected)


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_metrics_are_those_of_the_repeated_sample(name, weights):
    rng = np.random.default_rng(3)
    labels = rng.integers(6, size=60).astype(float)  # ties
    predictions = labels + rng.normal(size=60).round(1)
    expected = [REGRESSION[name](repeated(labels, w), repeated(predictions, w)) for w in weights]
    assert METRICS[name](labels, predictions, weights) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "f1_micro", "precision_macro", "recall_macro"])
def test_several_labels_an_example(name, weights):
    rng = np.random.default_rng(4)
    sets = [[n for n in "abc" if rng.random() < 0.4] for _ in range(60)]
    guesses = [[n for n in "abc" if (n in s) ^ (rng.random() < 0.2)] for s in sets]
    labels, predictions = membership([sets, guesses])
    expected = [CLASSIFICATION[name](repeated(labels, w), repeated(predictions, w)) for w in weights]
    assert METRICS[name](labels, predictions, weights) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
def test_an_undefined_correlation_counts_as_zero(name):
    constant, labels = np.ones(5), np.arange(5.0)
    assert METRICS[name](labels, constant, np.ones((2, 5))).tolist() == [0.0, 0.0]
