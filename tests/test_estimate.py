"""`transfer run --estimate`: what is counted is what a sweep would do, and nothing is left of it."""

import re

import pytest

from tests.running import QUICK, TINY_BERT, cli, files_below, reviews
from transfer import estimate, measuring, records
from transfer.compose import ahead
from transfer.config import Budget, Freezing
from transfer.measuring import Measured

BUDGETS = ["source.budget.max_epochs=2", "source.budget.batch_size=16", "target.budget.max_epochs=3"]


@pytest.fixture
def line(tmp_path, monkeypatch):
    """Overrides of a small sweep, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    source, target = reviews(tmp_path / "source.csv", seed=1), reviews(tmp_path / "target.csv", num=80, seed=2)
    data = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]
    return [*QUICK, *TINY_BERT, *data, *BUDGETS, "output_dir=outputs"]


def rows(out):
    """First words of the table's rows -> the whole row."""
    found = {}
    for row in out.splitlines():
        if match := re.match(r"(source \S+|transfer|direct|scratch)\s+(\S.*)", row):
            found.setdefault(match[1], []).append(match[2].split())
    return found


def test_a_sweep_is_measured_and_leaves_nothing(line, tmp_path):
    before = files_below(tmp_path)
    outcome = cli("run", "-m", *line, "arm=transfer,scratch", "seed=0,1", "--estimate")
    assert outcome.code == 0, outcome.err
    assert files_below(tmp_path) == before
    # Of 60 and 80 rows 42 and 56 are trained on, in batches of 16.
    assert {name: [row[:2] for row in of_name] for name, of_name in rows(outcome.out).items()} == {
        "source source": [["1", "6"]],
        "transfer": [["2", "12"]],
        "scratch": [["2", "8"]],
    }
    assert re.search(r"In all +\d", outcome.out)


def test_what_is_complete_is_left_out_and_what_is_shared_counts_once(line):
    axes = ["-m", "arm=transfer,scratch", "freezing=none,head_only", "seed=0,1"]

    def left():
        found = [plan.arm or plan.stage for plan in estimate.pending(ahead([*line, *axes]).plans)]
        return {name: found.count(name) for name in found}

    # The scratch arm freezes nothing, so that its jobs are the same run for each policy.
    assert left() == {"transfer": 4, "pretrain": 1, "scratch": 2}
    assert cli("run", *line, "stage=pretrain").code == 0
    assert left() == {"transfer": 4, "scratch": 2}
    assert cli("run", *line, "arm=scratch").code == 0
    assert left() == {"transfer": 4, "scratch": 1}
    outcome = cli("run", *line, "arm=scratch", "--estimate")
    assert (outcome.code, outcome.out) == (0, "1 of 1 jobs are complete and left out\n")
    again = ahead([*line, "arm=scratch", "force=true"]).plans
    assert [plan.arm for plan in estimate.pending(again)] == ["scratch"]


def test_a_search_is_counted_by_its_trials(line, tmp_path):
    space = [
        "sweep=optuna",
        "optimizer.lr=interval(1e-4,1e-3)",
        "hydra.sweeper.num_trials=3",
        "seed=0,1",
        "arm=scratch",
    ]
    found = ahead([*line, *space])
    assert [plan.seed for plan in found.plans] == [0, 1] * 3
    assert len({plan.fingerprint for plan in found.plans}) == 6
    assert {plan.config.test for plan in found.plans} == {False}
    assert "none is pruned" in found.notes[0]
    assert not (tmp_path / "outputs").exists()


def test_kinds(line):
    """What changes no step makes no further kind."""
    same = ahead([*line, "-m", "arm=scratch", "seed=0,1", "target.data.train_size=10,20", "scratch.lr=1e-3,1e-4"])
    assert len(estimate.pending(same.plans)) == 8
    assert len({estimate.kind_of(plan) for plan in same.plans}) == 1
    other = ahead([*line, "-m", "arm=scratch", "target.budget.batch_size=8,16", "model.config.num_hidden_layers=1,2"])
    assert len({estimate.kind_of(plan) for plan in other.plans}) == 4


def test_the_users_mistake(line):
    outcome = cli("run", *line, "arm=scratch", "freezing.policy=luck", "--estimate")
    assert outcome.code == 2
    assert "freezing.policy" in outcome.err
    outcome = cli("run", "-m", *line, "arm=scratch", "target.data.train_size=10,100000", "--estimate")
    assert outcome.code == 2
    assert "train_size" in outcome.err
    outcome = cli("run", *line, "--cfg", "job", "--estimate")
    assert outcome.code == 2
    assert "--estimate" in outcome.err


def measured(**changes):
    nothing = dict.fromkeys(Measured.__dataclass_fields__, 0.0)
    return Measured(**nothing | {"phases": [(0.0, 1.0)], "num_train": 100, "num_batches": 10} | changes)


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [
        ({"max_epochs": 4}, (4, 4)),
        ({"max_epochs": 60, "patience": 8, "min_steps": 150}, (15 + 8, 60)),
        ({"max_epochs": 10, "patience": 5}, (6, 10)),
        ({"max_epochs": 5, "patience": 5}, (5, 5)),
    ],
)
def test_how_long_a_run_may_be(run_plan, budget, epochs):
    plan = run_plan(budget=Budget(**budget))
    steps, seconds = estimate.run_takes(plan, measured(step_s=0.5, validation_s=2.0, test_s=3.0, overhead_s=1.0))
    assert (steps.least, steps.most) == tuple(10 * number for number in epochs)
    assert (seconds.least, seconds.most) == tuple(number * (10 * 0.5 + 2) + 4 for number in epochs)


def test_steps_of_layers_that_wake(run_plan):
    plan = run_plan(budget=Budget(max_epochs=4), freezing=Freezing("gradual"))
    _, seconds = estimate.run_takes(plan, measured(step_s=1.0, phases=[(0.0, 0.2), (1.0, 0.5), (2.0, 1.0)]))
    assert seconds.most == pytest.approx(10 * (0.2 + 0.5 + 1.0 + 1.0))


def test_a_measured_run_is_what_it_stands_for(line, tmp_path):
    """The steps of an epoch, the splits and the folder are those of the run itself."""
    (plan,) = ahead([*line, "arm=scratch", "test=true"]).plans
    found = measuring.measure(plan, None, tmp_path / "measured")
    record = records.read(tmp_path / "measured")
    assert (found.num_batches, found.num_train) == (4, 56)
    assert min(found.step_s, found.validation_s, found.test_s, found.overhead_s) > 0
    assert record["throughput"]["train_flops"] > 0
    assert (tmp_path / "measured" / "model" / "config.json").is_file()
    weights = sum(path.stat().st_size for path in (tmp_path / "measured" / "model").iterdir())
    assert weights < found.disk_bytes < 2 * weights + 100_000
    assert found.checkpoint_bytes > weights
    assert found.peak_bytes > 50e6
