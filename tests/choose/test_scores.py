"""Scores of sources against values that are known in closed form."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from transfer.choose import scores

RANDOM = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 20)


def clusters(distance, width=8, labels=LABELS):
    centres = np.eye(width)[: labels.max() + 1] * distance
    return centres[labels] + np.random.default_rng(1).normal(size=(len(labels), width))


@pytest.mark.parametrize(("rows", "width"), [(30, 4), (6, 15)])
def test_the_evidence_is_the_density_of_a_gaussian(rows, width):
    features, target = RANDOM.normal(size=(rows, width)), RANDOM.normal(size=rows)
    alpha, beta = 0.7, 2.5
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    projected = (left.T @ target) ** 2
    found = scores.log_evidence(singular**2, projected, target @ target - projected.sum(), rows, alpha, beta)
    covariance = np.eye(rows) / beta + features @ features.T / alpha
    assert found == pytest.approx(multivariate_normal.logpdf(target, np.zeros(rows), covariance))


def test_the_evidence_is_at_its_maximum():
    features = clusters(1.0)
    best = scores.logme(features, LABELS)
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    targets = np.eye(3)[LABELS]

    def at(alpha, beta):
        parts = [(left.T @ y) ** 2 for y in targets.T]
        rest = [y @ y - p.sum() for y, p in zip(targets.T, parts, strict=True)]
        each = [scores.log_evidence(singular**2, p, r, 60, alpha, beta) for p, r in zip(parts, rest, strict=True)]
        return np.mean(each) / 60

    assert best >= max(at(a, b) for a in np.geomspace(0.1, 1000, 30) for b in np.geomspace(0.1, 1000, 30)) - 1e-3


def test_h_score_of_one_direction_is_the_variance_between():
    features = np.array([[-1.0], [-3.0], [1.0], [3.0]]).repeat(500, 0)
    labels = np.array([0, 0, 1, 1]).repeat(500)
    assert scores.h_score(features, labels) == pytest.approx(4 / 5, rel=1e-2)


def test_leep_of_sure_answers_is_nce():
    answers = RANDOM.integers(0, 4, size=60)
    assert scores.leep(np.eye(4)[answers], LABELS) == pytest.approx(scores.nce(answers, LABELS))


def test_nce_by_hand():
    assert scores.nce(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == pytest.approx(-0.5 * np.log(2))
    assert scores.nce(LABELS, LABELS) == 0
    assert scores.nce(np.zeros(60, dtype=int), LABELS) == pytest.approx(-np.log(3))


def test_leep_by_hand():
    """P(y | z) is (0.8, 0.2) and (0.2, 0.8)."""
    found = scores.leep(np.array([[0.8, 0.2], [0.2, 0.8]]), np.array([0, 1]))
    assert found == pytest.approx(np.log(0.8**2 + 0.2**2))


@pytest.mark.parametrize("shape", [(50, 1), (5, 9)])
def test_the_coding_rate_of_known_features(shape):
    features = RANDOM.normal(size=shape)
    expected = 0.5 * np.log(1 + np.linalg.svd(features, compute_uv=False) ** 2 / (shape[0] * 0.01)).sum()
    assert scores.coding_rate(features, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("score", [scores.logme, scores.h_score, scores.transrate, scores.knn, scores.linear_probe])
def test_what_tells_classes_apart_scores_higher(score):
    values = [score(clusters(distance), LABELS) for distance in (0.0, 1.5, 4.0)]
    assert values == sorted(values)
    assert values[0] < values[2]


def test_alignment_does_not_depend_on_rotation_or_scale():
    features = RANDOM.normal(size=(40, 6))
    turned = features @ np.linalg.qr(RANDOM.normal(size=(6, 6)))[0] * 3 + 5
    assert scores.cka(features, turned) == pytest.approx(1)
    one, other = np.array([[1.0], [-1], [1], [-1]]), np.array([[1.0], [1], [-1], [-1]])
    assert scores.cka(one, other) == pytest.approx(0)


def test_both_ways_of_alignment_agree():
    one, other = RANDOM.normal(size=(10, 30)), RANDOM.normal(size=(10, 20))
    first, second = ((m - m.mean(0)) @ (m - m.mean(0)).T for m in (one, other))
    expected = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
    assert scores.cka(one, other) == pytest.approx(expected)
    assert scores.cka(one[:, :3], other[:, :4]) == pytest.approx(scores.cka(other[:, :4], one[:, :3]))


def test_the_distance_of_domains():
    near = scores.proxy_a_distance(RANDOM.normal(size=(200, 4)), RANDOM.normal(size=(200, 4)))
    far = scores.proxy_a_distance(RANDOM.normal(size=(200, 4)), RANDOM.normal(size=(200, 4)) + 20)
    assert near < 0.4
    assert far == pytest.approx(2)


def test_words_and_labels_in_common():
    assert scores.coverage({"a", "b"}, ["a", "a", "c", "b"]) == 0.75
    assert scores.overlap(["x", "y"], ["y", "z"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("score", [scores.logme, scores.h_score, scores.transrate, scores.knn, scores.linear_probe])
@pytest.mark.parametrize(("labels", "message"), [(np.zeros(60, dtype=int), "one class")])
def test_a_target_that_says_nothing_is_refused(score, labels, message):
    with pytest.raises(ValueError, match=message):
        score(clusters(1.0), labels)


@pytest.mark.parametrize("score", [scores.logme, scores.h_score, scores.transrate])
def test_fewer_rows_than_directions(score):
    labels = np.array([0, 0, 1, 1])
    assert np.isfinite(score(RANDOM.normal(size=(4, 50)), labels))
