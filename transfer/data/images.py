"""Encoded images: read from files, and opened as pixels. A row holds the bytes of an image file."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.data import image_files
from transfer.data.formats import Table
from transfer.data.parsing import UnreadableError, content
from transfer.errors import Problem, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 5


class UnreadableImagesError(Exception):
    """Places of the images that cannot be opened, with the reason for each."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


def read(path: Path) -> Table:
    """`image` and `label`, and `file` where there are files: of a folder of classes, or of two idx files.

    Raises:
        UnreadableError: files that are not what they should be.
    """
    labels = image_files.idx_labels(path)
    if labels is None:
        found = image_files.labelled(path)
        return {
            "image": [file.read_bytes() for file, _ in found],
            "label": [label for _, label in found],
            "file": [file.relative_to(path).as_posix() for file, _ in found],
        }
    if not labels.is_file():
        raise UnreadableError(f"there is no {labels.name} beside it")
    shape, pixels = _idx(path)
    count, values = _idx(labels)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise UnreadableError(f"the dimensions {shape}, not (images, height, width) or (images, height, width, 3)")
    if count != (shape[0],):
        raise UnreadableError(f"{shape[0]} images, and {labels.name} has the dimensions {count}")
    # An uncompressed image file of the Netpbm family is these pixels with a line before them.
    kind, size = ("P6" if shape[3:] == (3,) else "P5"), math.prod(shape[1:])
    head = f"{kind}\n{shape[2]} {shape[1]}\n255\n".encode()
    return {
        "image": [head + pixels[start : start + size] for start in range(0, len(pixels), size)],
        "label": [str(value) for value in values],
    }


def _idx(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Dimensions and values of an idx file: two zeros, 8 for bytes, the number of dimensions, each in four bytes."""
    found = content(path)
    if found[:3] != b"\0\0\x08" or len(found) < 4 + 4 * found[3]:
        raise UnreadableError(f"{path.name} does not begin as an idx file of bytes")
    shape = struct.unpack(f">{found[3]}I", found[4 : 4 + 4 * found[3]])
    values = found[4 + 4 * found[3] :]
    if len(values) != math.prod(shape) or not values:
        raise UnreadableError(f"{path.name} has {len(values):,} values, not the {math.prod(shape):,} of {shape}")
    return shape, values


def encoded(values: Sequence[Any], name: str, where: str, key: str, *, folder: Path | None = None) -> list[bytes]:
    """A column of encoded images: bytes, {bytes, path} as hub sets have them, or the names of files.

    Args:
        name: of the column; ``where`` it is from and the prefix ``key`` of its config are for messages.
        folder: where the names of files start. Without one they are refused: the content of the files would be no part
            of what a run is known by.

    Raises:
        UserError: rows with something else.
    """
    images = [_bytes(value, folder) for value in values]
    wrong = [place for place, image in enumerate(images, start=1) if not image]
    if not wrong:
        return [image or b"" for image in images]
    sample = values[wrong[0] - 1]
    shown = "no value" if sample is None else f"{type(sample).__name__} {str(sample)[:60]!r}"
    places = ", ".join(map(str, wrong[:SHOWN])) + (", ..." if len(wrong) > SHOWN else "")
    received = f"{name}: {len(wrong)} of {len(values)} are not (rows {places} of {where}; the first has {shown})"
    allowed = "the bytes of an image file in every row" + (", or its path" if folder else "")
    action = "Mend these rows, or name another column."
    if isinstance(sample, str) and folder is None:
        action = "To train on files, put them into a folder FOLDER/CLASS/*.png, or their bytes into a parquet file."
    raise UserError(Problem(f"{key}.columns.image", received, allowed, action))


def _bytes(value: Any, folder: Path | None) -> bytes | None:
    if isinstance(value, dict):
        if value.get("bytes"):
            return bytes(value["bytes"])
        value = value.get("path")
        folder = folder or Path()
    if isinstance(value, str) and folder is not None:
        file = folder / Path(value).expanduser()
        return file.read_bytes() if file.is_file() else None
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def decode(images: Sequence[bytes]) -> list[Image]:
    """The images, opened and upright.

    Raises:
        UnreadableImagesError: with all of them that cannot be opened.
    """
    from PIL import Image, ImageOps

    opened, reasons = [], {}
    for place, image_file in enumerate(images):
        try:
            image = Image.open(io.BytesIO(image_file))
            image.load()
            if image.mode[0] in "IF":  # Pillow would cut them at 255
                raise ValueError("more than 8 bits a pixel: save it with 8")
            opened.append(ImageOps.exif_transpose(image))
        except Exception as error:  # of many kinds, among them SyntaxError for a broken PNG
            reasons[place] = "no image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    if reasons:
        raise UnreadableImagesError(reasons)
    return opened


def is_grey(image: Image) -> bool:
    """Whether the file has one channel of light, transparency aside."""
    return image.mode in ("1", "L", "LA")
