"""What a cross-validation shows: pairs within a fold, intervals that know of the overlap, words that say folds."""

import io
import math

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console
from scipy.stats import t as student

from tests.study.conftest import Study
from transfer.study import details
from transfer.study.compare import compare
from transfer.study.folds import FoldVariances, Layout, fold_variances, overlap
from transfer.study.report import print_table, write_all
from transfer.study.statistics import Evidence, gain_of, gain_of_values

NUM_TEST, FOLDS = 300, 5
FULL = overlap(num_train=216, num_rest=216, num_test=60)


def layout(folds=FOLDS, seeds=1):
    return Layout(tuple(range(folds)) * seeds, tuple(np.repeat(range(seeds), folds).tolist()), FULL)


def gains(repetitions, seeds, training=0.0, rho=0.0, seed=0.0, rng=None):
    """Gains [R, S, k] around 0, and the variance [R] of their mean through the examples, each tested once a seed."""
    rng = np.random.default_rng(21) if rng is None else rng
    common = math.sqrt(rho) * rng.standard_normal((repetitions, 1, 1))
    effects = training * (common + math.sqrt(1 - rho) * rng.standard_normal((repetitions, 1, FOLDS)))
    effects = effects + seed * rng.standard_normal((repetitions, seeds, 1))
    shape = (FOLDS, NUM_TEST // FOLDS)
    examples = 0.2 * rng.standard_normal((repetitions, 1, *shape)) + 0.6 * rng.standard_normal(
        (repetitions, seeds, *shape)
    )
    by_run = effects + examples.mean(axis=-1)
    influence = (examples - examples.mean(axis=-1, keepdims=True)).mean(axis=1)
    return by_run, (influence**2).sum(axis=(1, 2)) / (NUM_TEST * (NUM_TEST - 1))


def covered(by_run, examples):
    """The share of intervals that hold 0: ours, and the t interval of the folds' spread."""
    seeds = by_run.shape[1]
    found = [fold_variances(g.ravel(), layout(seeds=seeds), e, NUM_TEST) for g, e in zip(by_run, examples, strict=True)]
    means = np.abs(by_run.mean(axis=(1, 2)))
    ours = np.array([float(one.half_width(0.95)) for one in found])
    naive = student.ppf(0.975, FOLDS - 1) * by_run.mean(axis=1).std(axis=1, ddof=1) / math.sqrt(FOLDS)
    return float(np.mean(means <= ours)), float(np.mean(means <= naive))


# 500 repetitions: the standard deviation at 95 % is 1 %.
@pytest.mark.parametrize(
    ("seeds", "effects"),
    [(1, {}), (1, {"training": 0.05, "rho": 0.75}), (2, {"training": 0.05, "rho": 0.75}), (3, {"seed": 0.05})],
)
def test_the_interval_covers_where_training_sets_overlap(seeds, effects):
    ours, naive = covered(*gains(500, seeds, **effects))
    assert ours >= 0.925
    assert not effects or naive < 0.91 < ours


def test_the_interval_is_that_of_nadeau_and_bengio():
    by_fold = np.array([0.10, 0.02, 0.07, -0.01, 0.06])
    found = fold_variances(by_fold, layout(), 0.0, NUM_TEST)
    error = math.sqrt((1 / 5 + 60 / 216) * by_fold.var(ddof=1))
    assert found.standard_error == pytest.approx(error)
    assert float(found.half_width(0.95)) == pytest.approx(2.7764 * error, rel=1e-4)
    assert found.seed == 0.0


def test_the_interval_is_never_shorter_than_that_of_the_examples():
    alike = fold_variances(np.full(5, 0.1), layout(), 0.0004, NUM_TEST)
    assert float(alike.half_width(0.95)) == pytest.approx(1.968 * 0.02, rel=1e-3)
    assert alike.standard_error == pytest.approx(0.02)


def test_the_share_of_rows_in_a_label_budget_is_that_of_the_overlap():
    assert overlap(num_train=216, num_rest=216, num_test=60) == pytest.approx(60 / 216)
    assert overlap(num_train=54, num_rest=216, num_test=60) == pytest.approx(60 / 216 / 4)


def test_what_a_seed_does_in_all_folds_widens_the_interval():
    folds = np.array([0.0, 0.02, 0.05, 0.01, 0.03])
    luck = 0.001 * np.random.default_rng(3).standard_normal((3, 5))
    seeds = np.array([[-0.04], [0.0], [0.04]])
    same = fold_variances((folds + luck).ravel(), layout(seeds=3), 0.0, NUM_TEST)
    apart = fold_variances((folds + seeds + luck).ravel(), layout(seeds=3), 0.0, NUM_TEST)
    assert same.seed < 1e-6
    assert apart.seed == pytest.approx(0.0016 / 3, rel=0.1)
    assert apart.fold == pytest.approx(same.fold)
    assert float(apart.half_width(0.95)) > float(same.half_width(0.95)) + 0.02


def test_folds_that_are_missing_for_a_seed_do_not_pass_for_its_effect():
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.0, 0.1])
    found = fold_variances(values, Layout((0, 1, 2, 3, 4, 0, 1), (0,) * 5 + (1,) * 2, FULL), 0.0, NUM_TEST)
    assert isinstance(found, FoldVariances)
    assert found.seed == pytest.approx(0.0)
    assert (found.num_folds, found.num_seeds) == (5, 2)


