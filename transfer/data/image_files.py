"""Where images lie: idx files (images and labels beside each other), and folders with a subfolder for each class."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

IDX, FOLDER = "idx", "images"
FORMATS = (IDX, FOLDER)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Such as train-images-idx3-ubyte.gz, t10k-images.idx3-ubyte and images-idx3-ubyte.
_IDX_IMAGES = re.compile(r"(?:(?P<prefix>.+)[-_.])?images[-_.]idx[34]-ubyte(?:\.gz)?", re.IGNORECASE)


def idx_labels(images: Path) -> Path | None:
    """The labels file that belongs to an idx file of images, whether it is there or not; None for any other file."""
    if not _IDX_IMAGES.fullmatch(images.name):
        return None
    head, _, tail = images.name.rpartition("images")
    return images.with_name(f"{head}labels{re.sub('idx[34]', 'idx1', tail)}")


def splits(folder: Path, stems: dict[str, tuple[str, ...]]) -> tuple[str, dict[str, Path]]:
    """The format of the images in a folder, and split -> its idx file or folder; empty where there are no images.

    ``stems`` has the names by which each split is known, best first.
    """
    found = _idx_splits(folder, stems)
    return (IDX, found) if found else (FOLDER, _folder_splits(folder, stems))


def _idx_splits(folder: Path, stems: dict[str, tuple[str, ...]]) -> dict[str, Path]:
    """By the prefix of the name. A single file is all there is to train on, whatever its prefix."""
    found = {path: match for path in sorted(folder.iterdir()) if (match := _IDX_IMAGES.fullmatch(path.name))}
    if len(found) == 1:
        return {"train": next(iter(found))}
    splits: dict[str, Path] = {}
    for path, match in found.items():
        prefix = (match["prefix"] or "train").lower()
        split = next((split for split, names in stems.items() if prefix in names), None)
        if split is not None:
            splits.setdefault(split, path)
    return splits


def _folder_splits(folder: Path, stems: dict[str, tuple[str, ...]]) -> dict[str, Path]:
    """The folders called as splits are; where none is, the folder itself if it has classes."""
    found: dict[str, Path] = {}
    for split, names in stems.items():
        for name in names:
            if split not in found and is_class_folder(folder / name):
                found[split] = folder / name
    if "train" in found:
        return found
    return {"train": folder} if is_class_folder(folder) else {}


def is_class_folder(folder: Path) -> bool:
    """Whether this folder has subfolders with images in them."""
    return folder.is_dir() and any(next(images_below(child), None) for child in _classes(folder))


def _classes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_below(folder: Path) -> Iterator[Path]:
    """The image files of one class, in the order of their paths."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def labelled(folder: Path) -> list[tuple[Path, str]]:
    """Every image with its class, the name of the subfolder."""
    return [(path, child.name) for child in _classes(folder) for path in images_below(child)]


def content_hash(path: Path) -> bytes:
    """Of what belongs to a split: a folder's images with their names, or an idx file of images and its labels."""
    labels = idx_labels(path)
    files = [file for file, _ in labelled(path)] if labels is None else [path, labels]
    there = [file for file in files if file.is_file()]
    stats = tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in there)
    return _content_hash(path, stats)


@lru_cache(maxsize=64)
def _content_hash(path: Path, entries: tuple[tuple[Path, int, int], ...]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for file, size, _ in entries:
        name = file.relative_to(path).as_posix() if path.is_dir() else "labels" if file != path else ""
        digest.update(f"\0{name}\0{size}\0".encode() + file.read_bytes())
    return digest.digest()
