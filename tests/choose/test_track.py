"""How well scores ordered sources, against orders whose agreement is known."""

import pytest

from transfer.choose.track import track

GAINS = [0.20, 0.10, 0.05, -0.02]


def test_the_right_order():
    found = track([4.0, 3.0, 2.0, 1.0], GAINS)
    assert (found.num_sources, found.tau, found.weighted_tau) == (4, pytest.approx(1), pytest.approx(1))
    assert found.regret == {1: 0, 3: 0}


def test_the_order_upside_down():
    found = track([1.0, 2.0, 3.0, 4.0], GAINS)
    assert (found.tau, found.weighted_tau) == (pytest.approx(-1), pytest.approx(-1))
    assert found.regret == {1: pytest.approx(0.22), 3: pytest.approx(0.10)}


def test_a_mistake_about_the_best_weighs_more():
    """Of six pairs one is the wrong way round in both: tau is the same."""
    first, last = track([3.0, 4.0, 2.0, 1.0], GAINS), track([4.0, 3.0, 1.0, 2.0], GAINS)
    assert first.tau == last.tau == pytest.approx(4 / 6)
    # Vigna 2015: a pair weighs the sum of 1 / rank of both; all pairs weigh 3 (1 + 1/2 + 1/3 + 1/4) = 25/4.
    assert first.weighted_tau == pytest.approx(1 - 2 * 1.5 / 6.25)
    assert last.weighted_tau == pytest.approx(1 - 2 * (1 / 3 + 1 / 4) / 6.25)


def test_scores_that_are_equal_chose_nothing():
    assert track([2.0, 2.0, 1.0], [0.1, 0.3, 0.0], ks=[1]).regret == {1: pytest.approx(0.2)}
    assert track([2.0, 2.0, 1.0], [0.1, 0.3, 0.0], ks=[1, 5]).regret.keys() == {1}


@pytest.mark.parametrize(
    ("scores", "gains", "message"),
    [
        ([1.0, 2.0], [0.1, 0.2], "2 sources"),
        ([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], "all the same"),
        ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], "all the same"),
    ],
)
def test_what_has_no_order(scores, gains, message):
    with pytest.raises(ValueError, match=message):
        track(scores, gains)