def test_a_gain_over_folds_counts_folds_and_seeds_apart():
    rng = np.random.default_rng(5)
    influence = np.zeros((10, NUM_TEST))
    for run in range(10):
        influence[run, run % 5 * 60 : run % 5 * 60 + 60] = 5 * rng.normal(size=60)
    found = gain_of(Evidence(rng.normal(0.3, 0.02, size=10), influence, layout(seeds=2)))
    assert (found.num_seeds, found.num_folds, found.num_test) == (2, 5, NUM_TEST)
    assert found.verdict == "gain"
    assert found.p_value < 0.01
    alone = gain_of_values([0.5, 0.7, 0.6], [0.4, 0.5, 0.6], num_test=90, layout=Layout((0, 1, 2), (0, 0, 0), 0.5))
    assert (alone.num_folds, alone.covers_examples) == (3, False)
    assert alone.standard_error == pytest.approx(0.1 * math.sqrt(1 / 3 + 0.5))


def add(study: Study, arm: str, fold: int, seed: int = 0, folds: int = 5, **more):
    """A run that was tested on its fold of the study's examples."""
    own = slice(fold * 60, fold * 60 + 60)
    part = Study(study.folder, 60)
    part.labels, part.ids, part.records = study.labels[own], study.ids[own], study.records
    config = {"target": {"data": {"folds": folds, "fold": fold}, "budget": {"max_epochs": 4}}}
    data = {"fold": fold, "folds": folds, "num_train": 216, "num_val": 24, "subset_hash": f"{fold}"}
    return part.add(arm, seed, None, config=config, data=data, texts=True, validation=[0.6, 0.7], **more)


@pytest.fixture
def crossed(study):
    for fold in range(5):
        for arm in ("transfer", "scratch"):
            add(study, arm, fold)
    return study


def printed(comparison) -> str:
    console = Console(width=120, file=io.StringIO(), color_system=None)
    print_table(comparison, console)
    return console.file.getvalue()


def test_twins_are_those_of_one_fold(crossed):
    comparison = compare(crossed.records)
    row = next(row for row in comparison.rows if row.arm == "transfer")
    (contrast,) = row.over_scratch
    assert [side.run.fold for side in contrast.treated] == [side.run.fold for side in contrast.control] == [*range(5)]
    assert (contrast.gain.num_seeds, contrast.gain.num_folds, contrast.gain.num_test) == (1, 5, 300)
    by_fold = np.array(contrast.gain.per_seed)
    assert contrast.gain.high - contrast.gain.estimate == pytest.approx(
        2.7764 * math.sqrt((1 / 5 + 60 / 216) * by_fold.var(ddof=1)), rel=1e-4
    )
    assert not comparison.refused


