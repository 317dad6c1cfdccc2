"""What is searched, in Hydra's sweep syntax, and the settings of a search."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from transfer.errors import UserError
from transfer.sweep import space, storage
from transfer.sweep.settings import Settings

LR = "scratch.lr=tag(log,interval(1e-3,10))"


SPACES = {
    "optimizer.lr=interval(0.1,2)": FloatDistribution(0.1, 2.0),
    "optimizer.lr=tag(log,interval(1e-5,1e-2))": FloatDistribution(1e-5, 1e-2, log=True),
    "target.budget.batch_size=int(interval(4,64))": IntDistribution(4, 64),
    "target.budget.batch_size=int(tag(log,interval(4,64)))": IntDistribution(4, 64, log=True),
    "freezing.k=range(1,8,2)": IntDistribution(1, 7, step=2),
    "weights.min_fraction_loaded=range(0.1,0.5,0.1)": FloatDistribution(0.1, 0.4, step=0.1),
    "optimizer=adamw,sgd": CategoricalDistribution(("adamw", "sgd")),
    "scratch.lr=choice(0.1,2)": CategoricalDistribution(("0.1", "2")),
    "freezing.patterns=shuffle(['a.*'],['b','c'])": CategoricalDistribution(("['a.*']", "['b','c']")),
    "++model.config.hidden_size=8,16": CategoricalDistribution(("8", "16")),
}


@pytest.mark.parametrize("typed", SPACES)
def test_sweep_syntax_is_the_space(typed):
    key, _, syntax = typed.partition("=")
    found = space.read(OverridesParser.create(), {}, [typed, "arm=scratch"], "seed")
    assert found.distributions == {key.lstrip("+"): SPACES[typed]}
    assert found.fixed == ("arm=scratch",)
    from_file = space.read(OverridesParser.create(), {key.lstrip("+"): syntax}, ["arm=scratch"], "seed")
    assert from_file == found


def test_the_command_line_comes_before_the_file():
    file = {"scratch.lr": "interval(0,1)", "scratch.patience": "3,5", "scratch.max_epochs": 7}
    found = space.read(OverridesParser.create(), file, ["scratch.lr=0.5", "seed=0,1"], "seed")
    assert [*found.axes] == ["scratch.patience"]
    assert found.fixed == ("scratch.max_epochs=7", "scratch.lr=0.5")
    assert found.seeds == (0, 1)
    assert found.overrides({"scratch.patience": "5"}) == ["scratch.patience=5"]


def test_steps_leave_no_dust_on_a_number():
    found = space.read(OverridesParser.create(), {}, ["scratch.lr=range(0.1,0.5,0.1)"], "seed")
    assert found.overrides({"scratch.lr": 0.1 + 2 * 0.1}) == ["scratch.lr=0.3"]


# overrides -> key, part of what is allowed
MISTAKES = {
    "": ("hydra.sweeper.params", "at least one KEY=interval(LOW,HIGH)"),
    "scratch.lr=interval(2,1)": ("scratch.lr", "LOW below HIGH"),
    "scratch.lr=tag(log,interval(0,1))": ("scratch.lr", "begins above 0"),
    "scratch.lr=tag(lgo,interval(1,2))": ("scratch.lr", "the tag log"),
    "scratch.lr=tag(log,range(1,9,2))": ("scratch.lr", "step 1"),
    "scratch.lr=range(3,3)": ("scratch.lr", "at least one value"),
    "optimizer=tag(log,choice(adam,sgd))": ("optimizer", "around interval(..)"),
    "scratch.lr=1,2 seed=interval(0,3)": ("seed", "whole numbers"),
    "scratch.lr=1,2 seed=0.5,1": ("seed", "whole numbers"),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_spaces_that_cannot_be_searched(typed):
    with pytest.raises(UserError) as caught:
        space.read(OverridesParser.create(), {}, typed.split(), "seed")
    (problem,) = caught.value.problems
    key, allowed = MISTAKES[typed]
    assert problem.key == key
    assert allowed in problem.allowed


SETTINGS = [
    (LR, {"sampler": "tpee"}, "hydra.sweeper.sampler", "did you mean tpe?"),
    (LR, {"sampler": "grid"}, "scratch.lr", "scratch.lr=range(FROM,TO,STEP)"),
    (LR, {"sampler": "cmaes"}, "hydra.sweeper.sampler", "tpe searches any space"),
    (LR, {"sampler_options": {"n_startup": 1}}, "hydra.sweeper.sampler_options.n_startup", "did you mean n_startup_tr"),
    (LR, {"pruner": "medain"}, "hydra.sweeper.pruner", "did you mean median?"),
    (LR, {"pruner_options": {"n_startup_trials": -1}}, "hydra.sweeper.pruner_options", "negative"),
    (LR, {"pruner": "none", "pruner_options": {"x": 1}}, "hydra.sweeper.pruner_options.x", ""),
    (LR, {"num_trials": 0}, "hydra.sweeper.num_trials", ""),
    (LR, {"num_trials": "many"}, "hydra.sweeper.num_trials", ""),
    (LR, {"parallel": 0.5}, "hydra.sweeper.parallel", ""),
    (LR, {"sampler_seed": -1}, "hydra.sweeper.sampler_seed", ""),
    (LR, {"seeds": []}, "hydra.sweeper.seeds", "[0,1,2]"),
    (LR, {"seeds": [0, 0]}, "hydra.sweeper.seeds", ""),
    (LR, {"storage": "nothing"}, "hydra.sweeper.storage", ""),
    (f"{LR} seed=0,1", {"seeds": [2]}, "hydra.sweeper.seeds", "leave one out"),
]


@pytest.mark.parametrize(("typed", "settings", "key", "action"), SETTINGS)
def test_wrong_settings(typed, settings, key, action):
    found = space.read(OverridesParser.create(), {}, typed.split(), "seed")
    Settings().check(found)
    with pytest.raises(UserError) as caught:
        Settings(**settings).check(found)
    mine = [problem for problem in caught.value.problems if problem.key == key]
    assert mine, caught.value
    assert any(action in problem.action for problem in mine)


def test_hyperband_knows_how_long_a_run_is():
    found = space.read(OverridesParser.create(), {}, [LR], "seed")
    settings = Settings(pruner="hyperband", pruner_options={"reduction_factor": 2})
    settings.check(found)
    settings.sampling(found, 9)
    assert settings.pruner_options == {"reduction_factor": 2, "max_resource": 9}, "what the jobs are told"


def test_a_database_that_cannot_be_had_begins_nothing_and_its_password_is_not_told(tmp_path):
    with pytest.raises(UserError) as caught:
        storage.begin(tmp_path, "postgresql://me:secret@localhost:1/db")
    (problem,) = caught.value.problems
    assert problem.key == "hydra.sweeper.storage"
    assert problem.received == "postgresql://me:***@localhost:1/db"
    assert "secret" not in str(problem)
    assert not any(tmp_path.iterdir())

    storage.begin(tmp_path, f"sqlite:///{tmp_path}/search.db")
    assert (tmp_path / storage.URL).stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="where this search was begun"):
        storage.begin(tmp_path, None)
