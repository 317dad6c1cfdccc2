import math

import numpy as np
import pytest

from transfer.study.intervals import Variances, half_width, p_value, variances
from transfer.study.statistics import Pair, gain, gain_of_values, spread

NUM_TEST = 300


def outcomes(repetitions, seeds, mu, sigma_a, sigma_b, rng):
    """Whether two arms are right [R, S, n]: gain = mu + a_s + b_i on the average, with the noise of right and wrong."""
    a = np.clip(rng.standard_normal((repetitions, seeds, 1)) * sigma_a, -3 * sigma_a, 3 * sigma_a)
    b = rng.choice([-sigma_b, sigma_b], (repetitions, 1, NUM_TEST))
    half = (mu + a + b) / 2
    assert np.abs(half).max() < 0.32, "probabilities would be cut off and the true gain unknown"
    uniform = rng.random((2, repetitions, seeds, NUM_TEST))
    return uniform[0] < 0.66 + half, uniform[1] < 0.66 - half


def measured(treated, control):
    """Mean gains [R] and what they vary by."""
    difference = treated.astype(np.float32) - control
    per_seed = difference.mean(axis=2, dtype=float)
    difference -= per_seed[:, :, None].astype(np.float32)
    covariance = (difference @ difference.transpose(0, 2, 1)).astype(float) / (NUM_TEST * (NUM_TEST - 1))
    return per_seed.mean(axis=1), variances(per_seed, covariance, NUM_TEST)


def intervals(treated, control):
    """Bounds [R] of the intervals of R studies."""
    means, parts = measured(treated, control)
    half = half_width(parts)
    return means - half, means + half


def as_pairs(treated, control):
    ids, labels = np.arange(treated.shape[-1]), np.ones(treated.shape[-1], dtype=int)
    return [Pair(ids, labels, t.astype(int), c.astype(int)) for t, c in zip(treated, control, strict=True)]


def test_the_interval_of_five_seeds_covers_a_known_gain_in_93_to_97_percent():
    rng = np.random.default_rng(11)
    low, high = intervals(*outcomes(1000, 5, 0.1, sigma_a=0.05, sigma_b=0.2, rng=rng))
    assert 0.93 <= np.mean((low <= 0.1) & (high >= 0.1)) <= 0.97


def test_without_a_gain_five_seeds_give_a_verdict_in_5_percent_at_most():
    rng = np.random.default_rng(12)
    low, high = intervals(*outcomes(1000, 5, 0.0, sigma_a=0.05, sigma_b=0.2, rng=rng))
    # The standard deviation of 5 % in 1,000 repetitions is 0.7 %.
    assert np.mean((low > 0) | (high < 0)) <= 0.05 + 2 * 0.007


# 500 repetitions: the standard deviation at 95 % is 1 %.
@pytest.mark.parametrize(("sigma_a", "sigma_b"), [(0.0, 0.0), (0.0, 0.3), (0.02, 0.2), (0.08, 0.0), (0.08, 0.2)])
@pytest.mark.parametrize(("seeds", "most"), [(2, 1.0), (3, 0.985), (5, 0.985)])
def test_the_coverage_holds_from_no_seed_noise_to_much(seeds, most, sigma_a, sigma_b):
    rng = np.random.default_rng(13)
    low, high = intervals(*outcomes(500, seeds, 0.0, sigma_a, sigma_b, rng=rng))
    assert 0.925 <= np.mean((low <= 0) & (high >= 0)) <= most


def test_no_interval_of_many_is_without_width():
    rng = np.random.default_rng(14)
    low, high = intervals(*outcomes(500, 3, 0.0, 0.0, 0.0, rng=rng))
    # Two degrees of freedom leave a wide choice; the bound keeps it from going to nothing.
    assert np.min(high - low) > 0.05 * np.median(high - low)
    one = Variances(np.zeros(1), np.zeros(1), np.full(1, 0.01), num_seeds=3, num_test=NUM_TEST)
    assert half_width(one)[0] > 0.01


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_interval_at_confidence_1_minus_p_ends_at_zero(seeds):
    means, parts = measured(*outcomes(1, seeds, 0.06, 0.03, 0.2, np.random.default_rng(15)))
    mean = float(means[0])
    parts = Variances(parts.seed[0], parts.shared[0], parts.own[0], seeds, NUM_TEST)
    p = p_value(mean, parts)
    assert 1e-6 < p < 0.9
    assert half_width(parts, 1 - p) == pytest.approx(abs(mean), rel=1e-3)
    assert (p < 0.05) == (abs(mean) > half_width(parts))


