import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from transfer.study.compare import compare
from transfer.study.labels_saved import crossing, labels_needed, monotone

SIZES = np.array([10.0, 100.0, 1000.0])


def test_the_monotone_fit_is_that_of_isotonic_regression():
    curves = np.random.default_rng(41).normal(size=(50, 7))
    expected = [isotonic_regression(curve).x for curve in curves]
    assert monotone(curves) == pytest.approx(np.array(expected))


def test_labels_are_read_off_the_curve_between_the_budgets():
    curve = np.array([[0.5, 0.7, 0.8]])

    def needed(wanted):
        return labels_needed(SIZES, curve, np.array([wanted]))[0]

    assert needed(0.6) == pytest.approx(10**1.5)
    assert needed(0.7) == pytest.approx(100)
    assert needed(0.5) == pytest.approx(10)
    assert (needed(0.81), needed(0.4)) == (math.inf, -math.inf)


def test_a_plateau_is_left_at_its_first_point():
    assert labels_needed(SIZES, np.array([[0.5, 0.7, 0.7]]), np.array([0.7]))[0] == pytest.approx(100)


def test_the_last_crossing_is_found_in_the_logarithm_of_the_labels():
    gains = np.array([[0.1, 0.1, -0.1], [0.1, 0.2, 0.3], [-0.3, 0.1, 0.2]])
    assert crossing(SIZES, gains) == pytest.approx([10**2.5, math.nan, 10**1.75], nan_ok=True)


@pytest.fixture
def curves(study):
    """Transfer is ahead with few labels and behind with many; scratch with 400 labels equals transfer with 50."""
    for seed in range(4):
        for size, transfer, scratch in ((50, 0.75, 0.55), (100, 0.76, 0.6), (400, 0.78, 0.76), (1000, 0.8, 0.9)):
            for arm, quality in (("transfer", transfer), ("scratch", scratch)):
                study.add(arm, seed, size, quality=quality, floors=False)
    return compare(study.records)


def test_the_labels_that_transfer_saves_come_with_their_interval(curves):
    by_size = {found.num_labels: found for found in curves.saved}
    found = by_size[50]
    assert 250 < found.needed < 600
    assert 100 < found.low < found.needed < found.high < 1000
    assert (found.num_seeds, found.least, found.most) == (4, 50, 1000)
    assert by_size[1000].needed < 1000
    words = next(line for line in curves.sentences if line.startswith("Labels saved by transfer from movies"))
    assert "over scratch: with 50 labels" in words
    assert "with 1,000 labels none" in words


def test_where_the_curves_cross(curves):
    (found,) = curves.crossovers
    assert 400 < found.num_labels < 1000
    assert found.low <= found.num_labels <= found.high
    assert found.better_before
    assert found.share > 0.9
    assert "transfer from movies is ahead with fewer, scratch with more" in " ".join(curves.sentences)


def test_more_than_was_tried_is_said_as_that(study):
    for seed in range(2):
        for size in (50, 100):
            study.add("transfer", seed, size, quality=0.9)
            study.add("scratch", seed, size, quality=0.55)
    comparison = compare(study.records)
    assert [found.needed for found in comparison.saved] == [math.inf, math.inf]
    assert comparison.crossovers[0].share == 0
    assert "scratch with 100, the most, is behind" in " ".join(comparison.sentences)


def test_errors_are_turned_before_they_are_compared(study):
    for seed in range(2):
        for size, mse in ((50, 1.0), (100, 0.8), (200, 0.5)):
            for arm, factor in (("transfer", 0.7), ("scratch", 1.0)):
                record = study.add(
                    arm, seed, size, monitor={"name": "val/mse", "mode": "min", "best": 1.0}, floors=False
                )
                record["metrics"] = {"test/mse": factor * mse + 0.01 * seed}
    comparison = compare(study.records)
    needed = {found.num_labels: found.needed for found in comparison.saved}
    assert 100 < needed[50] < 200
    assert needed[200] == math.inf


def test_one_seed_has_no_interval(study):
    for size in (50, 100):
        study.add("transfer", 0, size)
        study.add("scratch", 0, size)
    comparison = compare(study.records)
    assert all(math.isnan(found.low) for found in comparison.saved)
