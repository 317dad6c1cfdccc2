"""Metrics of whole test sets: their formulas, their influence, and a study of runs that kept their terms."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.metrics import f1_score

from transfer.study import answers, detail_sections, details, terms
from transfer.study.compare import compare
from transfer.study.report import write_all

NUM = 300
WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


def entity_counts(rng, quality=0.7):
    """2 * hits, and entities there plus answered, of sentences with up to three."""
    there = rng.integers(4, size=NUM)
    hits = rng.binomial(there, quality)
    return np.stack([2 * hits, there + hits + rng.binomial(2, (1 - quality) / 2, NUM)], axis=1).astype(float)


def sentences(rng):
    """References, and answers in which some words are others."""
    made = [[WORDS[i] for i in rng.integers(8, size=rng.integers(4, 12))] for _ in range(NUM)]
    changed = [
        [w if rng.random() < 0.8 else WORDS[rng.integers(8)] for w in row[: rng.integers(3, 14)]] for row in made
    ]
    return [" ".join(row) for row in made], [" ".join(row) for row in changed]


def bleu_terms(references, answers):
    metrics = pytest.importorskip("sacrebleu.metrics")
    return np.array(metrics.BLEU(tokenize="none")._extract_corpus_statistics(answers, [references]), dtype=float)


def chrf_terms(references, answers):
    metrics = pytest.importorskip("sacrebleu.metrics")
    chrf = metrics.CHRF()
    return np.array(chrf._extract_corpus_statistics(answers, [references]), dtype=float)


def macro_terms(rng):
    labels = rng.choice(3, (NUM, 5), p=[0.6, 0.3, 0.1])
    answers = np.where(rng.random((NUM, 5)) < 0.7, labels, rng.integers(3, size=(NUM, 5)))
    hits = [((labels == c) & (answers == c)).sum(axis=1) for c in range(3)]
    rest = [(column == c).sum(axis=1) for column in (labels, answers) for c in range(3)]
    return labels, answers, np.stack([*hits, *rest], axis=1).astype(float)


def made(metric):
    rng = np.random.default_rng(5)
    if metric == "bleu":
        return bleu_terms(*sentences(rng))
    if metric == "chrf":
        return chrf_terms(*sentences(rng))
    if metric == "f1 of classes":
        return macro_terms(rng)[2]
    if metric == "perplexity":
        tokens = rng.integers(5, 30, size=NUM)
        return np.stack([tokens * rng.normal(3, 0.5, NUM), tokens], axis=1)
    return entity_counts(rng)


CASES = ["f1", "perplexity", "f1 of classes", "bleu", "chrf"]


@pytest.mark.parametrize("metric", CASES)
def test_the_influence_is_the_slope_in_the_weight_of_a_row(metric):
    columns, name = made(metric), metric.split()[0]
    value, influence = terms.value_and_influence(name, columns)
    assert value == pytest.approx(terms.weighted(name, columns, np.ones((1, NUM)))[0])
    step = 1e-3
    up, down = (terms.weighted(name, columns, np.ones((NUM, NUM)) + s * step * np.eye(NUM)) for s in (1, -1))
    slope = NUM * (up - down) / (2 * step)
    assert influence == pytest.approx(slope - slope.mean(), abs=1e-4 * np.abs(slope).max())


@pytest.mark.parametrize("metric", CASES)
def test_its_variance_is_that_of_a_bootstrap_of_the_rows(metric):
    columns, name = made(metric), metric.split()[0]
    weights = np.random.default_rng(6).multinomial(NUM, np.full(NUM, 1 / NUM), size=3000).astype(float)
    drawn = terms.weighted(name, columns, weights).std()
    _, influence = terms.value_and_influence(name, columns)
    assert np.sqrt((influence**2).sum()) / NUM == pytest.approx(drawn, rel=0.08)


def test_bleu_and_chrf_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    references, answers = sentences(np.random.default_rng(7))
    # Whole sets, short ones without any match of an order, and nothing at all.
    for size in (NUM, 2, 1):
        for start in range(3):
            ours, theirs = answers[start : start + size], references[start : start + size]
            found = terms.of_sums("bleu", bleu_terms(theirs, ours).sum(axis=0)[None])[0]
            assert found == pytest.approx(sacrebleu.corpus_bleu(ours, [theirs], tokenize="none").score)
            found = terms.of_sums("chrf", chrf_terms(theirs, ours).sum(axis=0)[None])[0]
            assert found == pytest.approx(sacrebleu.corpus_chrf(ours, [theirs]).score)
    assert terms.of_sums("bleu", np.zeros((1, 10)))[0] == terms.of_sums("chrf", np.zeros((1, 18)))[0] == 0


def test_the_f1_of_classes_is_scikit_learns():
    labels, answers, columns = macro_terms(np.random.default_rng(8))
    expected = f1_score(labels.ravel(), answers.ravel(), average="macro")
    assert terms.of_sums("f1", columns.sum(axis=0)[None])[0] == pytest.approx(expected)
    absent = np.insert(columns, [3, 6, 9], 0.0, axis=1)
    assert terms.of_sums("f1", absent.sum(axis=0)[None])[0] == pytest.approx(expected), "nobody has the fourth class"


def test_ratios_by_hand():
    assert terms.of_sums("f1", np.array([[4.0, 10.0], [0.0, 0.0]])).tolist() == [0.4, 0.0]
    assert terms.of_sums("perplexity", np.array([[6.0, 3.0], [1e9, 1.0]])).tolist() == [math.exp(2), math.exp(700)]
    assert terms.value_and_influence("f1", np.zeros((4, 2)))[1].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("metric", "suffix", "expected"),
    [
        ("f1", "", ["f1:num", "f1:den"]),
        ("f1", "_majority", ["f1:num_majority", "f1:den_majority"]),
        ("bleu", "", ["bleu:0", "bleu:1"]),
        ("recall", "", []),
        ("other", "", []),
    ],
)
def test_which_columns_make_up_a_metric(metric, suffix, expected):
    names = {"f1:num", "f1:den", "f1:num_majority", "f1:den_majority", "bleu:0", "bleu:1", "recall:num", "other:0"}
    assert terms.columns(metric, names, suffix) == expected


def test_how_good_a_row_is():
    found, has_best = terms.quality("f1", np.array([[2.0, 2.0], [2.0, 4.0], [0.0, 0.0]]), True)
    assert (found.tolist(), has_best) == ([1.0, 0.5, 1.0], True)
    found, has_best = terms.quality("perplexity", np.array([[1.0, 1.0], [2.0, 1.0]]), False)
    assert (found[0] > found[1], has_best) == (True, False)


class Runs:
    """Run folders of a study whose metric is made of terms."""

    def __init__(self, study, metric, mode):
        self.study, self.metric, self.mode = study, metric, mode

    def add(self, arm, seed, columns, label, prediction, **more):
        record = self.study.add(arm, seed, write=False, monitor={"name": f"val/{self.metric}", "mode": self.mode})
        table = {"id": self.study.ids, "label": label, "prediction": prediction, **more}
        record["metrics"] = {}
        suffixes = {"": "test", "_majority": "floor_majority"} | (
            {"_equal_steps": "test_equal_steps"} if arm == "scratch" else {}
        )
        for suffix, prefix in suffixes.items():
            own = columns if suffix != "_majority" else columns * [0.5, 1.0]
            parts = terms.RATIO if columns.shape[1] == 2 else map(str, range(columns.shape[1]))
            table |= {f"{self.metric}:{part}{suffix}": column for part, column in zip(parts, own.T, strict=True)}
            table[f"prediction{suffix}"] = prediction
            record["metrics"][f"{prefix}/{self.metric}"] = float(terms.of_sums(self.metric, own.sum(axis=0)[None])[0])
        folder = Path(record["_folder"])
        parquet.write_table(
            pa.table({name: list(column) for name, column in table.items()}), folder / "predictions.parquet"
        )
        (folder / "record.json").write_text(json.dumps({k: v for k, v in record.items() if k != "_folder"}))
        return record


@pytest.mark.parametrize(("metric", "mode"), [("f1", "max"), ("perplexity", "min")])
def test_a_study_of_such_runs_has_intervals_over_rows(study, metric, mode, tmp_path):
    """The same page as for any other task: gains, second opinions, examples, floors."""
    study.num_test = NUM
    runs = Runs(study, metric, mode)
    rng = np.random.default_rng(9)
    shared = rng.normal(size=NUM)
    for seed in range(3):
        for arm in ("transfer", "scratch"):
            if metric == "f1":
                columns = entity_counts(np.random.default_rng([seed, 1]), 0.9 if arm == "transfer" else 0.5)
                tags = [["B-PER", "I-PER", "O"]] * NUM
                answers = [["B-PER", "O", "O"]] * NUM if arm == "scratch" else tags
                runs.add(arm, seed, columns, tags, answers, text=["Ann Lee sat"] * NUM)
            else:
                level = 3 - 0.3 * (arm == "transfer") + 0.3 * shared
                columns = np.stack([10 * (level + 0.01 * rng.normal(size=NUM)), np.full(NUM, 10.0)], axis=1)
                runs.add(arm, seed, columns, [""] * NUM, np.exp(columns[:, 0] / 10))
    comparison = compare(study.records)
    (row, contrast) = comparison.gains[0]
    expected = [r["metrics"][f"test/{metric}"] for r in study.records]
    gains = np.array(expected[0::2]) - np.array(expected[1::2])
    assert contrast.gain.estimate == pytest.approx(gains.mean() * (1 if mode == "max" else -1))
    assert contrast.gain.covers_examples, contrast.notes
    assert contrast.verdict == "gain"
    assert row.over_floor.gain.covers_examples
    assert comparison.baseline == "converged"
    assert compare(study.records, "equal_steps").gains[0][1].gain.covers_examples
    # A second opinion draws the rows anew: it agrees with the formula.
    found = details.build(comparison)
    low = details.opinions(comparison)[0].low
    assert low == pytest.approx(contrast.gain.low, abs=0.6 * (contrast.gain.high - contrast.gain.low))
    assert found.confusions == []
    assert found.changes[0][2].num_fixed > found.changes[0][2].num_broken
    assert found.changes[0][2].graded == (metric == "perplexity")
    shown = " ".join(line for _, lines in detail_sections.examples(comparison, found).folded for line in lines)
    assert ("Ann Lee (PER)" in shown) == ("answers Ann Lee (PER), scratch Ann (PER)" in shown) == (metric == "f1")
    if metric == "f1":
        assert "Ann Lee (PER)" in write_all(comparison, tmp_path / "report")[1].read_text()


@pytest.mark.parametrize(
    ("tags", "text", "expected"),
    [
        ("B-PER I-PER O B-PER", "Ann Lee met Bob", "Ann Lee (PER), Bob (PER)"),
        ("B-PER I-LOC", "Ann Rome", "Ann (PER), Rome (LOC)"),
        ("O O", "it was", "no entity"),
        ("O B-LOC I-LOC", "in New", "New ... (LOC)"),
        ("DET NOUN", "the end", "the/DET end/NOUN"),
        ("b a", "more words than these", "a, b"),
    ],
)
def test_how_tags_are_shown(tags, text, expected):
    nothing = np.zeros(1)
    example = answers._Answers(nothing, nothing, nothing, np.array([text]), np.zeros((1, 2)))
    assert answers._words(tuple(tags.split()), example, 0) == expected


def test_twins_with_other_tags_are_no_twins(study):
    study.num_test = NUM
    runs = Runs(study, "f1", "max")
    columns = entity_counts(np.random.default_rng(3))
    for arm, tags in (("transfer", ["O", "B-PER"]), ("scratch", ["B-PER", "O"])):
        runs.add(arm, 0, columns, [tags] * NUM, [tags] * NUM)
    comparison = compare(study.records)
    assert comparison.gains == []
    assert "the labels of the test examples differ" in " ".join(comparison.refused)
