"""The wheel, unpacked where nothing of the checkout is: it brings its configs and data, and runs."""

import importlib.util
import os
import subprocess
import sys
import zipfile

import pytest

from tests.running import QUICK, TINY_BERT, process, record_of
from transfer.paths import PACKAGE

CHECKOUT = PACKAGE.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the content of the wheel."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("the tests do not run from a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *here, "--outdir", str(folder), str(CHECKOUT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if built.returncode and not here:
        pytest.skip(f"no hatchling, and it could not be had: {(built.stdout + built.stderr).splitlines()[-1]}")
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def elsewhere(site, tmp_path):
    """(arguments) -> the installed program's result, started in an empty folder."""

    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        return process(*arguments, cwd=tmp_path, env=environment)

    return start


def test_it_holds_configs_experiments_and_data(site):
    for folder in ("conf", "experiments"):
        ours = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / folder).rglob("*.yaml")}
        theirs = {str(path.relative_to(site / "transfer")) for path in (site / "transfer" / folder).rglob("*.yaml")}
        assert theirs == ours
    ours = {path.name for path in (PACKAGE / "data" / "embedded").iterdir() if path.is_file()}
    assert {path.name for path in (site / "transfer" / "data" / "embedded").iterdir()} == ours
    assert not list(site.rglob("test_*.py"))
    assert not list(site.rglob("*.pyc"))


def test_it_lists_its_experiments(elsewhere, site):
    done = elsewhere("list")
    assert done.returncode == 0, done.stderr
    assert "movies_to_products" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import transfer; print(transfer.__file__)"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        cwd=site.parent,
    )
    assert where.stdout.strip() == str(site / "transfer" / "__init__.py"), "it is the wheel that is tested"


def test_it_runs_in_an_empty_folder(elsewhere, tmp_path):
    short = ["experiment=movies_to_products", "stage=scratch", "target.data.train_size=16", "target.data.test_size=32"]
    done = elsewhere("run", *QUICK, *TINY_BERT, *short, "target.data.validation_size=16", "scratch.max_epochs=1")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "movies_to_products"
    assert record_of(str(tmp_path / done.stdout.split()[-1]))["status"] == "complete"
    assert [path.parent for path in folder.glob("*/record.json")] == list(folder.glob("scratch-*"))
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
