import numpy as np
import pytest

from transfer.study.influence import value_and_influence
from transfer.study.weighted_metrics import FORMULAS, METRICS, NUMERIC, membership

NUM = 400


def columns(metric):
    rng = np.random.default_rng(21)
    if metric in NUMERIC:
        labels = rng.integers(8, size=NUM).astype(float)  # ties
        return labels, (labels + 2 * rng.normal(size=NUM)).round(1)
    labels = np.array(["a", "b", "c"])[rng.choice(3, NUM, p=[0.6, 0.3, 0.1])]
    return labels, np.where(rng.random(NUM) < 0.7, labels, np.array(["a", "b", "c"])[rng.integers(3, size=NUM)])


def slopes(labels, predictions, metric, step=1e-4):
    """The influence by its definition: one example's weight is moved at a time."""
    shift = NUM * step * np.eye(NUM)
    up, down = (METRICS[metric](labels, predictions, np.ones((NUM, NUM)) + sign * shift) for sign in (1, -1))
    slope = (up - down) / (2 * step)
    return slope - slope.mean()


@pytest.mark.parametrize("metric", METRICS)
def test_the_influence_is_the_slope_in_the_weight_of_an_example(metric):
    labels, predictions = columns(metric)
    value, influence = value_and_influence(labels, predictions, metric)
    assert value == pytest.approx(METRICS[metric](labels, predictions, np.ones((1, NUM)))[0])
    # The ranks of the weighted metric are those of whole repetitions: half a rank in 400.
    tolerance = 0.02 if metric == "spearman" else 2e-3
    assert influence == pytest.approx(slopes(labels, predictions, metric), abs=tolerance)


@pytest.mark.parametrize("metric", METRICS)
def test_its_variance_is_that_of_a_bootstrap_of_the_examples(metric):
    labels, predictions = columns(metric)
    rng = np.random.default_rng(22)
    weights = rng.multinomial(NUM, np.full(NUM, 1 / NUM), size=2000).astype(float)
    drawn = METRICS[metric](labels, predictions, weights).std()
    _, influence = value_and_influence(labels, predictions, metric)
    assert np.sqrt((influence**2).sum()) / NUM == pytest.approx(drawn, rel=0.06)


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "f1_micro"])
def test_several_labels_an_example(metric):
    rng = np.random.default_rng(23)
    sets = [[n for n in "abc" if rng.random() < 0.4] for _ in range(NUM)]
    guesses = [[n for n in "abc" if (n in s) ^ (rng.random() < 0.2)] for s in sets]
    labels, predictions = membership([sets, guesses])
    assert value_and_influence(labels, predictions, metric)[1] == pytest.approx(
        slopes(labels, predictions, metric), abs=2e-3
    )


@pytest.mark.parametrize("metric", [*FORMULAS, "pearson", "spearman"])
def test_one_answer_for_everything_has_a_finite_influence(metric):
    labels = np.arange(6.0) if metric in NUMERIC else np.array(list("aabbcc"))
    _, influence = value_and_influence(labels, np.full(6, labels[0]), metric)
    assert np.abs(influence).max() <= 2
