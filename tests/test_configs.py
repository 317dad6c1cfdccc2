"""Every shipped file of conf/ and experiments/ composes, passes the checks, and fits the code that it configures."""

import inspect
from dataclasses import replace

import pytest
import torch

from transfer import listing, optim, paths
from transfer.compose import compose
from transfer.config import Arm, Stage
from transfer.errors import UserError
from transfer.listing import question
from transfer.plan import has_data
from transfer.validation import validate

CONF = paths.shipped("conf")
EXPERIMENTS = sorted(paths.shipped("experiments").glob("*.yaml"))
# Where the files of a group go.
PLACES = {
    "data": ["data@source.data", "data@target.data"],
    "task": ["task@source.task", "task@target.task"],
    "optimizer": ["optimizer", "optimizer@source.optimizer"],
    "scheduler": ["scheduler", "scheduler@source.scheduler"],
}
# What goes with few of the others has a test of its own.
ALONE = ("fsdp",)
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml") if file.stem not in ALONE)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "hydra"
}
# Of these, not all go together: of each set of files, one group changes and the others are `none`.
APART = ("freezing", "adaptation", "regularizer")
BASE = ["data@source.data=movies", "data@target.data=products", "model=tiny_bert", "logger=none"]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment(file):
    config = compose([f"experiment={file.stem}"])
    validate(config)
    assert config.experiment_name == file.stem
    arms = (Arm.transfer if has_data(config.source.data) else Arm.direct, Arm.scratch)
    for arm in () if config.stage.is_source else arms:
        validate(replace(config, arm=arm))
    lines = file.read_text().splitlines()
    assert len(lines) <= 25
    assert lines[0] == "# @package _global_"
    assert question(file).endswith("?"), "the header asks the question"


@pytest.mark.parametrize("number", range(max(map(len, GROUPS.values()))))
def test_every_group_file(number):
    """The n-th file of every group together, so that each is composed once and beside changing others."""
    chosen = {group: files[number % len(files)] for group, files in GROUPS.items()}
    turn, which = number % len(APART), number // len(APART)
    chosen |= {g: GROUPS[g][which % len(GROUPS[g])] if i == turn else "none" for i, g in enumerate(APART)}
    overrides = [f"{place}={name}" for group, name in chosen.items() for place in PLACES.get(group, [group])]
    # `regex` is a policy without a default of its own.
    config = compose([*overrides, "freezing.patterns=[.*embeddings.*]"])
    if chosen["data"] in ("csv", "none"):
        with pytest.raises(UserError) as raised:
            validate(config)
        assert {problem.key for problem in raised.value.problems} <= {"source.data.path", "target.data.path"}
    else:
        validate(config)
    binds(config.optimizer)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    optim.schedule(optimizer, config.scheduler, num_steps=100)
    assert 0 <= optimizer.param_groups[0]["lr"] <= 1.0


def test_the_trainer_that_shards():
    config = compose([*BASE, "trainer=fsdp"])
    validate(config)
    assert (config.trainer.strategy, config.trainer.devices) == ("fsdp", 2)


def binds(settings):
    """The class exists, takes the options, and steps with them."""
    settings = replace(settings, lr=settings.lr or 0.25)
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    built = optim.build([{"params": [parameter]}], settings)
    assert type(built).__name__ == settings._target_.rpartition(".")[2]
    assert built.defaults["lr"] == settings.lr
    assert {*settings.options} <= {*inspect.signature(type(built)).parameters}
    parameter.sum().backward()
    built.step()
    assert not torch.equal(parameter, torch.ones(2, 2))


def test_the_frame_has_no_problem_but_missing_data():
    config = compose([])
    assert config.stage is Stage.finetune
    assert config.experiment_name is None
    assert (config.subset_seed, config.init_seed, config.order_seed) == (0, 0, 0)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """(path, text) -> a file of the user's own in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


def test_an_experiment_of_ones_own(own):
    own("experiments/mine.yaml", "# @package _global_\n# Is it so?\nseed: 5\n")
    config = compose(["experiment=mine"])
    assert (config.experiment_name, config.seed) == ("mine", 5)
    assert question(listing.experiments()["mine"]) == "Is it so?"
    assert "movies_to_products" in listing.experiments(), "the shipped ones are still there"
    assert compose(["experiment=mine", "experiment_name=other"]).experiment_name == "other"


def test_ones_own_files_come_before_the_shipped_ones(own):
    own("experiments/movies_to_products.yaml", "# @package _global_\n# Mine?\nseed: 6\n")
    own("conf/model/lstm.yaml", "config: {model_type: recurrent, cell: gru}\n")
    config = compose(["experiment=movies_to_products", "model=lstm"])
    assert config.seed == 6
    assert config.model.config["cell"] == "gru"
    assert question(listing.experiments()["movies_to_products"]) == "Mine?"


def test_a_model_and_data_of_ones_own(own):
    own("conf/model/mine.yaml", "name: some/model\nlr: 3e-5\n")
    own("conf/data/mine.yaml", "path: mine.csv\ncolumns: {text: review}\n")
    config = compose(["model=mine", "data@target.data=mine", "model.config.hidden_dropout_prob=0.3"])
    assert (config.model.name, config.model.lr) == ("some/model", 3e-5)
    assert (config.target.data.path, config.target.data.columns.text) == ("mine.csv", "review")
    assert config.model.config == {"hidden_dropout_prob": 0.3}, "no + is needed for a mapping without fixed keys"


def test_seeds_follow_the_seed_unless_they_are_set():
    config = compose([*BASE, "seed=4", "order_seed=9"])
    assert (config.subset_seed, config.init_seed, config.order_seed) == (4, 4, 9)
