"""Answers by similarity, by hand; and what is computed on frozen features."""

import math

import numpy as np
import pytest
import torch

from transfer.fewshot.baselines import probe
from transfer.fewshot.prototypes import embed, matching_logits, prototype_logits
from transfer.fewshot.results import interval

SUPPORT = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 5.0]])  # two classes, two rows each


def test_prototypes_are_the_means_of_the_classes():
    """They are (1, 0) and (0, 4); of the query (1, 1) the squared distances are 1 and 10."""
    assert prototype_logits(SUPPORT, torch.tensor([[1.0, 1.0]]), 2).tolist() == [[-1.0, -10.0]]


def test_matching_is_attention_by_cosine():
    """Cosines of (3, 0) with the support rows are 1, 0, 0, -1: e / (e + 2 + 1/e) and so on, summed over each class."""
    support = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, -4.0], [-1.0, 0.0]])
    total = math.e + 2 + 1 / math.e
    expected = [[(math.e + 1) / total, (1 + 1 / math.e) / total]]
    torch.testing.assert_close(matching_logits(support, torch.tensor([[3.0, 0.0]]), 2).exp(), torch.tensor(expected))


def test_padding_is_no_part_of_a_vector():
    class Model:
        def base_model(self, input_ids, attention_mask):
            return type("Outputs", (), {"last_hidden_state": input_ids[..., None].float()})

    inputs = {
        "input_ids": torch.tensor([[2, 4, 100], [1, 1, 1]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
    }
    assert embed(Model(), inputs, inputs["attention_mask"]).tolist() == [[3.0], [1.0]]


def test_the_interval_is_students():
    """Of 1, 2, 3: mean 2, deviation 1, and 4.303 for two degrees of freedom."""
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == pytest.approx((2.0, 4.3027 / math.sqrt(3)), rel=1e-4)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    found = [interval(generator.binomial(25, 0.8, 60) / 25) for _ in range(1000)]
    assert 0.93 < np.mean([abs(mean - 0.8) <= half for mean, half in found]) < 0.97


def test_the_probe_learns_classes_and_lines():
    query = torch.tensor([[1.0, 0.2], [0.2, 1.0]])
    support = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert probe(support, np.array([0, 0, 1, 1]), query, classes=True).tolist() == [0, 1]
    x = torch.linspace(-5, 5, 200)[:, None]
    said = probe(x, 3 * x[:, 0].numpy() + 1, torch.tensor([[2.0]]), classes=False)
    assert said[0] == pytest.approx(7.0, abs=0.05)
