"""A task and a model of the contract, built and trained the way a run does it."""

import json
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from lightning.pytorch import Trainer
from PIL import Image

from tests.tasks.contract_table import FAMILIES, KINDS, Kind
from transfer import architecture, freezing, hardware, initial, legs, predict, tasks
from transfer import plan as planning
from transfer.config import Budget, Config, Data, Files, Freezing, Logger, Model, Optimizer, Scratch, Stage, Target
from transfer.config import Trainer as TrainerConfig
from transfer.data.module import TransferData
from transfer.legs import Leg
from transfer.module import TransferModule
from transfer.plan import Plan
from transfer.validation import validate


def write(folder: Path) -> Path:
    """The data of all kinds as files."""
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 60, (12, 12))
        pixels[:, 4 * (number % 3) : 4 * (number % 3) + 3] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    for kind, about in KINDS.items():
        file_of(folder, kind).write_text("".join(json.dumps(row) + "\n" for row in about.rows), encoding="utf-8")
    # Answers are given to the names of files as well; what a run trains on has their bytes.
    images = [row | {"image": (folder / row["image"]).read_bytes()} for row in KINDS["image"].rows]
    pd.DataFrame(images).to_parquet(folder / "image.parquet")
    return folder


def file_of(folder: Path, kind: str) -> Path:
    return folder / f"{kind.replace(' ', '_')}.jsonl"


def plan_of(folder: Path, kind: str, family: str) -> Plan:
    """The plan of a run from scratch, five rows a step."""
    about, file = KINDS[kind], str(folder / "image.parquet" if kind == "image" else file_of(folder, kind))
    config = Config(
        stage=Stage.scratch,
        subset_seed=0,
        init_seed=0,
        order_seed=0,
        target=Target(
            data=Data(name=kind, files=Files(file, file, file), columns=about.columns),
            task=about.task,
            budget=Budget(batch_size=5),
        ),
        scratch=Scratch(lr=0.1, weight_decay=0.0, warmup_steps=0),
        model=Model(config=FAMILIES[family], vocabulary=about.vocabulary),
        optimizer=Optimizer("torch.optim.SGD"),
        trainer=TrainerConfig(accelerator="cpu", precision="32"),
        logger=Logger("none"),
        output_dir=str(folder / "outputs"),
        cache_dir=str(folder / "cache"),
    )
    validate(config)
    return planning.make(config)


@dataclass
class Built:
    """A kind of task and a family as a run has them before it trains."""

    plan: Plan
    leg: Leg
    task: Any
    model: Any
    tokenizer: Any
    data: TransferData

    @property
    def kind(self) -> Kind:
        return KINDS[str(self.plan.data.name)]

    @property
    def rows(self) -> Dataset:
        return self.leg.train

    @property
    def encoded(self) -> Dataset:
        """As they are encoded in evaluation."""
        return self.data.encoded["test"]

    def copy(self) -> Any:
        """The model, to be trained without a trace in the others."""
        return deepcopy(self.model)

    def batch(self, numbers: Any = None) -> dict[str, Any]:
        """These encoded rows, or all of them."""
        chosen = range(len(self.encoded)) if numbers is None else numbers
        return self.task.collate([{**self.encoded[i], "index": i} for i in chosen], self.tokenizer)


@cache
def build(folder: Path, kind: str, family: str) -> Built:
    """As `transfer.stages` has it."""
    plan = plan_of(folder, kind, family)
    leg = legs.load(plan)
    task = tasks.make(plan.task, leg.splits.labels, key="target.task")
    task.fit(leg.train)
    model, tokenizer, _ = initial.initial(plan, task, leg.train, lambda: legs.vocabulary_texts(plan), None)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # that of GPT-2's token head is no setting
    data = legs.batches(plan, leg, task, tokenizer, architecture.input_limit(model.config, tokenizer))
    return Built(plan, leg, task, model, tokenizer, data)


def save(built: Built, model: Any) -> None:
    """The model's folder, as a run leaves it."""
    folder = built.plan.folder / "model"
    model.save_pretrained(folder)
    if built.tokenizer is not None:
        built.tokenizer.save_pretrained(folder)
    predict.describe(folder, built.task, built.plan.data.columns, built.data.max_length)


def fit(
    built: Built, model: Any, *, max_epochs: int = 1, policy: Freezing | None = None, devices: int = 1, **resumed: Any
) -> TransferModule:
    """Train the model as `transfer.stages` does: of six rows, the first step of an epoch takes five."""
    frozen = freezing.FreezingCallback(model, freezing.make(model, policy or Freezing()))
    frozen.prepare(distributed=devices > 1)
    module = TransferModule(model, built.task, built.plan, frozen)
    old = built.data
    data = TransferData(
        old.encoded, old.rows, built.task, built.tokenizer, batch_size=5, seed=0, max_length=old.max_length
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        plugins=hardware.one_process() if devices == 1 else None,
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[frozen],
        default_root_dir=built.plan.output_dir,
    )
    trainer.fit(module, datamodule=data, **resumed)
    return module
