"""A class, or several, for an image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from transfer import config, floors
from transfer.data import images
from transfer.errors import Problem, UserError, nearest
from transfer.models import image_processors
from transfer.tasks import sequence_classification
from transfer.tasks.base import Batch

# What can be done to a training image, and how much of it is too much to be meant.
AUGMENTATIONS = {"flip": 1.0, "shift": math.inf, "rotate": 180.0}
# The floor sees images of this side, grey, and learns of no more than so many: beyond, it takes minutes.
FLOOR_SIDE, FLOOR_ROWS = 28, 5000


class Task(sequence_classification.Task):
    """Cross-entropy over classes of images. An image processor stands in a tokenizer's place.

    Options: `size` (a side, or [height, width]), `channels` (1 or 3), `mean` and `std` of the pixels from 0 to 1: what
    is null is as the model's own processor has it, else as the training images are. `augment` is done to the images
    in training, each time anew: {flip: true} mirrors half of them, {shift: 2} moves them by up to two pixels each way,
    {rotate: 10} turns them by up to ten degrees.
    """

    auto_class = "AutoModelForImageClassification"
    pipeline = "image-classification"
    reads_images = True
    default_options: ClassVar[dict[str, Any]] = {
        "size": None,
        "channels": None,
        "mean": None,
        "std": None,
        "augment": None,
    }

    def __init__(self, task: config.Task, labels: list[str], *, key: str = "target.task") -> None:
        self.key = key
        super().__init__(task, labels, key=key)

    def problems(self, key: str) -> list[Problem]:
        problems, options = super().problems(key), f"{key}.options"
        size, channels = self.options["size"], self.options["channels"]
        if size is not None and not _is_size(size):
            problems.append(Problem(f"{options}.size", size, "null, a number of pixels, or [height, width]", ""))
        if channels not in (None, 1, 3):
            problems.append(Problem(f"{options}.channels", channels, "null, 1 (grey) or 3 (RGB)", ""))
        for name in ("mean", "std"):
            given = self.options[name]
            if given is not None and not _are_numbers(given, channels, positive=name == "std"):
                allowed = f"null, or {channels or '1 or 3'} numbers" + (" above 0" if name == "std" else "")
                problems.append(Problem(f"{options}.{name}", given, allowed, "pixels are from 0 to 1"))
        return problems + _augment_problems(self.options["augment"], f"{options}.augment")

    def wanted(self, model_config: dict[str, Any]) -> image_processors.Wanted:
        """What the options set of the processor, or else the settings of the model."""
        size = self.options["size"] or model_config.get("image_size")
        channels = self.options["channels"] or model_config.get("num_channels")
        pair = (size, size) if isinstance(size, int) else size
        mean, std = self.options["mean"], self.options["std"]
        return image_processors.Wanted(channels, tuple(pair) if pair else None, _listed(mean), _listed(std))

    def encoding_options(self) -> dict[str, Any]:
        """None: what they change is in the processor, and images are changed at random later."""
        return {}

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """`pixels`, the bytes of uint8 [channels, height, width], their `shape`, and whether they were `resized`.

        Raises:
            UserError: images that cannot be opened, or a processor that gives them different sizes.
        """
        channels = image_processors.channels_of(tokenizer)
        opened = [image.convert(image_processors.mode_of(channels)) for image in self._decoded(columns)]
        made = tokenizer(images=opened, do_rescale=False, do_normalize=False)["pixel_values"]
        arrays = [np.asarray(array).astype(np.uint8) for array in made]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            received = f"the model's processor, which gives {' and '.join(map(str, sorted(shapes)[:3]))}"
            raise UserError(Problem(f"{self.key}.options.size", received, "one size for all images", "set it"))
        return {
            "pixels": [array.tobytes() for array in arrays],
            "shape": [list(array.shape) for array in arrays],
            "resized": [image.size[::-1] != array.shape[1:] for image, array in zip(opened, arrays, strict=True)],
            "label": self.encode_labels(columns["label"]),
            "row": columns["row"],
            "length": [1] * len(arrays),
        }

    def _decoded(self, columns: dict[str, list[Any]]) -> list[Image.Image]:
        try:
            return images.decode(columns["image"])
        except images.UnreadableImagesError as error:
            names = columns.get("id", columns["row"])
            some = [f"{names[i]} ({reason})" for i, reason in list(error.reasons.items())[: images.SHOWN]]
            more = f" and {len(error.reasons) - len(some)} more" if len(error.reasons) > len(some) else ""
            received = f"{', '.join(some)}{more}: cannot be read"
            action = "Mend or remove these files."
            column = f"{self.key.removesuffix('task')}data.columns.image"
            raise UserError(Problem(column, received, "whole image files that Pillow opens", action)) from error

    def notes(self, encoded: Dataset) -> list[str]:
        number = sum(encoded["resized"][:])
        shape = encoded[0]["shape"] if len(encoded) else []
        size = " x ".join(map(str, shape[1:]))
        return [f"{number} of {len(encoded)} images were brought to {size} pixels"] if number else []

    def draws_inputs(self) -> bool:
        return bool(self.options["augment"])

    def collate(self, rows: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """`pixel_values` float [batch, channels, height, width]; in training augmented, as (seed, epoch, row) say."""
        arrays = [np.frombuffer(row["pixels"], dtype=np.uint8).reshape(row["shape"]) for row in rows]
        if self.options["augment"] and "draw" in rows[0]:
            arrays = [
                augment(array, self.options["augment"], row["draw"]) for array, row in zip(arrays, rows, strict=True)
            ]
        pixels = torch.from_numpy(np.stack(arrays)).float()
        if tokenizer.do_rescale:
            pixels *= tokenizer.rescale_factor
        if tokenizer.do_normalize:
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (tokenizer.image_mean, tokenizer.image_std))
            pixels = (pixels - mean) / std
        return {
            "inputs": {"pixel_values": pixels},
            "labels": self.label_tensor([row["label"] for row in rows]),
            "index": torch.tensor([row["index"] for row in rows]),
        }

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """The majority, and logistic regression on the pixels of small grey copies where the rows are not too many."""
        learns = len(train) <= FLOOR_ROWS
        # Of constant pixels nothing is learned, and that takes no time.
        matrices = [_small(self._decoded(rows[:])) if learns else np.zeros((len(rows), 1)) for rows in (train, test)]
        found = floors.classification_floors(
            matrices[0], train["label"][:], matrices[1], self.labels, multi_label=self.multi_label
        )
        if not learns:
            del found["linear"]
        return {name: list(floor.predictions) for name, floor in found.items()}


def augment(pixels: np.ndarray, settings: dict[str, Any], draw: Sequence[int]) -> np.ndarray:
    """uint8 [channels, height, width] changed at random, the same for the same draw; edges are continued."""
    seed = hashlib.blake2b(repr(list(draw)).encode(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(seed))
    mirrored, angle = random.random() < 0.5, random.uniform(-1, 1)
    across, down = random.uniform(-1, 1, size=2)
    if settings.get("flip") and mirrored:
        pixels = pixels[:, :, ::-1]
    if degrees := settings.get("rotate"):
        turned = [Image.fromarray(np.ascontiguousarray(channel)) for channel in pixels]
        most = max(pixels.shape[1:])
        turned = [_turned(channel, angle * degrees, most) for channel in turned]
        pixels = np.stack([np.asarray(channel) for channel in turned])
    if most := settings.get("shift"):
        right, below = (round(part * most) for part in (across, down))
        padded = np.pad(pixels, ((0, 0), (most, most), (most, most)), mode="edge")
        height, width = pixels.shape[1:]
        pixels = padded[:, most - below : most - below + height, most - right : most - right + width]
    return np.ascontiguousarray(pixels)


def _turned(channel: Image.Image, angle: float, margin: int) -> Image.Image:
    """Turned about its middle; what comes in from outside continues the edge."""
    wide = Image.fromarray(np.pad(np.asarray(channel), margin, mode="edge"))
    turned = wide.rotate(angle, Image.Resampling.BILINEAR)
    return turned.crop((margin, margin, margin + channel.width, margin + channel.height))


def _small(opened: Sequence[Image.Image]) -> np.ndarray:
    """[rows, FLOOR_SIDE ** 2]"""
    resized = [image.convert("L").resize((FLOOR_SIDE, FLOOR_SIDE), Image.Resampling.BILINEAR) for image in opened]
    return np.stack([np.asarray(image, dtype=np.float64).ravel() for image in resized])


def _is_size(given: Any) -> bool:
    sides = [given] if isinstance(given, int) else given
    listed = isinstance(sides, list | tuple) and len(sides) in (1, 2)
    return listed and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)


def _listed(given: Any) -> list[float] | None:
    return None if given is None else [float(given)] if isinstance(given, int | float) else [float(v) for v in given]


def _are_numbers(given: Any, channels: int | None, *, positive: bool) -> bool:
    values = given if isinstance(given, list | tuple) else [given]
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return numbers and len(values) in (1, channels or 3) and (not positive or all(value > 0 for value in values))


def _augment_problems(given: Any, key: str) -> list[Problem]:
    if given is None:
        return []
    if not isinstance(given, dict):
        return [Problem(key, given, "null, or what is done, such as {flip: true, shift: 2, rotate: 10}", "")]
    problems = []
    for name, amount in given.items():
        if name not in AUGMENTATIONS:
            guess = nearest(name, tuple(AUGMENTATIONS))
            problems.append(Problem(key, name, ", ".join(AUGMENTATIONS), f"did you mean {guess}?" if guess else ""))
        elif name == "flip" and not isinstance(amount, bool):
            problems.append(Problem(f"{key}.flip", amount, "true, false", ""))
        elif name == "shift" and not (type(amount) is int and amount >= 0):
            problems.append(Problem(f"{key}.shift", amount, "a whole number of pixels", ""))
        elif name == "rotate" and not (type(amount) in (int, float) and 0 <= amount <= AUGMENTATIONS["rotate"]):
            problems.append(Problem(f"{key}.rotate", amount, "degrees from 0 to 180", ""))
    return problems
