from dataclasses import fields, is_dataclass

import pytest

from transfer.config import Arm, Config, Data, Model, Stage, Target, Task
from transfer.errors import UserError
from transfer.validation import POLICIES, SCHEDULES, validate


def valid():
    config = Config(
        init="pretrained", target=Target(data=Data(path="target.csv")), model=Model(name="some/model"), seed=0
    )
    config.subset_seed = config.init_seed = config.order_seed = 0
    config.source.data.path = "source.csv"
    return config


def put(config, key, value):
    """Set target.data.path and the like, and fail where there is no such key."""
    *path, last = key.split(".")
    for name in path:
        config = getattr(config, name)
    assert hasattr(config, last), key
    setattr(config, last, value)


def changed(**changes):
    config = valid()
    for key, value in changes.items():
        put(config, key, value)
    return config


def problems(config):
    """What is wrong with it, by key; nothing where all is right."""
    try:
        validate(config)
    except UserError as error:
        return {problem.key: problem for problem in error.problems}
    return {}


def test_what_is_right_passes():
    assert problems(valid()) == {}


LEGS = [
    (f"{leg}.{name}", value)
    for leg in ("source", "target")
    for name, value in [
        ("data.train_size", 0),
        ("data.validation_size", 0),
        ("data.test_size", -1),
        ("data.validation_fraction", 0.0),
        ("data.validation_fraction", 1.0),
        ("data.test_fraction", 1.5),
        ("data.test_fraction", float("nan")),
        ("budget.max_epochs", 0),
        ("budget.max_steps", 0),
        ("budget.batch_size", 0),
        ("budget.tokens_per_batch", 0),
        ("budget.tokens_per_batch", 127),
        ("budget.patience", 0),
        ("task.max_length", 0),
        ("task.mode", "maximum"),
        ("task.mode", "min"),
        ("task.name", "sequence_clasification"),
    ]
]
RATES = [
    (key, value)
    for prefix in ("source.optimizer", "optimizer", "scratch")
    for key, value in [
        (f"{prefix}.lr", 0.0),
        (f"{prefix}.lr", float("nan")),
        (f"{prefix}.weight_decay", -0.1),
        (f"{prefix}.head_multiplier", 0.0),
    ]
]
OTHERS = [
    ("source.optimizer.layer_decay", 0.0),
    ("optimizer.layer_decay", -0.5),
    ("optimizer._target_", "AdamW"),
    ("source.optimizer._target_", "AdamW"),
    ("scratch.max_epochs", 0),
    ("scratch.patience", 0),
    ("scratch.scheduler", "lineer"),
    ("source.scheduler.name", "lineer"),
    ("source.scheduler.warmup_fraction", 1.0),
    ("scheduler.warmup_fraction", -0.1),
    ("trainer.devices", 0),
    ("trainer.num_nodes", 0),
    ("trainer.accumulate_grad_batches", 0),
    ("trainer.log_every_n_steps", 0),
    ("trainer.limit_train_batches", 0),
    ("trainer.limit_eval_batches", 0),
    ("trainer.num_workers", -1),
    ("trainer.gradient_clip_val", 0.0),
    ("trainer.precision", "fp16"),
    ("logger.name", "wandbb"),
    ("weights.min_fraction_loaded", 1.1),
    ("weights.min_fraction_loaded", -0.1),
    ("weights.include", ["("]),
    ("weights.exclude", ["*"]),
    ("weights.rename", {"[": "x"}),
    ("weights.rename", {"(a)": r"\2"}),
    ("weights.rename", {"(a)": r"\g<b>"}),
    ("freezing.patterns", ["(?P<"]),
    ("freezing.epochs_per_layer", 0.0),
    ("freezing.policy", "head"),
    ("freezing.policy", "full"),
    ("freezing.policy", "all"),
    ("model.vocabulary.texts", "neither"),
    ("model.vocabulary.kind", "letters"),
    ("source.init", "source"),
    ("output_dir", ""),
    ("seed", -1),
    ("source.seed", -1),
    ("data_seed", -1),
    ("subset_seed", -2),
    ("init_seed", -2),
    ("order_seed", -2),
]


