"""What all tests share: a cache folder of their own, no network, one thread, and tiny models built from a config."""

import itertools
import logging
import os
from dataclasses import replace
from pathlib import Path

# Before torch is imported by whichever test needs it: the tests run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

NUM_WORDS = 40
VOCABULARY = 50
LAYERS = 2
TRANSFORMER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
SHAPES = {
    "bert": {"model_type": "bert", **TRANSFORMER},
    "roberta": {"model_type": "roberta", **TRANSFORMER},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": LAYERS,
        "n_head": 2,
        "n_positions": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": VOCABULARY,
        "dim": 16,
        "n_layers": LAYERS,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 32,
    },
    "t5": {
        "model_type": "t5",
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": LAYERS,
        "num_heads": 2,
    },
    "resnet": {
        "model_type": "resnet",
        "num_channels": 1,
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 1],
        "layer_type": "basic",
    },
    "lstm": {
        "model_type": "recurrent",
        "vocab_size": VOCABULARY,
        "embedding_size": 8,
        "hidden_size": 8,
        "num_hidden_layers": LAYERS,
    },
    "mean": {"model_type": "recurrent", "vocab_size": VOCABULARY, "embedding_size": 8, "cell": "mean"},
    "linear": {"model_type": "linear", "num_features": 3},
}


# They wait for other processes most of their time, so they come first: at the end nothing could run beside them.
LONG = (
    "sweep/test_launchers.py",
    "tasks/test_contract.py",
    "test_several_devices.py",
    "sweep/test_grid.py",
    "test_interruption.py",
    "test_resume.py",
    "sweep/test_search.py",
    "test_nodes.py",
    "test_memory.py",
    "test_sharding.py",
    "fewshot/test_runs.py",
    "choose/test_auto.py",
    "test_wheel.py",
    "test_wandb_sweep.py",
    "test_documentation.py",
)


def pytest_collection_modifyitems(items):
    order = {str(Path(__file__).parent / name): place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(str(item.path), len(order)))


@pytest.fixture(scope="session")
def cache_root(tmp_path_factory):
    return tmp_path_factory.mktemp("caches"), itertools.count()


@pytest.fixture(autouse=True)
def cache(cache_root, monkeypatch):
    """Each test has its own empty cache: none finds what another, or the user's own runs, have left."""
    root, numbers = cache_root
    folder = root / str(next(numbers))
    monkeypatch.setenv("TRANSFER_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def plain_log():
    """The command line keeps the log from pytest's handlers, also for the tests that follow."""
    log = logging.getLogger("transfer")
    log.propagate, log.disabled = True, False
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


@pytest.fixture
def tiny_model():
    """(family, num_labels, auto class, **config) -> a model of two layers with the same weights at each call."""
    import torch
    import transformers

    from transfer.models import register

    register()

    def make(family, num_labels=3, *, auto=None, seed=0, **settings):
        shape = {**SHAPES[family], **settings}
        default = "AutoModelForImageClassification" if family == "resnet" else "AutoModelForSequenceClassification"
        config = transformers.AutoConfig.for_model(shape.pop("model_type"), num_labels=num_labels, **shape)
        torch.manual_seed(seed)
        return getattr(transformers, auto or default).from_config(config, dtype=torch.float32)

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """Words w0 to w39, within the vocabulary of the tiny models."""
    from transfer.models.word_vectors import build_tokenizer

    words = " ".join(f"w{i}" for i in range(NUM_WORDS))
    return build_tokenizer([words], max_size=VOCABULARY, min_count=1, lowercase=True, max_length=32)


@pytest.fixture
def run_plan():
    """Settings -> the plan of a target run, without a config being composed."""
    from transfer.config import Budget, Config, Data, Freezing, Model, Optimizer, Scheduler, Task, Trainer, Weights
    from transfer.plan import Plan, Seeds

    def make(**changes):
        plan = Plan(
            config=Config(),
            experiment="tests",
            stage="finetune",
            arm="direct",
            init="random",
            seed=0,
            seeds=Seeds(0, 0, 0, 0),
            leg="target",
            data=Data(),
            task=Task(),
            budget=Budget(batch_size=8),
            model=Model(),
            weights=Weights(),
            freezing=Freezing(),
            optimizer=Optimizer(lr=1e-2),
            scheduler=Scheduler("constant"),
            trainer=Trainer(),
            vocabulary_data=[Data()],
        )
        return replace(plan, **changes)

    return make


@pytest.fixture
def text_data(tokenizer):
    """(number of rows, batch size) -> the DataModule of a learnable task: the first word says the class."""
    import numpy as np
    from datasets import Dataset

    from transfer import tasks
    from transfer.config import Task
    from transfer.data.encoding import encode
    from transfer.data.module import TransferData

    labels = ["a", "b", "c"]

    def make(num_rows=24, batch_size=8, seed=0):
        task = tasks.make(Task(), labels, key="target.task")
        random = np.random.default_rng(7)
        words = [random.integers(3, NUM_WORDS, size=random.integers(2, 12)) for _ in range(num_rows)]
        texts = [f"w{i % 3} " + " ".join(f"w{word}" for word in row) for i, row in enumerate(words)]
        rows = Dataset.from_dict({"text": texts, "label": [labels[i % 3] for i in range(num_rows)]})
        encoded = encode(rows, task, tokenizer, 16, None)
        splits = {"train": encoded, "validation": encoded, "test": encoded}
        return TransferData(
            splits, dict.fromkeys(splits, rows), task, tokenizer, batch_size=batch_size, seed=seed, max_length=16
        )

    return make


@pytest.fixture
def fit(run_plan, text_data, tmp_path):
    """(model, freezing) -> the module after a real `Trainer.fit` on the CPU; `new` had no initial weights."""
    from lightning.pytorch import Trainer

    from transfer import adaptation, freezing, regularizers
    from transfer.config import Adaptation, Regularizer
    from transfer.config import Trainer as TrainerConfig
    from transfer.module import TransferModule

    def run(model, policy, *, max_epochs=2, callbacks=(), data=None, ckpt_path=None, trainer=None, new=(), **changes):
        data = data or text_data()
        adapted = adaptation.adapt(model, changes.get("adaptation", Adaptation()), new, seed=0)
        regularizer, l2_sp = regularizers.make(model, changes.get("regularizer", Regularizer()), new)
        frozen = freezing.FreezingCallback(model, freezing.make(model, policy, adapted))
        frozen.prepare(distributed=False)
        ours = ("accumulate_grad_batches", "halve_on_out_of_memory")
        own = {name: value for name, value in (trainer or {}).items() if name in ours}
        plan = run_plan(freezing=policy, trainer=TrainerConfig(**own), **changes)
        module = TransferModule(model, data.task, plan, frozen, None, adapted, regularizer)
        settings = {
            "accelerator": "cpu",
            "max_epochs": max_epochs,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "default_root_dir": tmp_path,
            **{name: value for name, value in (trainer or {}).items() if name not in ours},
        }
        Trainer(callbacks=[frozen, *([l2_sp] if l2_sp else []), *callbacks], **settings).fit(
            module, datamodule=data, ckpt_path=ckpt_path, weights_only=False if ckpt_path else None
        )
        return module

    return run
