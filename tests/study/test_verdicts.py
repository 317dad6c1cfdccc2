import re

import pytest

from transfer.errors import UserError
from transfer.study.compare import compare


def many(study, qualities):
    for seed in range(5):
        study.add("scratch", seed, quality=0.65)
        for index, quality in enumerate(qualities):
            study.add("transfer", seed, quality=quality, source=f"source-{index}")
    return compare(study.records)


def test_among_many_gains_a_verdict_needs_the_corrected_level(study):
    comparison = many(study, [0.65, 0.66, 0.64, 0.65, 0.67, 0.65, 0.66, 0.72, 0.97])
    own = [contrast.gain.p_value for _, contrast in comparison.gains]
    best, borderline = comparison.gains[-1][1], comparison.gains[-2][1]
    assert (best.family, best.verdict, best.p_holm) == (9, "gain", pytest.approx(9 * min(own)))
    assert 0.05 / 9 < borderline.gain.p_value < 0.05
    assert (borderline.gain.verdict, borderline.verdict, borderline.taken_back) == ("gain", "undecided", True)
    words = next(line for line in comparison.sentences if "source-7" in line)
    assert "Its own interval leaves out 0, but among 9 gains that may be chance (Holm's p 0." in words
    assert comparison.headline.startswith("Transfer helps in 1, harms in 0 and is undecided in 8 of 9 comparisons")
    assert comparison.question == "Does transfer from one of 9 sources help on shops?"


def test_a_few_gains_keep_the_verdicts_of_their_own_intervals(study):
    comparison = many(study, [0.65, 0.76])
    gains = sorted((contrast for _, contrast in comparison.gains), key=lambda contrast: contrast.gain.p_value)
    assert [contrast.verdict for contrast in gains] == [contrast.gain.verdict for contrast in gains]
    assert [contrast.family for contrast in gains] == [2, 2]
    assert gains[0].p_holm == pytest.approx(2 * gains[0].gain.p_value)
    assert gains[1].p_holm == pytest.approx(max(gains[0].p_holm, gains[1].gain.p_value))


BY = r"\(by [\d.]+ points of accuracy, 95 % interval [\d.]+ to [\d.]+\)\."


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (0.9, rf"Transfer from movies helps with 100 labels {BY}"),
        (0.4, rf"Transfer from movies harms with 100 labels {BY}"),
        (0.66, r"Transfer from movies is undecided with 100 labels \([+-][\d.]+ points of accuracy, .*\)\."),
    ],
)
def test_the_headline_answers_in_one_sentence(study, quality, words):
    for seed in range(3):
        study.add("transfer", seed, quality=quality)
        study.add("scratch", seed)
    assert re.fullmatch(words, compare(study.records).headline)


def test_the_seeds_needed_are_those_of_the_size_that_was_asked_for(study):
    for seed in range(3):
        study.add("transfer", seed, quality=0.7)
        study.add("scratch", seed)
    found = compare(study.records, size=0.2).gains[0][1].needed
    assert (found.size, found.num_seeds is not None) == (0.2, True)
    with pytest.raises(UserError, match="a number above 0"):
        compare(study.records, size=-1)
