"""A model folder's ONNX graph, checked against the model itself."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfer.architecture import input_limit
from transfer.errors import Problem, UserError
from transfer.models.image_processors import channels_of, size_of
from transfer.predict import load

FILE = "model.onnx"
TEXTS = ["a good one", "not what I had hoped for, and far too long", "fine"]


def export_onnx(folder: Path, tolerance: float) -> str:
    """Write `model.onnx` with free batch and length; a line that says how closely it agrees with torch.

    Raises:
        UserError: the extra `onnx` is not installed, or this model has no such graph.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(Problem("--onnx", "not installed", "the extra onnx", "pip install 'transfer[onnx]'")) from error
    predictor = load(folder)
    model = predictor.model.cpu().eval()
    inputs = _sample(predictor)
    names = list(inputs)
    longest = input_limit(model.config, predictor.tokenizer) or 4096
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=longest)
    sequences = predictor.tokenizer is not None and not predictor.task.reads_images
    free = tuple({0: batch, 1: length} if sequences else {0: batch} for _ in inputs)
    try:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model, names),
                tuple(inputs.values()),
                str(folder / FILE),
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=(free,),
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        (folder / FILE).unlink(missing_ok=True)
        reason = _reason(error)
        raise UserError(
            Problem("--onnx", model.config.model_type, "a model that torch.onnx can export", reason)
        ) from error
    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows in (1, len(next(iter(inputs.values())))):
        some = {name: value[:rows] for name, value in inputs.items()}
        with torch.inference_mode():
            wanted = model(**some).logits.numpy()
        found = session.run(None, {name: value.numpy() for name, value in some.items()})[0]
        worst = max(worst, float(np.abs(found - wanted).max()))
    assert worst <= tolerance, f"ONNX differs from torch by {worst}"
    return f"{FILE} differs from torch by at most {worst:.1e}"


def _reason(error: Exception) -> str:
    """The exporter speaks of its steps first; what stopped it is the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__  # type: ignore[assignment]
    return " ".join(str(error).split())[:200]


class _Logits(torch.nn.Module):
    """The model as a function of positional tensors."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def _sample(predictor: Any) -> dict[str, torch.Tensor]:
    if predictor.task.reads_images:
        height, width = size_of(predictor.tokenizer)
        generator = torch.Generator().manual_seed(0)
        return {"pixel_values": torch.randn(3, channels_of(predictor.tokenizer), height, width, generator=generator)}
    if predictor.tokenizer is not None:
        made = predictor.tokenizer(TEXTS, padding=True, return_tensors="pt")
        return {name: value for name, value in made.items() if name in predictor.tokenizer.model_input_names}
    number = getattr(predictor.model.config, "num_features", None)
    if number is None:
        allowed = "a model of texts or of numeric columns"
        raise UserError(Problem("--onnx", predictor.model.config.model_type, allowed, ""))
    return {"features": torch.randn(3, number, generator=torch.Generator().manual_seed(0))}
