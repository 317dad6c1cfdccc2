"""Every mistake that a user can make: exit code 2, one message that says what to do, and nothing left behind."""

import shutil

import pytest

from tests.running import CALLS, LSTM, QUICK, TINY_BERT, cli, files_below, modules_after, reviews, run, write_csv
from transfer import plan
from transfer.compose import compose

# Files that are wrong in one way each.
WRONG = {
    "one_class": [{"text": f"word {i}", "label": "pos"} for i in range(40)],
    "new_label": [{"text": f"word {i}", "label": ("pos", "neg", "new")[i % 3]} for i in range(30)],
    "nan": [{"text": f"word {i}", "label": ("1.0", "nan", "2.0")[i % 3]} for i in range(30)],
    "words": [{"text": f"word {i}", "label": ("1.0", "many", "2.0")[i % 3]} for i in range(30)],
    "headline": [{"headline": f"word {i}", "topic": str(i % 2)} for i in range(30)],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data files, right and wrong, and an output folder with two complete runs."""
    folder = tmp_path_factory.mktemp("errors")
    reviews(folder / "source.csv", seed=1)
    reviews(folder / "target.csv", seed=2)
    for name, rows in WRONG.items():
        write_csv(folder / f"{name}.csv", rows)
    (folder / "empty.csv").touch()
    (folder / "header.csv").write_text("text,label\n")
    (folder / "file.rst").write_text("no folder\n")
    (folder / "ragged.csv").write_text('text,label\n"one, two",pos\nthree,neg,more\n')
    (folder / "latin.csv").write_bytes("text,label\nd\xe9j\xe0 vu,pos\n".encode("latin-1"))
    bert = run(*TINY_BERT, f"target.data.path={folder}/target.csv", "stage=scratch", f"output_dir={folder}/outputs")
    lstm = run(*LSTM, f"target.data.path={folder}/target.csv", "stage=scratch", f"output_dir={folder}/outputs")
    shutil.copytree(f"{bert['_folder']}/model", folder / "cut")
    whole = (folder / "cut" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(f"{lstm['_folder']}/model", folder / "lstm")
    return folder


@pytest.fixture
def mistake(place, monkeypatch):
    """(overrides) -> the message of a run that must fail over them and change nothing on disk."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("TRANSFER_DATA", raising=False)
    before = files_below(place)
    base = ["data@source.data=csv", "source.data.path=source.csv", "target.data.path=target.csv", "output_dir=outputs"]

    def make(*overrides, base=base):
        outcome = cli("run", *QUICK, *TINY_BERT, *base, *overrides)
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.err
        assert outcome.err.count("transfer: ") == 1, "one message"
        assert outcome.out == ""
        assert files_below(place) == before, "an error neither leaves files nor changes those that are there"
        message = outcome.err[outcome.err.index("transfer: ") :]
        assert "\n    received: " in message
        assert "\n    allowed:  " in message
        return message

    return make


# overrides -> the key in the message, and what else it must say
CONFIG_MISTAKES = {
    "experiment=movie_to_products": ("experiment", "did you mean experiment=movies_to_products?"),
    "experiment=zzz": ("experiment", "`transfer list`"),
    "experiment=null": ("command line", "GROUP=NAME"),
    "model=berd": ("model", "did you mean model=bert?"),
    "model=3": ("command line", "GROUP=NAME"),
    "optimizer=adamv": ("optimizer", "did you mean optimizer=adam"),
    "task@target.task=regresion": ("task", "did you mean regression?"),
    "data@target.data=movie": ("data", "did you mean movies?"),
    "data=movies": ("data", "data@source.data=NAME or data@target.data=NAME"),
    "optimzer.lr=1": ("optimzer", "did you mean optimizer?"),
    "target.data.colums.text=x": ("target.data.colums", "did you mean target.data.columns?"),
    "+target.data.colums.text=x": ("target.data.colums", "did you mean target.data.columns?"),
    "+foo=1": ("foo", "allowed:  experiment_name, stage, arm"),
    "lr=1": ("lr", "optimizer.lr"),
    "expriment=linear_drift": ("expriment", "did you mean experiment?"),
    "seed=abc": ("seed", "a whole number"),
    "seed=1.5": ("seed", "a whole number"),
    "seed=1,2": ("seed", "transfer run -m seed=1,2"),
    "target.data.train_size=many": ("target.data.train_size", "a whole number"),
    "optimizer.lr=fast": ("optimizer.lr", "a number"),
    "force=maybe": ("force", "true or false"),
    "stage=fine": ("stage", "pretrain, meta, finetune, scratch"),
    "arm=transer": ("arm", "transfer, direct, scratch"),
    "freezing=full": ("freezing", "freezing=none"),
    "freezing.policy=full": ("freezing.policy", "linear probing"),
    "trainer.accumulate_grad_batches=999": ("target.budget.batch_size", "at least 999"),
    "freezing=first_k freezing.k=0": ("freezing.k", "at least 1"),
    "freezing=regex": ("freezing.patterns", "regexes"),
    "target.data.path": ("command line", "KEY=VALUE"),
    "target.data.path=[": ("command line", "KEY=VALUE"),
    "target.data.columns=text": ("target.data.columns", "Columns"),
    "=3": ("command line", "GROUP=NAME"),
    "~target.data": ("target.data", "deletion"),
    "~seed": ("subset_seed", "seed"),
    "arm=transfer stage=scratch": ("arm", "give only one of the two"),
    "arm=direct stage=pretrain": ("arm", "leave arm out"),
    "arm=direct": ("init", "init=source"),
    "arm=direct freezing=all model.name=some/model": ("freezing.policy", "head_only"),
    "init=nonsense": ("init", "`transfer runs`"),
    "source.data.path=null": ("source.data.path", "init=pretrained"),
    "target.data.path=null": ("target.data.path", "target.data.columns.text=COLUMN"),
    "model.config={} model.config.model_type=null": ("model.config.model_type", "transformers"),
}


# What types alone cannot see; all of it is found in one go.
VALUE_MISTAKES = {
    "seed=5000000000000": ("seed", "below 2 ** 32"),
    "data_seed=-1": ("data_seed", "at least 0"),
    "experiment_name=a/b": ("experiment_name", "a name without /"),
    "target.data.name=../x": ("target.data.name", "a name without /"),
    "optimizer.lr=0": ("optimizer.lr", "above 0"),
    "freezing.policy=hed_only": ("freezing.policy", "did you mean head_only?"),
    "freezing.patterns=['(']": ("freezing.patterns", "regular expression"),
    "logger.name=wandbb": ("logger.name", "did you mean wandb?"),
    "trainer.precision=8": ("trainer.precision", "bf16-mixed"),
    "trainer.num_nodes=0": ("trainer.num_nodes", "at least 1"),
    "trainer.num_workers=-1": ("trainer.num_workers", "at least 0"),
    "target.budget.batch_size=0": ("target.budget.batch_size", "at least 1"),
    "target.budget.max_epochs=-1": ("target.budget.max_epochs", "at least 1"),
    "target.data.train_size=0": ("target.data.train_size", "at least 1"),
    "target.data.test_fraction=1.5": ("target.data.test_fraction", "between 0 and 1"),
    "target.task.mode=min": ("target.task.mode", "max"),
    "source.init=nothing": ("source.init", "pretrained, random"),
    "source.task.name=regresion": ("source.task.name", "did you mean regression?"),
    "scheduler.name=cosin": ("scheduler.name", "did you mean cosine?"),
    "scheduler.warmup_fraction=2": ("scheduler.warmup_fraction", "to below 1"),
    "source.scheduler.warmup_steps=3": ("source.scheduler.warmup_steps", "not both"),
    "optimizer._target_=AdamW": ("optimizer._target_", "torch.optim.AdamW"),
    "model.vocabulary.texts=neither": ("model.vocabulary.texts", "source, target, both"),
    "weights.min_fraction_loaded=2": ("weights.min_fraction_loaded", "0 to 1"),
    "output_dir=''": ("output_dir", "a folder"),
}


def test_all_wrong_values_are_told_at_once(mistake):
    message = mistake(*VALUE_MISTAKES)
    _, _, problems = message.partition("\n\n")
    told = dict(problem.split("\0", 1) for problem in problems.replace("\n    ", "\0").splitlines())
    for key, says in VALUE_MISTAKES.values():
        assert says in told[key]


@pytest.mark.parametrize("overrides", CONFIG_MISTAKES)
def test_a_wrong_config(mistake, overrides):
    key, says = CONFIG_MISTAKES[overrides]
    message = mistake(*overrides.split())
    assert f"\n{key}\n" in message
    assert says in message


SCRATCH = "stage=scratch"
DATA_MISTAKES = {
    "target.data.path=targett.csv": ("target.data.path", "target.csv"),
    "source.data.path=nowhere/source.csv": ("source.data.path", "The folder nowhere does not exist"),
    "target.data.path=headline.csv": ("target.data.columns.text", "headline, topic"),
    "target.data.path=headline.csv target.data.columns.text=headlin target.data.columns.label=topic": (
        "target.data.columns.text",
        "headline",
    ),
    "target.data.path=empty.csv": ("target.data.path", "no rows"),
    "target.data.path=header.csv": ("target.data.path", "no rows"),
    "target.data.path=ragged.csv": ("target.data.path", "line 3"),
    "target.data.path=latin.csv": ("target.data.path", "UTF-8"),
    "target.data.path=file.rst": ("target.data.path", ".csv"),
    "target.data.path=one_class.csv": ("target.data.columns.label", "only pos"),
    "target.data.path=null target.data.files.train=target.csv target.data.files.test=new_label.csv": (
        "target.data.columns.label",
        "new (10 rows)",
    ),
    "target.data.path=nan.csv task@target.task=regression": ("target.data.columns.label", "finite numbers"),
    "target.data.path=words.csv task@target.task=regression": ("target.data.columns.label", "'many'"),
    "target.data.train_size=1000": ("target.data.train_size", "to 42"),
    "target.data.train_size=1": ("target.data.train_size", "2 (one a class)"),
    "target.data.labels=[good,bad]": ("target.data.labels", "neg, pos"),
    "target.data.label_map.posi=good": ("target.data.label_map", "pos"),
    "target.data.columns.features=[a,b]": ("target.data.columns.features", "a, not in target.csv"),
    "target.data.path=some/dataset": ("target.data.path", "Without a network"),
    "data@target.data=waimai target.data.path=null": ("target.data.local", "export TRANSFER_DATA=FOLDER"),
    "model.name=some/model": ("model.name", "a model folder"),
    "model.name=./nowhere": ("model.name", "check the path"),
    "model.name=package:no_such_package/model": ("model.name", "pip install"),
    "model=linear": ("model.config.hidden_size", "num_features"),
    "model.config.hiden_size=3": ("model.config.hiden_size", "did you mean hidden_size?"),
    "target.task.monitor=acuracy": ("target.task.monitor", "did you mean accuracy?"),
    "target.task.class_weights=[1,2,3]": ("target.task.class_weights", "2 numbers"),
    "optimizer._target_=torch.optim.AdamX": ("optimizer._target_", "AdamX"),
    "optimizer.options.momentum=0.9": ("optimizer.options", "betas"),
    "optimizer.options.betas=3": ("optimizer", "torch.optim.AdamW"),
    "model.config.num_attention_heads=3": ("model.config", "not a multiple"),
    "model.config.hidden_size=big": ("model.config", "hidden_size"),
    "model.config.model_type=brt": ("model.config.model_type", "transformers"),
    "model.tokenizer=some/tokenizer": ("model.tokenizer", "a model folder"),
    "model.vocabulary.min_count=1000": ("model.vocabulary", "min_count"),
    "target.data.columns.id=label": ("target.data.columns.id", "more than once"),
    "target.data.columns.group=label": ("target.data.test_fraction", "enough groups"),
    "trainer.accelerator=abacus": ("trainer", "accelerator=abacus"),
    "trainer.strategy=luck": ("trainer.strategy", "ddp, "),
    "cache_dir=file.rst/x": ("cache_dir", "cache_dir=FOLDER"),
    "output_dir=file.rst/x": ("output_dir", "output_dir=FOLDER"),
    "output_dir=/dev/null/x": ("output_dir", "output_dir=FOLDER"),
}


@pytest.mark.parametrize("overrides", DATA_MISTAKES)
def test_wrong_data_or_model(mistake, overrides):
    key, says = DATA_MISTAKES[overrides]
    message = mistake(SCRATCH, *overrides.split())
    assert f"\n{key}\n" in message
    assert says in message


WEIGHTS_MISTAKES = {
    "init=lstm": ("init", "0.0% of the backbone"),
    "init=cut": ("init", "may be cut off"),
    "init=target.csv": ("init", "safetensors"),
    "init=outputs": ("init", "a model folder"),
    "init=lstm weights.include=[nothing.*]": ("init", "share no tensor"),
    "model.name=cut init=pretrained": ("model.name", "cut off"),
}


@pytest.mark.parametrize("overrides", WEIGHTS_MISTAKES)
def test_weights_that_do_not_fit(mistake, overrides):
    key, says = WEIGHTS_MISTAKES[overrides]
    message = mistake(*overrides.split())
    assert f"\n{key}\n" in message
    assert says in message


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ("target.data.path=headline.csv", "target.data.columns.label"),
        ("freezing=first_k freezing.k=7", "freezing.k"),
        ("freezing=regex freezing.patterns=[nothing.*]", "freezing.patterns"),
        ("target.task.monitor=acuracy", "target.task.monitor"),
        ("optimizer.options.momentum=0.9", "optimizer.options"),
        ("scheduler.options.cycles=2", "scheduler.options"),
        ("model.config.hiden_size=3", "model.config.hiden_size"),
    ],
)
def test_a_mistake_in_the_target_is_found_before_its_source_trains(mistake, overrides, key):
    assert f"\n{key}\n" in mistake(*overrides.split(), "output_dir=new")


