"""`transfer auto` on tiny models: what it decides, on what it decides, and that a kill changes nothing."""

import json
import time

import pytest

from tests.running import LSTM, QUICK, cli, reviews, start
from transfer import records
from transfer.choose import auto, auto_table, strategies
from transfer.choose.search import Budget, Search, Tried, order
from transfer.choose.strategies import Strategy
from transfer.errors import UserError

SETTINGS = [*QUICK, *LSTM, "source.budget.max_epochs=1", "target.budget.max_epochs=1", "scratch.max_epochs=1"]
SEEDS = 2


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "experiments").mkdir()
    for seed, name in enumerate(("first", "second", "target")):
        path = reviews(tmp_path / f"{name}.csv", num=60, seed=seed)
        (tmp_path / "conf" / "data" / f"{name}.yaml").write_text(f"name: {name}\npath: {path}\n")
    (tmp_path / "experiments" / "pets.yaml").write_text(
        "# @package _global_\n# Which one?\ndefaults:\n  - override /data@source.data: first\n"
        "  - override /data@target.data: target\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(output, *more):
    named = ["--sources", "first", "second", "nowhere", "--seeds", SEEDS, "--output-dir", output]
    return ["auto", "pets", *named, *SETTINGS, *more]


def told(place, output):
    return json.loads((place / output / "pets_auto" / "auto.json").read_text())


def metrics(place, output):
    return {each["run_id"]: each["metrics"] for each in records.find(place / output)}


@pytest.mark.cluster
def test_the_search_and_the_same_after_a_kill(place):
    settings = "--runs", 14
    done = cli(*words("whole", *settings))
    assert done.code == 0, done.err
    about = told(place, "whole")
    stages = {
        stage: [decision for name, _, decision in about["steps"] if name == stage] for stage, _, _ in about["steps"]
    }
    assert {*stages} == {"sources", "probe", "partly", "all", "seeds", "final"}
    assert any("left out" in each for each in stages["probe"]), "nowhere is no source"
    assert sum(each.startswith("stays") for each in stages["probe"]) == 2
    assert any(each.startswith("out: at best") for each in stages["partly"]), "half of the starts go"
    assert [each.startswith("wins") for each in stages["seeds"]].count(True) == 1
    assert about["winner"] in {each["strategy"] for each in about["tried"]}
    assert any(about_.startswith("scratch") for _, about_, _ in about["steps"])
    # What chose was not tested, and what was tested chose nothing.
    found = [each for each in records.find(place / "whole") if each["arm"]]
    tested = {each["run_id"] for each in found if records.tested(each)}
    assert tested == set(about["finals"])
    assert {each["seed"] for each in found if each["run_id"] in tested} == {1000, 1001}
    assert {each["arm"] for each in found if each["run_id"] in tested} >= {"scratch"}
    assert about["num_runs"] == len(records.find(place / "whole"))
    assert "was chosen, on the validation split alone" in done.out
    assert "experiment=pets " in done.out.split("Next")[1], "the next command is one that can be typed"
    assert (place / "whole" / "pets_auto" / "report.html").is_file()

    again = cli(*words("whole", *settings))
    assert again.code == 0
    assert told(place, "whole") == about
    assert "is complete: nothing to train" in again.err

    process = start(*words("killed", *settings))
    while len(records.find(place / "killed")) < 6 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert 6 <= len(records.find(place / "killed")) < about["num_runs"]
    assert cli(*words("killed", *settings)).code == 0
    now = told(place, "killed")
    assert (now["winner"], now["steps"], now["finals"]) == (about["winner"], about["steps"], about["finals"])
    assert metrics(place, "killed") == metrics(place, "whole")


def test_a_small_budget_ends_the_search_and_leaves_enough_for_the_last_runs(place):
    done = cli(*words("few", "--runs", 6, "--seeds", 1))
    assert done.code == 0, done.err
    about = told(place, "few")
    assert about["num_runs"] <= 6
    assert len(about["finals"]) == 2
    assert any(decision.startswith("not tried") for _, _, decision in about["steps"])


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (["--runs", 3], "--runs"),
        (["--budget", "soon"], "--budget"),
        (["--budget", "0m"], "--budget"),
        (["target.data.train_size=100000"], "target.data.train_size"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_the_users_mistake(place, more, key):
    done = cli(*words("wrong", *more))
    assert done.code == 2
    assert key in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("20", 20), (None, float("inf"))]
)
def test_times(text, seconds):
    assert auto_table.budget_of(text, 5) == Budget(seconds, 5)