def test_one_seed_covers_the_examples_of_that_seed():
    rng = np.random.default_rng(13)
    low, high = intervals(*outcomes(400, 1, 0.1, 0.0, 0.2, rng=rng))
    assert 0.92 <= np.mean((low <= 0.1) & (high >= 0.1)) <= 0.98


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_predictions_give_the_interval_of_their_outcomes(seeds):
    treated, control = outcomes(1, seeds, 0.1, 0.05, 0.3, np.random.default_rng(14))
    found = gain(as_pairs(treated[0], control[0]), "accuracy")
    low, high = intervals(treated, control)
    assert found.estimate == pytest.approx((treated.mean() - control.mean()), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((low[0], high[0]), rel=1e-4)
    assert found.per_seed == pytest.approx(treated[0].mean(axis=1) - control[0].mean(axis=1))


def test_one_seed_says_that_it_covers_the_examples_only():
    treated, control = outcomes(1, 1, 0.2, 0.0, 0.0, np.random.default_rng(15))
    found = gain(as_pairs(treated[0], control[0]), "accuracy")
    assert (found.covers_seeds, found.covers_examples, found.num_test) == (False, True, NUM_TEST)


def test_seeds_that_agree_by_chance_leave_the_uncertainty_of_the_examples():
    answers = np.random.default_rng(16).random((2, 2, 50)) < 0.7
    answers[0, 1, :] = answers[0, 0, ::-1]
    answers[1, 1, :] = answers[1, 0, ::-1]
    found = gain(as_pairs(answers[0], answers[1]), "accuracy")
    assert found.per_seed[0] == pytest.approx(found.per_seed[1])
    assert found.high - found.low > 0.1


def test_sharing_the_test_examples_widens_the_interval():
    rng = np.random.default_rng(17)
    treated, control = outcomes(1, 4, 0.0, 0.0, 0.6, rng)
    pairs = as_pairs(treated[0], control[0])
    apart = [Pair(p.ids + 1000 * i, p.labels, p.treated, p.control) for i, p in enumerate(pairs)]
    together, separate = gain(pairs, "accuracy"), gain(apart, "accuracy")
    assert separate.num_test == 4 * NUM_TEST
    assert together.standard_error > 1.2 * separate.standard_error


@pytest.mark.parametrize(("metric", "sign"), [("mse", 1), ("pearson", 1)])
def test_better_is_positive_whatever_the_direction(metric, sign):
    rng = np.random.default_rng(18)
    labels, ids = rng.normal(size=200), np.arange(200)
    pairs = [Pair(ids, labels, labels + rng.normal(size=200) * 0.3, labels + rng.normal(size=200)) for _ in range(3)]
    found = gain(pairs, metric)
    assert found.verdict == "gain"
    turned = gain([Pair(p.ids, p.labels, p.control, p.treated) for p in pairs], metric)
    assert turned.verdict == "harm"
    assert turned.estimate == pytest.approx(-found.estimate)


def test_the_level_of_one_arm_keeps_its_sign():
    labels, ids = np.zeros(50), np.arange(50)
    assert gain([Pair(ids, labels, labels + 2.0)], "mse").estimate == pytest.approx(4.0)


def test_label_sets_are_compared_as_sets():
    labels = np.empty(40, dtype=object)
    labels[:] = [("a", "b")] * 20 + [("b",)] * 20
    turned, wrong = labels.copy(), labels.copy()
    turned[:20] = [("b", "a")] * 20
    wrong[:] = [("c",)] * 40
    assert gain([Pair(np.arange(40), labels, turned, wrong)], "accuracy").estimate == 1.0


def test_identical_arms_are_undecided():
    answers = np.ones((2, 30), dtype=int)
    found = gain(as_pairs(answers, answers), "accuracy")
    assert (found.low, found.high, found.verdict) == (0.0, 0.0, "undecided")


def test_without_predictions_the_seeds_alone_make_the_interval():
    found = gain_of_values([0.5, 0.7], [0.9, 1.2], lower_is_better=True, num_test=10)
    assert found.estimate == pytest.approx(0.45)
    assert found.high - found.estimate == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert (found.covers_seeds, found.covers_examples) == (True, False)
    alone = gain_of_values([0.5], [0.4])
    assert (alone.low, alone.high, alone.verdict) == (-math.inf, math.inf, "undecided")


def test_spread():
    assert spread([1.0, 3.0]).sd == pytest.approx(math.sqrt(2))
    assert math.isnan(spread([1.0]).sd)