def test_a_fresh_output_folder_is_not_even_made(mistake, place):
    mistake("target.data.path=one_class.csv", SCRATCH, "output_dir=new")
    assert not (place / "new").exists()


def test_a_checkpoint_that_is_cut_off(place, monkeypatch):
    overrides = [*QUICK, *TINY_BERT, f"target.data.path={place}/target.csv", SCRATCH, f"output_dir={place}/resumed"]
    last = plan.make(compose(overrides)).folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    for content in (b"", b"PK\x03\x04" + bytes(1000)):
        last.write_bytes(content)
        outcome = cli("run", *overrides)
        assert outcome.code == 2
        assert f"\n{last}\n" in outcome.err
        assert "delete it" in outcome.err
        assert last.read_bytes() == content, "it is the user's to delete"
    shutil.rmtree(place / "resumed")


def test_a_config_file_that_is_no_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, choice in (("experiments", "experiment=mine"), ("conf/model", "model=mine")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "mine.yaml").write_text("# mine\nseed: [1\nmodel: {\n")
        outcome = cli("run", choice)
        assert outcome.code == 2
        assert "mine.yaml" in outcome.err
        assert "line 3" in outcome.err


def test_an_experiment_with_an_unknown_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text("# @package _global_\n# mine\noptimzer: {lr: 1}\n")
    outcome = cli("run", "experiment=mine")
    assert outcome.code == 2
    assert "optimzer" in outcome.err
    assert "did you mean optimizer?" in outcome.err


def test_mistakes_that_need_no_data_are_told_before_torch_is_imported():
    calls = ["run model=berd", "run seed=abc", "run optimzer.lr=1", "run freezing=full", "run experiment=zzz", "run"]
    calls += ["run init=nonsense data@target.data=products", "run data@target.data=products arm=direct model=lstm"]
    calls += ["run target.data.path=nowhere.csv init=pretrained", "show nothing", "runs nothing", "compare nothing"]
    assert modules_after(CALLS, 2, *calls) == set()