def tried(name, *values, seconds=1.0):
    way = strategies.Way(name, (name,))
    return Tried(Strategy(None, way), dict(enumerate(values)), seconds)


def test_of_equals_the_one_that_was_tried_first_comes_first():
    first, second, better = tried("first", 0.5, seconds=9), tried("second", 0.5), tried("better", 0.6, seconds=50)
    assert order([first, second, better]) == [better, first, second]


def test_time_is_kept_for_the_last_runs():
    search = Search("x", [], Budget(seconds=100), None, num_seeds=3)
    assert search.allows(), "nothing is known yet"
    search.tried, search.scratch_s = [tried("one", 0.5, seconds=10)], 20.0
    search.spent_s = 19
    assert search.allows(), "19, 4 runs of 10 s, and 2 more from scratch"
    search.spent_s = 21
    assert not search.allows()
    search = Search("x", [], Budget(runs=10), None, num_seeds=3)
    search.num_runs = 4
    assert search.allows(), "one more, and 5 of the last 6, of which one is done"
    search.num_runs = 5
    assert not search.allows()


def test_a_strategy_is_what_run_is_told():
    start_ = type(
        "Start", (), {"words": ("data@source.data=a", "arm=transfer,scratch"), "key": "source:1", "name": "a"}
    )
    (one,) = strategies.of([start_], [strategies.HEAD])
    assert one.words(2e-4) == [
        *["data@source.data=a", "arm=transfer", "freezing=head_only", "adaptation=none", "optimizer.lr=0.002"]
    ]
    assert Strategy(None).words(1.0) == ["arm=scratch"]
    assert [each.name for each in strategies.of([start_], [strategies.FULL], strategies.RATES)] == [
        "a, all",
        "a, all, lr x 3",
    ]


def test_nothing_to_choose_by():
    search = Search("x", [], Budget(seconds=1), None, num_seeds=3)
    with pytest.raises(UserError, match="--budget"):
        auto._finish(search, 1.0)
    search.say("partly", "first", "left out: it cannot be read")
    with pytest.raises(UserError, match=r"--sources(.|\n)*it cannot be read"):
        auto._finish(search, 1.0)


@pytest.mark.parametrize(("values", "winner"), [((0.8, 0.6), "scratch"), ((0.6, 0.8), "a, head")], ids=str)
def test_scratch_wins_where_it_validates_better_with_the_last_seeds(monkeypatch, tmp_path, values, winner):
    """What is tested chooses nothing: the tests say the opposite here."""

    def train(self, words, seed, *, test=False):
        assert test
        of_scratch = "arm=scratch" in words
        best = values[0] if of_scratch else values[1]
        monitor = {"name": "val/accuracy", "mode": "max", "best": best + 0.01 * (seed % 2)}
        metrics = {"test/accuracy": 1 - best}
        arm = "scratch" if of_scratch else "transfer"
        return {"monitor": monitor, "metrics": metrics, "seed": seed, "arm": arm, "time": {"wall_s": 1}, "run_id": arm}

    monkeypatch.setattr(Search, "train", train)
    search = Search("x", [], Budget(), tmp_path, num_seeds=2)
    start_ = type("Start", (), {"words": ("init=a", "arm=transfer,scratch"), "key": "source:1", "name": "a"})
    (strategy,) = strategies.of([start_], [strategies.HEAD])
    search.folder.mkdir()
    search.winner = Tried(strategy, {0: 0.5})
    search.tried = [search.winner]
    auto._finish(search, 1.0)
    assert json.loads((search.folder / "auto.json").read_text())["winner"] == winner
    assert [each["arm"] for each in search.finals] == ["transfer"] * 2 + ["scratch"] * 2
