"""The data set and the task that CONTRIBUTING.md shows: what it shows is all that it takes."""

import pytest
import yaml

from tests.documented import PAGES, blocks
from tests.documented_files import hotels, shown
from tests.running import QUICK, TINY_BERT, cli
from transfer import plan, records, tasks
from transfer.compose import compose
from transfer.errors import UserError
from transfer.validation import validate

SHOWN = {"conf/data/hotels.yaml", "tasks/ordinal.py", "conf/task/ordinal.yaml"}
WORDS = ["data@target.data=hotels", "task@target.task=ordinal", *TINY_BERT, *QUICK[:3], "target.budget.max_epochs=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that are shown."""
    monkeypatch.chdir(tmp_path)
    assert {*shown(tmp_path)} >= SHOWN
    hotels(tmp_path / "hotels.csv")
    return tmp_path


def fingerprint():
    return plan.make(compose([*WORDS, "arm=scratch"])).fingerprint


def test_they_run_to_a_comparison(folder):
    source = ["data@source.data=csv", "source.data.path=hotels.csv", "source.data.columns.text=review"]
    source += ["source.data.columns.label=hotel", "source.budget.max_epochs=1", "scratch.max_epochs=2"]
    outcome = cli("run", "-m", *WORDS, *source, "arm=transfer,scratch", "seed=0,1")
    assert outcome.code == 0, outcome.err
    found = [record for record in records.find("outputs", "hotels_to_hotels") if record["arm"]]
    assert len(found) == 4
    for record in found:
        assert (record["task"], record["target"], record["status"]) == ("ordinal", "hotels", "complete")
        floors = {"floor_majority/mae", "floor_tfidf/mae", "floor_tfidf/accuracy"}
        assert {"val/mae", "test/mae", "test/accuracy", *floors} <= {*record["metrics"]}
        assert record["monitor"]["mode"] == "min"
    compared = cli("compare", "hotels_to_hotels")
    assert compared.code == 0, compared.err
    assert "mean absolute error" in compared.out
    assert "TF-IDF floor" in compared.out
    assert "cannot be computed" not in compared.out, "its interval covers the test examples too"
    answered = cli("predict", found[0]["run_id"], "--input", "hotels.csv", "--output", "answers.csv")
    assert answered.code == 0, answered.err
    assert (folder / "answers.csv").read_text().count("\n") == 101


def test_a_task_that_is_changed_is_trained_anew(folder):
    before = fingerprint()
    assert fingerprint() == before
    module = folder / "tasks" / "ordinal.py"
    module.write_text(module.read_text().replace("mean", "middle") + "\n")
    assert fingerprint() != before


def test_the_users_mistakes(folder, monkeypatch):
    (folder / "tasks" / "regression.py").write_text((folder / "tasks" / "ordinal.py").read_text())
    with pytest.raises(UserError, match="one task of a name"):
        validate(compose([*WORDS[2:], "target.data.path=hotels.csv", "task@target.task=regression"]))
    monkeypatch.chdir(folder / "conf")
    settings = compose(["task@target.task=regression"]).target.task
    settings.name = "ordinal"
    with pytest.raises(UserError, match=r"your own is tasks/ordinal\.py"):
        tasks.make(settings, [], key="target.task")


def test_they_stay_short():
    (page,) = (page for page in PAGES if page.name == "CONTRIBUTING.md")
    for block in blocks(page):
        code = [line for line in block.text.splitlines() if line.strip()]
        assert len(code) <= 40
        if block.language == "yaml":
            assert yaml.safe_load(block.text)
