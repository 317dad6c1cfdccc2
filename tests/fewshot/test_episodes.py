"""Which classes and rows make an episode."""

import numpy as np
import pytest

from transfer.fewshot.episodes import SPLITS, divide, draw, generator

NAMES = [f"class {i}" for i in range(50)]
ROWS = {name: np.arange(20) + 20 * i for i, name in enumerate(NAMES)}


def drawn(split="test", seed=0, number=0, ways=5):
    units = divide(NAMES, validation_fraction=0.2, test_fraction=0.3, seed=0)[split]
    return draw(ROWS, units, ways=ways, shots=2, queries=3, generator=generator(split, seed, number))


def test_no_class_is_in_two_parts():
    parts = divide(NAMES, validation_fraction=0.2, test_fraction=0.3, seed=0)
    assert {split: len(names) for split, names in parts.items()} == {"train": 25, "validation": 10, "test": 15}
    assert sorted(name for names in parts.values() for name in names) == sorted(NAMES)


def test_the_parts_depend_on_the_seed_and_not_on_the_order_of_the_names():
    shares = {"validation_fraction": 0.2, "test_fraction": 0.3}
    parts = divide(NAMES, seed=0, **shares)
    assert divide(NAMES[::-1], seed=0, **shares) == parts
    assert divide(NAMES, seed=1, **shares) != parts
    assert divide(NAMES, seed=0, validation_fraction=0.4, test_fraction=0.3)["test"] == parts["test"]


def test_an_episode_has_different_rows_of_each_of_its_classes():
    for number in range(50):
        episode = drawn(number=number)
        assert (episode.support.shape, episode.query.shape) == ((5, 2), (5, 3))
        assert len({*episode.units}) == 5
        for place, unit in enumerate(episode.units):
            rows = [*episode.support[place], *episode.query[place]]
            assert len({*rows}) == 5
            assert {*rows} <= {*ROWS[unit]}


def test_episodes_are_the_same_again_and_each_is_another():
    same, other, elsewhere, seeded = drawn(), drawn(number=1), drawn("validation"), drawn(seed=1)
    again = drawn()
    assert same.units == again.units
    assert np.array_equal(same.support, again.support)
    assert np.array_equal(same.query, again.query)
    assert all(same.units != each.units for each in (other, elsewhere, seeded))


def test_classes_get_every_number():
    """In one episode a class is the first, in another the last: there is nothing to learn from the number."""
    places = {
        drawn(number=number).units.index(unit)
        for number in range(300)
        for unit in drawn(number=number).units
        if unit == drawn().units[0]
    }
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_of_a_part_is_drawn_and_no_other(split):
    units = divide(NAMES, validation_fraction=0.2, test_fraction=0.3, seed=0)[split]
    assert {unit for number in range(200) for unit in drawn(split, number=number).units} == {*units}
