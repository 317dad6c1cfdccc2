"""A source before the source: runs of runs, each trained once."""

import pytest

from tests.running import LSTM, cli, reviews, run
from transfer import plan as planning
from transfer.compose import compose

BEFORE = ["+data@source.before.data=csv", "+task@source.before.task=causal_lm", "source.before.data.columns.label=null"]


@pytest.fixture
def overrides(tmp_path):
    first, second, target = (reviews(tmp_path / f"{name}.csv", seed=i) for i, name in enumerate("abc"))
    return [
        *[*LSTM, "model.config.bidirectional=false", *BEFORE, f"source.before.data.path={first}"],
        *["source.before.budget.max_epochs=1", "data@source.data=csv", f"source.data.path={second}"],
        *["source.budget.max_epochs=1", f"target.data.path={target}", "target.budget.max_epochs=1"],
        f"output_dir={tmp_path / 'outputs'}",
    ]


def test_the_sources_are_trained_in_their_order_and_once(overrides, tmp_path, caplog):
    with caplog.at_level("INFO", logger="transfer"):
        record = run(*overrides)
    assert record["source"] == "a then b"
    assert "the head is new: the source's task is causal_lm" in caplog.text
    second = run(*overrides, "stage=pretrain")
    assert record["parents"] == [{"run_id": second["run_id"], "fingerprint": second["fingerprint"]}]
    (first,) = second["parents"]
    (folder,) = (tmp_path / "outputs").glob(f"*/{first['run_id']}")
    assert folder.parent.name == "a_to_c"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").rglob("record.json")}
    assert len(before) == 3
    again = run(*overrides, "target.data.train_size=20")
    assert again["parents"] == record["parents"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "nothing is trained twice"
    assert second["weights"]["fraction_loaded"] == 1


def test_every_source_is_checked(overrides):
    outcome = cli("run", *overrides, "source.before.budget.max_epochs=0", "source.init=random", "logger=none")
    assert outcome.code == 2
    assert {line for line in outcome.err.splitlines() if line.startswith("source")} == {
        "source.init",
        "source.before.budget.max_epochs",
    }
    outcome = cli("run", *overrides, "source.before.budget.epochs=3", "logger=none")
    assert outcome.code == 2
    assert "max_epochs" in outcome.err


def test_a_source_alone_has_the_fingerprint_that_it_had(overrides):
    plans = [planning.make(compose([*overrides, "source.before=null", *more])) for more in ([], ["stage=pretrain"])]
    assert plans[0].parent.fingerprint == plans[1].fingerprint
    assert plans[1].parent is None
    assert "before" not in str(planning.identity(plans[1]))
