"""What turns images into a model's pixels: processors of transformers, saved beside the weights like a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from transfer.data import images

# Images that mean and standard deviation are computed from, evenly spaced.
SAMPLE = 1000
# Images of many sizes are brought to their median one, and to no more than this.
LARGEST = 224


class GreyImageProcessor(ViTImageProcessorPil):
    """Makes every image grey first: `transformers.pipeline` opens them all as RGB."""

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """[1, height, width] of an image of Pillow; arrays are taken as they are."""
        if isinstance(image, Image.Image):
            image = image.convert("L")
        made: np.ndarray = super().process_image(image, *args, **kwargs)
        return made


@dataclass(frozen=True)
class Wanted:
    """What is not left to the images: channels (1 or 3), (height, width), mean and std (one, or one a channel)."""

    channels: int | None = None
    size: tuple[int, int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def make(wanted: Wanted, encoded: Sequence[bytes]) -> Any:
    """A processor for images like these; those that cannot be opened are left out.

    What is not wanted otherwise: grey if all images are; their size if all have one, else the median height and width;
    mean and standard deviation of their pixels, channel by channel, from 0 to 1.
    """
    opened = _opened(encoded)
    channels = wanted.channels or (1 if all(images.is_grey(image) for image in opened) else 3)
    size = wanted.size or _size(opened)
    if not opened:
        return _processor(channels, size, wanted.mean or [0.5], wanted.std or [0.5])
    resized = [
        image.convert(mode_of(channels)).resize(size[::-1], Image.Resampling.BILINEAR)
        for image in opened[:: -(-len(opened) // SAMPLE)]
    ]
    pixels = np.stack([np.asarray(image, dtype=np.float32).reshape(-1, channels) for image in resized]) / 255
    mean = wanted.mean or [round(float(value), 4) for value in pixels.mean((0, 1), dtype=np.float64)]
    std = wanted.std or [round(float(value), 4) or 1.0 for value in pixels.std((0, 1), dtype=np.float64)]
    return _processor(channels, size, mean, std)


def changed(processor: Any, wanted: Wanted) -> Any:
    """The processor of the weights with what is wanted otherwise; another size is taken without cropping."""
    channels = channels_of(processor)
    mean, std = wanted.mean or processor.image_mean, wanted.std or processor.image_std
    if wanted.channels in (None, channels) and wanted.size is None:
        spread = [values if len(values) == channels else list(values) * channels for values in (mean, std)]
        return type(processor).from_dict({**processor.to_dict(), "image_mean": spread[0], "image_std": spread[1]})
    if wanted.channels not in (None, channels):
        # One channel for three, or the other way round: what is known of light holds for all of them.
        mean, std = (given or [float(np.mean(own))] for given, own in ((wanted.mean, mean), (wanted.std, std)))
    return _processor(wanted.channels or channels, wanted.size or size_of(processor), mean, std)


def channels_of(processor: Any) -> int:
    """How many channels the model gets."""
    return 1 if isinstance(processor, GreyImageProcessor) else 3


def mode_of(channels: int) -> str:
    """Pillow's word for an image with so many channels."""
    return "L" if channels == 1 else "RGB"


def size_of(processor: Any) -> tuple[int, int]:
    """Height and width of what the model gets."""
    blank = Image.new("RGB", (LARGEST, LARGEST))
    height, width = np.asarray(processor(images=blank)["pixel_values"][0]).shape[-2:]
    return int(height), int(width)


def _processor(channels: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Any:
    settings: dict[str, Any] = {"size": {"height": size[0], "width": size[1]}}
    for name, values in (("image_mean", mean), ("image_std", std)):
        settings[name] = list(values) if len(values) == channels else [*values] * channels
    return GreyImageProcessor(**settings) if channels == 1 else ViTImageProcessorPil(**settings, do_convert_rgb=True)


def _opened(encoded: Sequence[bytes]) -> list[Image.Image]:
    """Those of at most so many that can be opened: what is wrong with others is said where all are read."""
    made = []
    for content in encoded[:: max(1, len(encoded) // SAMPLE)]:
        try:
            made += images.decode([content])
        except images.UnreadableImagesError:
            continue
    return made


def _size(opened: Sequence[Image.Image]) -> tuple[int, int]:
    """(height, width)"""
    sizes = np.array([image.size[::-1] for image in opened] or [(LARGEST, LARGEST)])
    height, width = np.minimum(np.rint(np.median(sizes, axis=0)).astype(int), LARGEST).tolist()
    return height, width
