"""`transfer export --adapter`: what a run has trained, apart from the weights that it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transfer.errors import Problem, UserError
from transfer.paths import require_writable
from transfer.records import Record

ADAPTER = "adapter"
# Between the weights of the run and those that are merged now, relative to the largest one of a tensor, or to 1.
TOLERANCE = 1e-5


def require(record: Record, *, onnx: bool) -> None:
    """Raises UserError where a run has left no adapter, or ONNX is wanted of it."""
    if onnx:
        raise UserError(Problem("--onnx", "with --adapter", "one of the two: ONNX is of whole models", ""))
    if (Path(record["_folder"]) / ADAPTER / "adapter_config.json").is_file():
        return
    name = (record["config"].get("adaptation") or {}).get("name", "none")
    why = {"none": "this one has trained without", "adapter": "a parallel adapter is part of the layer beside it"}
    action = f"{why.get(name, 'its adapter is gone')}: leave out --adapter to export the whole model"
    raise UserError(Problem("--adapter", f"adaptation={name}", "a run with adaptation=lora or ia3", action))


def base_of(record: Record) -> str:
    """The weights below the adapter: a hub id, or a folder."""
    settings = json.loads((Path(record["_folder"]) / ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    return str(settings["base_model_name_or_path"])


def auto_class(record: Record) -> tuple[str, int]:
    """The class of transformers that builds the model of a run, and its number of labels."""
    from transfer import tasks
    from transfer.config import Task

    about = json.loads((Path(record["_folder"]) / "model" / "transfer.json").read_text(encoding="utf-8"))
    task = tasks.make(Task(**about["task"]), about["labels"], key="task")
    return task.auto_class, len(about["labels"])


def use(record: Record) -> list[str]:
    """How the adapter is opened, on the weights that it was trained on."""
    auto, num_labels = auto_class(record)
    settings = f", num_labels={num_labels}, ignore_mismatched_sizes=True" if "Classification" in auto else ""
    return [
        "from peft import PeftModel",
        f"from transformers import {auto}",
        f'base = {auto}.from_pretrained("{base_of(record)}"{settings})',
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()',
    ]


def export(record: Record, folder: Path, card: str) -> list[str]:
    """Write adapter, tokenizer and card; what was checked, a line each.

    Raises:
        UserError: the weights below the adapter are gone.
    """
    run = Path(record["_folder"])
    require_writable(folder, key="FOLDER")
    for file in sorted((run / "model").iterdir()):
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copy2(file, folder / file.name)
    for file in sorted((run / ADAPTER).iterdir()):
        shutil.copy2(file, folder / file.name)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return [_check(record, folder)]


def _check(record: Record, folder: Path) -> str:
    """Merged into the weights below it again, the adapter has to give the weights of the run."""
    import torch
    import transformers
    from peft import PeftModel
    from transformers.utils import logging as transformers_logging

    from transfer import models, weights

    models.register()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    model_folder, base = Path(record["_folder"]) / "model", base_of(record)
    config = transformers.AutoConfig.from_pretrained(model_folder)
    auto: Any = getattr(transformers, auto_class(record)[0])
    try:
        model = auto.from_pretrained(base, config=config, ignore_mismatched_sizes=True, dtype=torch.float32)
    except OSError as error:
        action = f"the weights that the run started from have to be there ({str(error).splitlines()[0]})"
        raise UserError(Problem("--adapter", base, "the weights below the adapter", action)) from error
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    kept = weights.read_state(model_folder)
    other = [
        name
        for name, tensor in kept.items()
        if tensor.is_floating_point()
        and (merged[name] - tensor).abs().max() > TOLERANCE * tensor.abs().max().clamp(min=1)
    ]
    assert not other, f"the adapter on {base} differs from the run in {', '.join(other)}"
    return f"on {base} the adapter gives the weights of the run ({len(kept)} tensors compared)"
