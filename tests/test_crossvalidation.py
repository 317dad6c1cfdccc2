"""`sweep=cross_validation` on the command line: every row tested once, by all arms in the same fold; then compared."""

import csv
import shlex

import pytest

from tests.running import cli, write_csv
from transfer import records
from transfer.compose import compose
from transfer.plan import make
from transfer.sweep import ledger as ledgers

LINE = ["experiment=linear_drift", "trainer=cpu", "trainer.precision=32", "logger=none"]
SHORT = ["scratch.max_epochs=2", "scratch.min_steps=0", "target.budget.max_epochs=1", "source.budget.max_epochs=1"]
ALL_ROWS = ["target.data.train_size=null", "target.budget.batch_size=96"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Three folds of all rows, two arms."""
    folder = tmp_path_factory.mktemp("folds") / "outputs"
    axes = ["sweep=[arms,cross_validation]", "arm=transfer,scratch", "target.data.folds=3"]
    outcome = cli("run", "-m", *LINE, *SHORT, *ALL_ROWS, *axes, f"output_dir={folder}")
    assert outcome.code == 0, outcome.err
    assert "fold=2 of folds=3" in outcome.err
    return folder


@pytest.fixture(scope="module")
def runs(outputs):
    return [record for record in records.find(outputs) if record["arm"]]


def test_all_folds_are_run_by_every_arm_from_one_source(outputs, runs):
    jobs = sorted((record["arm"], record["data"]["fold"], record["data"]["folds"]) for record in runs)
    assert jobs == [(arm, fold, 3) for arm in ("scratch", "transfer") for fold in range(3)]
    assert sum(record["stage"] == "pretrain" for record in records.find(outputs)) == 1
    (name,) = ledgers.names(outputs)
    assert ledgers.read(outputs, name).counts() == {"complete": 6}


def test_every_row_is_tested_once_and_every_arm_has_the_same_folds(runs):
    import pyarrow.parquet as pq

    tested = {}
    for record in runs:
        table = pq.read_table(f"{record['_folder']}/predictions.parquet", columns=["id"])
        tested[record["arm"], record["data"]["fold"]] = set(table["id"].to_pylist())
    for arm in ("transfer", "scratch"):
        folds = [tested[arm, fold] for fold in range(3)]
        assert sum(map(len, folds)) == len(set.union(*folds)) == 400
        assert folds == [tested["scratch", fold] for fold in range(3)]
    hashes = {(record["data"]["fold"], record["data"]["subset_hash"]) for record in runs}
    assert len(hashes) == 3
    assert len({record["data"]["fingerprint"] for record in runs}) == 1


def test_every_fold_has_its_own_floors(runs):
    floors = {(record["data"]["fold"], record["metrics"]["floor_linear/mse"]) for record in runs}
    assert len(floors) == len({value for _, value in floors}) == 3


def test_the_comparison_is_over_folds_and_names_the_command_of_each(outputs, runs, tmp_path):
    outcome = cli("compare", "linear_drift", "--output-dir", outputs, "--to", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "3 folds, 400 test examples" in " ".join(outcome.out.split())
    with open(tmp_path / "pairs.csv", newline="", encoding="utf-8") as file:
        (pair,) = csv.DictReader(file)
    assert (pair["folds"], pair["num_test"]) == ("0; 1; 2", "400")
    with open(tmp_path / "runs.csv", newline="", encoding="utf-8") as file:
        commands = [row["command"] for row in csv.DictReader(file) if row["command"]]
    own = next(command for command in commands if "arm=scratch" in command and "target.data.fold=1 " in command)
    overrides = [word for word in shlex.split(own)[2:] if not word.startswith("sweep=")]
    (record,) = [r for r in runs if (r["arm"], r["data"]["fold"]) == ("scratch", 1)]
    assert make(compose(overrides)).fingerprint == record["fingerprint"]


def test_lists_say_the_fold(outputs, runs):
    assert "  fold  " in cli("runs", "--output-dir", outputs).out
    shown = cli("show", "--output-dir", outputs, runs[0]["run_id"])
    assert f"fold {runs[0]['data']['fold']} of folds=3" in shown.out


def test_folds_are_no_part_of_the_identity_of_other_runs():
    plain = make(compose(LINE))
    folds = [make(compose([*LINE, "target.data.folds=5", f"target.data.fold={fold}"])) for fold in (0, 1)]
    assert len({plain.fingerprint, *(plan.fingerprint for plan in folds)}) == 3
    assert {plan.parent.fingerprint for plan in (plain, *folds) if plan.parent} == {plain.parent.fingerprint}


def test_a_vocabulary_from_the_target_belongs_to_its_fold(tmp_path):
    rows = [{"text": f"word{i} text", "label": "ab"[i % 2]} for i in range(40)]
    path = write_csv(tmp_path / "rows.csv", rows)
    texts = ["model=lstm", f"source.data.path={path}", f"target.data.path={path}", "model.vocabulary.texts=target"]
    parents = [make(compose([*texts, "target.data.folds=4", f"target.data.fold={fold}"])).parent for fold in (0, 1)]
    assert len({parent.fingerprint for parent in parents if parent}) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["target.data.folds=5"], "0 to 4: which fold"),
        (["target.data.folds=5", "target.data.fold=5"], "sweep=cross_validation runs all folds"),
        (["target.data.folds=5", "target.data.fold=-1"], "0 to 4"),
        (["target.data.folds=1", "target.data.fold=0"], "at least 2"),
        (["target.data.fold=0"], "null without target.data.folds"),
        (["target.data.folds=500", "target.data.fold=0"], "2 to 400, the rows"),
        (["source.data.folds=5", "source.data.fold=0"], "the source is trained once"),
        (["target.data.folds=5", "target.data.fold=0", "target.data.test_size=10"], "every row is tested in its fold"),
        (["target.data.folds=5", "target.data.fold=0", "target.data.files.test=x.csv"], "put all rows into one file"),
        (["sweep=[optuna,cross_validation]", "optimizer.lr=interval(1e-4,1e-3)"], "a fold is not searched"),
    ],
)
def test_mistakes_are_said_and_end_with_2(tmp_path, overrides, words):
    outcome = cli("run", *LINE, "arm=scratch", f"output_dir={tmp_path}", *overrides)
    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert "Traceback" not in outcome.err