def test_a_fold_without_its_twin_is_refused_by_its_name(study):
    for fold in range(5):
        add(study, "transfer", fold)
    for fold in (0, 1, 2):
        add(study, "scratch", fold)
    comparison = compare(study.records)
    assert "target.data.fold=3" in comparison.refused[0]
    row = next(row for row in comparison.rows if row.arm == "transfer")
    assert row.over_scratch[0].gain.num_folds == 3
    assert any("arm=scratch" in line and "target.data.fold=3" in line for line in row.missing)
    again = next(line for line in comparison.next_commands if line.startswith("transfer run -m"))
    assert again.endswith("target.data.folds=5 target.data.fold=3,4")
    assert "arm=scratch" in again


def test_missing_folds_are_said(study):
    for fold in (0, 1, 3):
        for arm in ("transfer", "scratch"):
            add(study, arm, fold)
    assert "Its cross-validation lacks fold 2 and 4 of 5." in printed(compare(study.records))


def test_folds_are_called_folds(crossed, tmp_path):
    comparison = compare(crossed.records)
    text = printed(comparison)
    assert "5 folds, 300 test examples; what the one seed does alike in all folds" in text.replace("\n", " ")
    assert "standard deviation over folds" in text.replace("\n", " ")
    paths = write_all(comparison, tmp_path / "report")
    page = paths[0].read_text()
    assert "single folds" in page
    assert "seeds needed" not in page
    assert "5 seeds" not in page
    runs = next(path for path in paths if path.name == "runs.csv").read_text().splitlines()
    fold = runs[0].split(",").index("fold")
    assert [line.split(",")[fold] for line in runs[1:6]] == list("01234")
    assert "target.data.folds=5 target.data.fold=4" in runs[5]


def test_seeds_and_folds_are_both_counted(crossed):
    for fold in range(5):
        for arm in ("transfer", "scratch"):
            add(crossed, arm, fold, seed=1)
    comparison = compare(crossed.records)
    text = printed(comparison)
    assert "2 seeds x 5 folds" in text.replace("\n", " ")
    assert "the one seed" not in text.replace("\n", " ")
    row = next(row for row in comparison.rows if row.arm == "transfer")
    assert row.over_scratch[0].gain.num_test == 300


def test_the_examples_of_all_folds_are_looked_at(crossed):
    found = details.build(compare(crossed.records))
    ((_, _, change),) = found.changes
    assert change.num_test == 300
    assert change.num_fixed > change.num_broken > 0
    assert sum(table.counts.sum() for _, table in found.confusions) == 2 * 300
    (opinion,) = details.opinions(compare(crossed.records))
    assert opinion.low < 0.2 < opinion.high


def test_a_cross_validation_is_another_strategy_than_one_split(crossed):
    crossed.add("transfer", 0, None)
    crossed.add("scratch", 0, None)
    comparison = compare(crossed.records)
    labels = {row.label for row in comparison.rows if row.arm == "transfer"}
    assert labels == {"transfer from movies (target.data.folds=None)", "transfer from movies (target.data.folds=5)"}
    assert all(len(row.over_scratch) == 1 for row in comparison.rows if row.arm == "transfer")
    assert "5 folds" in printed(comparison)


def test_predictions_of_another_fold_are_refused(crossed):
    first = next(record for record in crossed.records if record["arm"] == "scratch")
    table = parquet.read_table(f"{first['_folder']}/predictions.parquet")
    shifted = table.set_column(0, "id", pa.array([f"example-{i + 60:05d}" for i in range(60)]))
    parquet.write_table(shifted, f"{first['_folder']}/predictions.parquet")
    comparison = compare(crossed.records)
    assert any("fold 0: the test examples differ" in line for line in comparison.refused)
