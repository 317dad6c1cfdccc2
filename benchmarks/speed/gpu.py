"""BERT-base at length 128 in bfloat16 on a GPU: examples a second, and how much of the card's matrix peak that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import cases, ours, stream

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LENGTH = 128
BATCH_SIZES = (8, 32, 64, 128)
# A run's first steps, in which kernels are chosen and memory is found, are not on the clock.
STEPS, WARM_UP = 220, 20


def available() -> bool:
    import torch

    return torch.cuda.is_available()


def flops_per_example(shape: dict[str, int], length: int) -> float:
    """Of one training step: three times the matrix products of a forward pass, 2 operations a multiplication.

    In each layer and for each token 4 products with H x H, 2 with H x I, and 2 with the other tokens' H.
    """
    wide, inner = shape["hidden_size"], shape["intermediate_size"]
    layer = 8 * wide**2 + 4 * wide * inner + 4 * length * wide
    return 3.0 * length * shape["num_hidden_layers"] * layer


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def prepare(folder: Path, shape: dict[str, int], rows: int) -> dict[str, str]:
    """A folder with the architecture and MiniLM's tokenizer (that of BERT), and rows that fill `LENGTH` tokens."""
    from transformers import AutoTokenizer, BertConfig

    from transfer.paths import resolve_package_path

    tokenizer = AutoTokenizer.from_pretrained(resolve_package_path(cases.MINILM))
    tokenizer.save_pretrained(folder / "model")
    BertConfig(vocab_size=len(tokenizer), **shape).save_pretrained(folder / "model")
    stream.write(folder / "rows.jsonl", rows, words=LENGTH)
    return {"model": str(folder / "model"), "path": str(folder / "rows.jsonl")}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Examples a second of `request["arm"]`: "transfer" or "Trainer" at `batch_size`, or "peak" for the matrix peak."""
    device, steps, warm_up = request["device"], request["steps"], request["warm_up"]
    if request["arm"] == "peak":
        from transfer import peak

        return {"flops_per_s": peak.matrix_peak("bf16-mixed", device, None)}
    batch_size = request["batch_size"]
    # More rows than the steps take: the project evaluates at the end of an epoch, which must not come before theirs.
    made = prepare(Path(request["folder"]), request["shape"], round(1.1 * steps * batch_size) + 2 * batch_size)
    by: Callable[..., dict[int, float]] = _transfer if request["arm"] == cases.OURS else _trainer
    marks = by(request, made)
    seconds = marks[steps] - marks[warm_up]
    per_s = (steps - warm_up) * batch_size / seconds
    return {"examples_per_s": per_s, "flops_per_s": per_s * flops_per_example(request["shape"], LENGTH)}


def _transfer(request: dict[str, Any], made: dict[str, str]) -> dict[int, float]:
    """When the steps at the marks ended."""
    device, size, steps = request["device"], request["batch_size"], request["steps"]
    words = (
        "data@target.data=csv",
        f"target.data.path={made['path']}",
        f"target.data.validation_size={size}",
        f"target.data.test_size={size}",
        "target.data.validation_fraction=0.01",
        "target.data.test_fraction=0.01",
        f"model.name={made['model']}",
        "arm=scratch",
        f"trainer={'gpu' if device == 'cuda' else 'cpu'}",
        "logger=none",
        "floors=false",
        f"target.task.max_length={LENGTH}",
        f"target.budget.batch_size={size}",
        f"target.budget.max_steps={steps}",
        "scratch.max_epochs=2",
        f"output_dir={request['folder']}/outputs",
    )
    with ours.clocked((request["warm_up"], steps), lambda: synchronize(device)) as clock:
        ours.command("run", *words)
    return clock.marks


def _trainer(request: dict[str, Any], made: dict[str, str]) -> dict[int, float]:
    """When the steps at the marks ended."""
    from datasets import Dataset
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    device = request["device"]
    wanted, marks = (request["warm_up"], request["steps"]), {}

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in wanted:
                synchronize(device)
                marks[state.global_step] = time.perf_counter()

    tokenizer = AutoTokenizer.from_pretrained(made["model"])

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], truncation=True, max_length=LENGTH)
        return {**encoded, "labels": ["ab".index(label) for label in rows["label"]]}

    rows = Dataset.from_json(made["path"], cache_dir=f"{request['folder']}/rows")
    rows = rows.map(encode, batched=True, remove_columns=rows.column_names)
    arguments = TrainingArguments(
        output_dir=f"{request['folder']}/trainer",
        per_device_train_batch_size=request["batch_size"],
        max_steps=request["steps"],
        bf16=True,
        save_strategy="no",
        use_cpu=device == "cpu",
    )
    Trainer(
        model=AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(made["model"])),
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Marks()],
    ).train()
    return marks
