"""The configs of a sweep's jobs are those that Hydra composes for each of them alone."""

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode

from transfer.compose import compose, register
from transfer.config import to_plain
from transfer.paths import shipped
from transfer.sweep.composer import Composer

# One job after another, as in a sweep: nothing of a job may be left in the next one.
JOBS = [
    ["seed=3", "optimizer.lr=1"],
    ["seed=12", "optimizer.lr=1e-4"],
    ["seed=3", "init_seed=7", "arm=scratch"],
    ["experiment=linear_drift", "seed=4", "target.data.train_size=16"],
    ["experiment=linear_drift", "seed=5", "target.data.train_size=null"],
    ["freezing=gradual", "seed=1", "freezing.patterns=[a,b]"],
    ["freezing=gradual", "seed=2"],
    ["freezing.k=2", "target.task={max_length:7}"],
    ["++target.data.label_map={a: x}", "seed=2"],
    ["++target.data.label_map={b: y}", "seed=2"],
    ["model=lstm", "++model.config.hidden_size=8", "seed=6"],
    ["model=lstm", "++model.config.hidden_size=16", "subset_seed=${source.seed}"],
    ["experiment_name=name_${seed}", "seed=8"],
    ["experiment_name='1e3'", "floors=no", "scratch.lr=2"],
]


@pytest.fixture
def composer():
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        yield Composer(HydraContext(loader, callbacks=None), master, OverridesParser.create(config_loader=loader))


def test_each_job_gets_the_config_that_hydra_composes_for_it_alone(composer):
    found = [to_plain(composer.config(overrides)) for overrides in JOBS]
    for overrides, ours in zip(JOBS, found, strict=True):
        assert ours == to_plain(compose(overrides)), overrides


def test_jobs_share_nothing_that_one_could_change(composer):
    first = composer.config(["freezing.patterns=[a]", "seed=1"])
    first.freezing.patterns.append("b")
    first.model.config["hidden_size"] = 1
    assert composer.config(["freezing.patterns=[a]", "seed=1"]).freezing.patterns == ["a"]
    assert composer.config(["seed=1"]).model.config == compose(["seed=1"]).model.config
