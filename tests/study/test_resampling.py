import numpy as np
import pytest
from scipy import stats

from transfer.study.power import against_seed_noise, power_of, seeds_needed
from transfer.study.resampling import hierarchical_bootstrap, holm, permutation_p
from transfer.study.statistics import Evidence, Pair, evidence, gain_of, gain_of_values
from transfer.study.statistics import Reading as Read

NUM_TEST = 200


def study(seeds, gain, sigma_a=0.02, seed=31, num_test=NUM_TEST):
    """Pairs of right (1) and wrong (0) answers, and the evidence that they are."""
    rng = np.random.default_rng(seed)
    shift = gain + sigma_a * rng.standard_normal((seeds, 1))
    treated = (rng.random((seeds, num_test)) < 0.6 + shift / 2).astype(int)
    control = (rng.random((seeds, num_test)) < 0.6 - shift / 2).astype(int)
    ids, labels = np.arange(num_test), np.ones(num_test, dtype=int)
    pairs = [Pair(ids, labels, t, c) for t, c in zip(treated, control, strict=True)]
    readings = [[Read(ids, float(row.mean()), row - row.mean()) for row in arm] for arm in (treated, control)]
    return pairs, evidence(*readings)


def test_the_bootstrap_of_a_mean_is_that_of_the_predictions_themselves():
    pairs, found = study(4, 0.1)
    fast = hierarchical_bootstrap(found, pairs, "accuracy", draws=3000)
    slow = hierarchical_bootstrap(found, pairs, "f1_micro", draws=3000)  # the same number, computed anew each time
    assert fast == pytest.approx(slow, abs=0.003)
    assert fast[0] < gain_of(found).estimate < fast[1]


def test_the_bootstrap_draws_the_seeds_too():
    steady, shaky = ((study(6, 0.1, sigma_a=sigma)) for sigma in (0.0, 0.15))
    widths = [high - low for low, high in (hierarchical_bootstrap(f, p, "accuracy") for p, f in (steady, shaky))]
    assert widths[1] > 1.5 * widths[0]


def test_chunks_of_a_large_test_set_are_like_one():
    pairs, found = study(2, 0.1, num_test=30_000)
    low, high = hierarchical_bootstrap(found, pairs, "accuracy", draws=600)
    assert low < found.per_seed.mean() < high


def test_the_permutation_test_finds_a_gain_and_is_bounded_by_the_patterns_of_the_seeds():
    assert permutation_p(study(8, 0.2)[1]) < 0.02
    assert permutation_p(study(3, 0.5)[1]) >= 0.1
    rng = np.random.default_rng(32)
    alike = Evidence(np.array([0.02, -0.02] * 4), rng.normal(size=(8, NUM_TEST)))
    assert permutation_p(alike) > 0.9


def test_without_a_gain_the_permutation_test_keeps_its_level():
    found = [permutation_p(study(6, 0.0, seed=100 + i)[1], draws=256) <= 0.05 for i in range(300)]
    assert np.mean(found) <= 0.05 + 2 * 0.0126


def test_holm_steps_down_and_leaves_out_what_has_no_p_value():
    assert holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx([0.03, 0.06, float("nan"), 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_makes_a_false_claim_in_5_percent_of_studies_at_most():
    p_values = np.random.default_rng(33).random((2000, 10))
    assert np.mean([min(holm(list(p))) <= 0.05 for p in p_values]) <= 0.05 + 2 * 0.005


def test_the_power_of_seeds_alone_is_that_of_the_t_test():
    found = gain_of(Evidence(np.array([0.0, 0.1, 0.2, 0.3]), np.zeros((4, 50))))
    sd = np.std([0.0, 0.1, 0.2, 0.3], ddof=1)
    critical = stats.t.ppf(0.975, 7)
    expected = stats.nct.sf(critical, 7, 0.15 * np.sqrt(8) / sd)
    assert power_of(0.15, 8, found) == pytest.approx(expected, rel=1e-6)


def test_as_many_seeds_are_needed_as_reach_80_percent():
    found = gain_of(study(5, 0.05, sigma_a=0.05)[1])
    size = 0.06
    needed = seeds_needed(found, size)
    assert needed.num_seeds is not None
    assert power_of(size, needed.num_seeds, found) >= 0.8 > power_of(size, needed.num_seeds - 1, found)
    assert seeds_needed(found, 2 * size).num_seeds <= needed.num_seeds


def test_what_seeds_cannot_show_is_said():
    rng = np.random.default_rng(34)
    shared = Evidence(np.array([0.01, 0.02, 0.03]), np.tile(rng.normal(size=(1, NUM_TEST)), (3, 1)))
    assert seeds_needed(gain_of(shared)).why == "test_examples"
    assert seeds_needed(gain_of(Evidence(np.array([0.1]), rng.normal(size=(1, NUM_TEST))))).why == "unknown"
    wild = gain_of(Evidence(np.array([-1.0, 1.0, 0.01]), np.zeros((3, NUM_TEST))))
    assert seeds_needed(wild, 0.001).why == "too_many"
    assert seeds_needed(gain_of_values([0.5, 0.6], [0.4, 0.4])).why == "unknown"


def test_the_gain_against_the_noise_of_scratch():
    found = gain_of_values([0.5, 0.7], [0.4, 0.4])
    assert against_seed_noise(found, 0.1) == pytest.approx(2.0)
    assert np.isnan(against_seed_noise(found, float("nan")))
