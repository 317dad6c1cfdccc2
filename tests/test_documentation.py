"""Every command of the documentation is run, in its order and in one folder, as small as it gets.

What is added to a command makes it quick: a tiny model in place of the default one, few rows, one epoch, one seed.
Its own flags, groups and axes stay. Whoever documents a command that cannot run here has to say why below.
"""

import os
import re
import shlex
import tomllib
from collections import Counter

import huggingface_hub
import pytest
import yaml

from tests.documented import ROOT, SWEEP, Command, commands
from tests.documented_files import prepare
from tests.running import cli
from tests.wandb_server import WandbServer
from transfer import cli as program
from transfer import records

COMMANDS = commands()
# What no test can type, and why.
NOT_RUN = {"source .venv/bin/activate": "it changes the shell it is typed in"}
# What is composed and not trained, and why.
COMPOSED = {
    "srun transfer run experiment=movies_to_products arm=transfer trainer=ddp trainer.devices=4 "
    "trainer.num_nodes=2": "it takes two machines of four devices each",
    "torchrun --nnodes=2 --nproc-per-node=1 --node-rank=0 --master-addr=HOST --master-port=29500 -m transfer run "
    "experiment=movies_to_products arm=transfer trainer=ddp trainer.devices=4 trainer.num_nodes=2": "as well",
}
# What is started and refused, with what is said then: no program is on the PATH.
REFUSED = {
    "transfer run -m experiment=movies_to_products arm=transfer,direct,scratch seed=0,1,2 "
    "hydra/launcher=submitit_slurm hydra.launcher.partition=gpu hydra.launcher.gpus_per_node=1 "
    "hydra.launcher.timeout_min=120": "a machine with SLURM's commands; srun is not on the PATH",
}
# What three dots stand for; of the shipped W&B sweep, its own parameters.
DOTS = {
    "transfer run +data@source.before.data=ohsumed_text +task@source.before.task=masked_lm data@source.data=imdb "
    "...": "data@target.data=products",
    "transfer run -m ... sweep=optuna": "its own",
}
SMALL = {"train_size": 32, "validation_size": 16, "test_size": 16}
FEW = {
    **{f"source.data.{name}": size for name, size in SMALL.items()},
    "target.data.validation_size": 16,
    "target.data.test_size": 24,
    "source.budget.max_epochs": 1,
    "target.budget.max_epochs": 1,
    "scratch.max_epochs": 1,
    "trainer.limit_train_batches": 2,
    "trainer.precision": 32,
    "trainer": "cpu",
    "logger": "none",
    "floors": "false",
}
META = ("sinusoid_maml", "clinc150_5way_1shot", "clinc150_5way_1shot_maml", "clinc150_5way_5shot")
LSTM = {"hidden_size": 16, "embedding_size": 8}
EPISODES = {
    "steps_per_epoch": 2,
    "num_validation_episodes": 2,
    "num_test_episodes": 3,
    "tasks_per_step": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all commands are typed."""
    folder = tmp_path_factory.mktemp("documentation")
    prepare(folder)
    return folder


@pytest.fixture
def typed(folder, monkeypatch):
    """The folder, ready for the next command: no key of W&B, no network, the caches as they were left."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRANSFER_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TRANSFER_DATA", str(folder / "local"))
    monkeypatch.setenv("NETRC", str(folder / "no_netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    for variable in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.id)
def test_command(command, typed, monkeypatch):
    if command.text in NOT_RUN:
        return
    text = command.text
    if text in DOTS:
        text = text.replace("...", DOTS[text] if DOTS[text] != "its own" else searched())
    words = shlex.split(os.path.expandvars(text))
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    words = started(words)
    assert words[0] in TYPED, f"how is {words[0]} tested? Or name the command in NOT_RUN, with the reason"
    TYPED[words[0]](command, words[1:])


def test_what_is_not_run_is_documented():
    """So that these lists shrink with the documentation."""
    assert {*NOT_RUN, *COMPOSED, *REFUSED, *DOTS} <= {command.text for command in COMMANDS}


def test_what_is_documented_is_found():
    """A page whose blocks or spans are no longer found would pass unseen."""
    pages = Counter((command.page, command.mentioned) for command in COMMANDS)
    named = {"README.md", "CONTRIBUTING.md", "slurm.md", "several_devices.md", "batches.md", "kernels.md", SWEEP.name}
    assert {page for page, _ in pages} == named
    assert pages["README.md", False] > 20
    assert pages["README.md", True] > 10


def started(words):
    """Without what starts the program on several machines."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        words = ["transfer", *get_args_parser().parse_args(words[1:]).training_script_args]
    return words[1:] if words[0] == "srun" else words


@pytest.mark.parametrize(
    "text",
    ["transfer compare nothing", "transfer run experiment=nothing", "transfer lst", "make cake", "docker run it"],
)
def test_a_command_that_does_not_run_fails(text, typed, monkeypatch):
    with pytest.raises(AssertionError):
        test_command(Command("page.md", 1, text, mentioned=False), typed, monkeypatch)


def searched():
    """The space of the shipped W&B sweep, in the words of `sweep=optuna`."""
    words = []
    for key, given in yaml.safe_load(SWEEP.read_text())["parameters"].items():
        if "value" in given:
            words.append(f"{key}={str(given['value']).lower() if given['value'] is False else given['value']}")
        elif "values" in given:
            words.append(f"{key}={','.join(map(str, given['values']))}")
        else:
            assert given["distribution"] == "log_uniform_values"
            words.append(f"'{key}=tag(log,interval({given['min']},{given['max']}))'")
    return " ".join(words)


def transfer(command, words):
    if command.mentioned and len(words) == 1:
        # A sentence that names a command; typed, each has its own place.
        assert words[0] in ("run", *program.COMMANDS)
        return
    if words[0] == "run":
        run(command, words[1:])
        return
    text = " ".join(words)
    text = text.replace("[KEY=VALUE ...]", "model.name=tiny")
    words = re.sub(r" ?\[[A-Z_]+ \.\.\.\]", "", text).split()
    # Of two runs with the same fingerprint one is enough; the words tell which kind a command is for.
    places = {
        "RUN": lambda: newest(words)["run_id"],
        "NAME": tracked,
        "FOLDER": lambda: "exported",
        "EXPERIMENT": lambda: "movies_to_products",
    }
    words = [places[word]() if word in places else word for word in words]
    if words[0] in ("rank", "auto"):
        words += [each for each in added(words) if not each.startswith(("seed", "hydra"))]
    if words[0] == "auto":
        words += ["--runs", "8", "--seeds", "1"]
    if words[0] in ("sync", "workspace"):
        with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("WANDB_BASE_URL", server.url)
            patch.setenv("WANDB_API_KEY", "0" * 40)
            succeed(*words)
    else:
        succeed(*words)


def run(command, words):
    if words == ["--help"]:
        assert "== Groups" in succeed("run", *words)
        return
    words = ["experiment=movies_to_products" if word == "experiment=EXPERIMENT" else word for word in words]
    words = ["target.data.path=images" if word == "target.data.path=FOLDER" else word for word in words]
    words += added(words)
    if command.text in COMPOSED:
        assert "experiment_name: movies_to_products" in succeed("run", *words, "--cfg", "job")
    elif command.text in REFUSED:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", "")
            outcome = cli("run", *words)
        assert (outcome.code, REFUSED[command.text] in outcome.err) == (2, True), outcome.err
    else:
        succeed("run", *words)


def added(words):
    """What makes a run quick, of which it says nothing itself."""
    given = {word.lstrip("+").partition("=")[0] for word in words}
    more = dict(FEW)
    # Further sources of the command are as small as its first one.
    further = {key.removesuffix("data") for key in given if re.fullmatch(r"data@source\.(before|also\.\w+)\.data", key)}
    for place in (key.removeprefix("data@") for key in further):
        more |= {f"{place}data.{name}": size for name, size in SMALL.items()}
        more |= {f"{place}budget.max_epochs": 1} if "before" in place else {}
    text = " ".join(words)
    if "source.meta.algorithm" in text or any(f"experiment={name}" in text for name in META):
        # All rows take part, and classes are divided; a test episode needs enough of both.
        more = {key: value for key, value in more.items() if not key.startswith("source.data.")}
        more |= {f"source.meta.{name}": size for name, size in EPISODES.items()}
    if "model=lstm_seq2seq" in words:
        more |= {f"model.config.{name}": size for name, size in LSTM.items()} | {"model.vocabulary.max_size": 300}
    elif not given & {"model", "model.name"} and "experiment=sinusoid_maml" not in words:  # its model is tiny
        more["model.name"] = "tiny"
    if "source.data.streaming" in given:  # which takes the rows as they come
        del more["source.data.train_size"]
    found = [f"{key}={value}" for key, value in more.items() if key not in given]
    # Said later, these come instead.
    found += ["hydra.sweeper.num_trials=2"] if any("sweep=optuna" in word for word in words) else []
    one = any(word.startswith("seed=0,1") for word in words) or "sweep=study" in words
    return [*found, *(["seed=0"] if one else [])]


def newest(words):
    """The run that an earlier command has left, of the kind that these words are for."""

    def fits(record):
        images = record["task"] == "image_classification"
        adapted = (record["config"]["adaptation"]["name"] == "lora") and record["arm"] == "transfer"
        return images == ("image=text" in words) and (adapted or "--adapter" not in words)

    found = [record for record in records.find("outputs") if record["status"] == "complete" and fits(record)]
    assert found, "this command needs what earlier ones leave: run the whole file"
    return found[0]


def tracked():
    """An experiment whose runs W&B has tracked."""
    if not records.find("outputs", "tracked"):
        few = [f"{key}={value}" for key, value in FEW.items() if not key.startswith(("source", "logger"))]
        succeed("run", "-m", "experiment=tracked", "arm=direct,scratch", "model.name=tiny", *few)
    return "tracked"


def succeed(*words):
    outcome = cli(*words)
    assert outcome.code == 0, f"transfer {shlex.join(words)}\n{outcome.err[-3000:]}\n{outcome.out[-1000:]}"
    return outcome.out


def make(command, words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*words} <= {*targets}


def pip(command, words):
    from packaging.requirements import Requirement

    assert words[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, words[1:]):
        if wanted.name == project["name"]:
            assert wanted.extras <= {*project["optional-dependencies"]}
        else:
            assert not wanted.specifier, f"{wanted}: versions are in constraints.txt"


def wandb(command, words):
    """W&B's program takes these words, and what they name is there; nothing is sent or started."""
    from wandb.cli.cli import cli as theirs

    words = [word.replace("NAME", tracked()) for word in words]
    theirs.get_command(None, words[0]).make_context(words[0], words[1:])
    for word in words[1:]:
        if word.startswith("docs/"):
            assert (ROOT / word).is_file()
        elif word.startswith("outputs/"):
            assert len([entry for entry in os.scandir(word) if entry.name.startswith("run-")]) >= 2


TYPED = {"transfer": transfer, "make": make, "pip": pip, "wandb": wandb}


def test_a_new_command_is_found(tmp_path, monkeypatch):
    """In a block, continued, with a comment; in a sentence, broken between lines; beside what is no command."""
    from tests import documented

    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n```sh\ntransfer list    # all of them\ntransfer run a=1 \\\n    'b=[1, 2]'\n#SBATCH --gpus=1\n```\n"
        "See `transfer show\nRUN`, `model=bert` and `X=1 transfer sync`.\n\n```text\ntransfer that is printed\n```\n"
    )
    monkeypatch.setattr(documented, "PAGES", [page])
    found = [(command.line, command.text) for command in commands() if command.page == "page.md"]
    assert found == [
        (4, "transfer list"),
        (5, "transfer run a=1 'b=[1, 2]'"),
        (9, "transfer show RUN"),
        (10, "X=1 transfer sync"),
    ]
    assert isinstance(commands()[0], Command)