@pytest.mark.parametrize(("key", "value"), LEGS + RATES + OTHERS, ids=lambda value: str(value))
def test_each_check_names_its_key(key, value):
    found = problems(changed(**{key: value}))
    assert list(found) == [key]
    assert found[key].allowed


COMBINATIONS = {
    "freezing.k": {"freezing.policy": "first_k"},
    "freezing.patterns": {"freezing.policy": "regex"},
    "source.data.path": {"source.data.path": None, "init": "source"},
    "target.data.path": {"target.data.path": None},
    "init": {"model.name": None, "model.config": {"model_type": "recurrent"}},
    "model.name": {"model.name": None, "init": "source"},
    "target.data.validation_fraction + target.data.test_fraction": {
        "target.data.validation_fraction": 0.5,
        "target.data.test_fraction": 0.5,
    },
    "scheduler.warmup_steps": {"scheduler.warmup_steps": 5, "scheduler.warmup_fraction": 0.1},
    "source.scheduler.warmup_steps": {"source.scheduler.name": "plateau", "source.scheduler.warmup_steps": 3},
    "scratch.warmup_steps": {"scratch.scheduler": "slanted_triangular", "scratch.warmup_steps": 3},
}


@pytest.mark.parametrize("key", COMBINATIONS)
def test_each_check_between_fields_names_its_key(key):
    assert list(problems(changed(**COMBINATIONS[key]))) == [key]


@pytest.mark.parametrize(
    ("batch_size", "devices", "nodes", "accumulate", "right"),
    [(16, 1, 1, 1, True), (16, 2, 1, 4, True), (16, 3, 1, 1, True), (16, 2, 2, 8, False), (12, 2, 1, 8, False)],
)
def test_the_global_batch_has_a_row_for_every_part(batch_size, devices, nodes, accumulate, right):
    changes = {f"{leg}.budget.batch_size": batch_size for leg in ("source", "target")}
    trainer = {"devices": devices, "num_nodes": nodes, "accumulate_grad_batches": accumulate}
    config = changed(**changes, **{f"trainer.{name}": value for name, value in trainer.items()})
    found = problems(config)
    assert list(found) == ([] if right else ["source.budget.batch_size", "target.budget.batch_size"])
    assert right or f"at least {devices * nodes * accumulate}" in found["target.budget.batch_size"].allowed


@pytest.mark.parametrize(("tokens", "devices", "right"), [(128, 1, True), (255, 2, False), (256, 2, True)])
def test_a_batch_of_tokens_has_the_longest_row_for_every_part(tokens, devices, right):
    """And then the number of rows is not asked for."""
    changes = {f"{leg}.budget.tokens_per_batch": tokens for leg in ("source", "target")}
    changes |= {f"{leg}.budget.batch_size": 1 for leg in ("source", "target")}
    found = problems(changed(**changes, **{"trainer.devices": devices}))
    assert list(found) == ([] if right else ["source.budget.tokens_per_batch", "target.budget.tokens_per_batch"])
    assert right or "at least 256 (target.task.max_length=128" in found["target.budget.tokens_per_batch"].allowed


@pytest.mark.parametrize("changes", [{"data.columns.features": ["x"]}, {"data.columns.image": "image"}])
def test_only_texts_have_tokens(changes):
    columns = {f"target.{key}": value for key, value in changes.items()}
    found = problems(changed(**columns, **{"target.budget.tokens_per_batch": 4096}))
    assert "have no tokens" in found["target.budget.tokens_per_batch"].allowed


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("accuracy", "max"), ("f1", "max"), ("mcc", "max"), ("pearson", "max"), ("loss", "min"), ("mse", "min")],
)
def test_the_mode_is_that_of_the_metric(monitor, mode):
    """Or the weights that are kept would be the worst."""
    config = valid()
    config.target.task = Task(monitor=monitor, mode=mode)
    assert problems(config) == {}
    config.target.task.mode = {"max": "min", "min": "max"}[mode]
    found = problems(config)
    assert list(found) == ["target.task.mode"]
    assert found["target.task.mode"].allowed.startswith(mode)


