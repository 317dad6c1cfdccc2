"""The data of every named experiment have as many rows as it asks for: in the package, or in $TRANSFER_DATA."""

import os
from pathlib import Path

import pytest

from transfer import legs, mixture, paths
from transfer import plan as planning
from transfer.compose import compose

ROOT = os.environ.get("TRANSFER_DATA")
NAMES = sorted(file.stem for file in paths.shipped("experiments").glob("*.yaml"))


def plans(name):
    """The experiment's target run, its sources, and their further data sets."""
    plan = planning.make(compose([f"experiment={name}"]))
    while plan is not None:
        yield plan
        yield from mixture.further(plan).values()
        plan = plan.parent


def folders(name):
    config = compose([f"experiment={name}"])
    sources = [data for _, data, _ in mixture.data_sets(config.source)] if planning.has_data(config.source.data) else []
    return {data.local for data in (*sources, config.target.data) if data.local}


def is_here(name):
    """With the folder of local copies, all but what comes from the hub alone; without it, everything, to be skipped."""
    return not ROOT or all((Path(ROOT) / folder).exists() for folder in folders(name))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Files that several experiments read are parsed once."""
    return tmp_path_factory.mktemp("rows")


@pytest.mark.parametrize("name", [name for name in NAMES if is_here(name)])
def test_there_are_as_many_rows(name, shared, monkeypatch):
    if not ROOT and folders(name):
        pytest.skip(f"needs $TRANSFER_DATA with {', '.join(sorted(folders(name)))}")
    monkeypatch.setenv("TRANSFER_CACHE", str(shared))
    for plan in plans(name):
        leg = legs.load(plan)
        assert plan.data.train_size in (None, len(leg.train))
        assert len(leg.splits.validation)
        assert len(leg.splits.test)