def test_several_problems_are_told_together():
    config = changed(
        **{
            "optimizer.lr": -1.0,
            "freezing.policy": "first_k",
            "trainer.precision": "half",
            "target.data.path": None,
            "weights.include": ["(", "["],
        }
    )
    with pytest.raises(UserError) as caught:
        validate(config)
    keys = [problem.key for problem in caught.value.problems]
    expected = [
        "freezing.k",
        "optimizer.lr",
        "target.data.path",
        "trainer.precision",
        "weights.include",
        "weights.include",
    ]
    assert sorted(keys) == expected
    assert all(key in str(caught.value) for key in keys)


def test_full_is_answered_with_both_of_its_meanings():
    problem = problems(changed(**{"freezing.policy": "full"}))["freezing.policy"]
    assert "freezing=none" in problem.action
    assert "freezing=all" in problem.action
    assert "freezing=head_only" in problem.action
    assert problem.allowed == ", ".join(POLICIES)


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("freezing.policy", "head-only", "head_only"),
        ("scheduler.name", "cosin", "cosine"),
        ("target.task.name", "regresion", "regression"),
        ("logger.name", "tensorbord", "tensorboard"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(key, value, meant):
    assert problems(changed(**{key: value}))[key].action == f"did you mean {meant}?"


LSTM = {"model.name": None, "model.config": {"model_type": "recurrent"}}


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"stage": Stage.pretrain, "arm": Arm.transfer}, ["arm"]),
        ({"stage": Stage.scratch, "arm": Arm.transfer}, ["arm"]),
        ({"stage": Stage.scratch, "arm": Arm.direct}, ["arm"]),
        ({"stage": Stage.scratch, "arm": Arm.scratch}, []),
        ({"stage": Stage.pretrain, "target.data.path": None}, []),
        ({"stage": Stage.pretrain, "source.data.path": None}, ["source.data.path"]),
        ({"arm": Arm.transfer, "source.data.path": None}, ["source.data.path"]),
        ({"arm": Arm.transfer, "init": "source", "source.data.path": None}, ["source.data.path"]),
        ({"arm": Arm.transfer, "init": "a/folder", "source.data.path": None}, []),
        ({"init": "a/folder", "source.data.path": None}, []),
        ({"init": "source", "arm": Arm.scratch, "source.data.path": None}, []),
        ({"arm": Arm.direct, "init": "source"}, []),
        # the arm decides where the weights come from, whatever init says
        ({**LSTM, "arm": Arm.direct, "init": "source"}, ["init"]),
        ({**LSTM, "arm": Arm.transfer}, []),
        ({**LSTM, "arm": Arm.scratch}, []),
        ({**LSTM, "stage": Stage.scratch}, []),
        ({**LSTM, "stage": Stage.pretrain}, []),
        ({**LSTM, "model.vectors.train": True}, []),
        ({**LSTM, "model.vectors.path": "vectors.txt"}, []),
        ({"freezing.policy": "all", "arm": Arm.direct, "init": "source"}, ["freezing.policy"]),
        ({"freezing.policy": "all", "arm": Arm.transfer}, []),
        ({"freezing.policy": "all", "arm": Arm.scratch}, []),
        ({"freezing.policy": "all", "init": "source"}, []),
    ],
)
def test_stage_arm_and_init_go_together(changes, keys):
    assert list(problems(changed(**changes))) == keys


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_allowed(name):
    assert problems(changed(**{"scheduler.name": name, "source.scheduler.name": name})) == {}


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_a_warm_up_belongs_to_these(name):
    assert problems(changed(**{"scheduler.name": name, "scheduler.warmup_steps": 5})) == {}


def leaves(part, prefix=""):
    for entry in fields(part):
        value = getattr(part, entry.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value


def test_every_key_that_is_named_is_one_of_the_config():
    known = {key for key, _ in leaves(Config())}
    named = {key for key, _ in LEGS + RATES + OTHERS} | {key for key in COMBINATIONS if " + " not in key}
    assert named <= known
