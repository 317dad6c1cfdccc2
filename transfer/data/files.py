"""Where a data set lies, and its identity. Nothing heavy is imported here: a run is fingerprinted before it starts."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from transfer import config
from transfer.data import image_files
from transfer.errors import Problem, UserError, nearest

EMBEDDED = Path(__file__).parent / "embedded"
FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "conll", "txt")
SPLITS = ("train", "validation", "test")
# A file of this many bytes is not read twice without need.
LARGE = 1 << 20
# the stems by which a folder's files and a hub set's splits are known, best first
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "validation_matched"),
    "test": ("test", "t10k", "test_matched"),
}


@dataclass(frozen=True)
class Location:
    """The files of a data set, one a split, or else its hub id.

    `keys` has, for each split, the config key that led to its file.
    `local`: the files are a copy, under $TRANSFER_DATA, of what `path` names; its columns may have plain names.
    """

    files: dict[str, Path] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    hub: str | None = None
    local: bool = False


def locate(data: config.Data, *, key: str) -> Location:
    """Resolve ``data.path``, ``data.files`` and ``data.local``; ``key`` is the prefix of the messages.

    The order: ``embedded:``; what exists on this disk; the local copy; the hub. Nothing is opened.

    Raises:
        UserError: nothing is configured, or something that must be a file is none, or is of an unknown format.
    """
    if data.format is not None and data.format not in FORMATS:
        guess = nearest(data.format, FORMATS)
        action = f"Did you mean {guess}?" if guess else "Leave it null to go by the extension."
        raise UserError(Problem(f"{key}.format", data.format, ", ".join(FORMATS), action))
    named = {split: value for split, value in asdict(data.files).items() if value}
    if named:
        return _from_names(named, data, key)
    path = data.path
    if path is not None and path.startswith("embedded:"):
        return _embedded(path, data, key)
    if path is not None and Path(path).expanduser().is_dir():
        return _from_folder(Path(path).expanduser(), data, f"{key}.path", local=False)
    if path is not None and (Path(path).expanduser().exists() or _looks_like_a_file(path)):
        return _from_files({"train": path}, data, {"train": f"{key}.path"})
    if (file := local_file(data)) is not None:
        return replace(_from_files({"train": str(file)}, data, {"train": f"{key}.local"}), local=True)
    if (folder := local_folder(data)) is not None:
        return _from_folder(folder, data, f"{key}.local", local=True)
    if path is not None:
        return Location(hub=path)
    if data.local is not None:
        raise UserError(_no_local_copy(data.local, key))
    allowed = f"embedded:NAME, a file, a folder with train.*, or a Hugging Face hub id; or {key}.files.train"
    action = f"Set {key}.path=my.csv, or choose a data set by its name: data@{key}=movies."
    raise UserError(Problem(f"{key}.path", "null", allowed, action))


def local_folder(data: config.Data) -> Path | None:
    """$TRANSFER_DATA/<data.local>, if it is there."""
    root = os.environ.get("TRANSFER_DATA")
    if not root or data.local is None:
        return None
    folder = Path(root).expanduser() / data.local
    return folder if folder.is_dir() else None


def local_file(data: config.Data) -> Path | None:
    """$TRANSFER_DATA/<data.local>, if that is a single file."""
    root = os.environ.get("TRANSFER_DATA")
    if not root or data.local is None:
        return None
    file = Path(root).expanduser() / data.local
    return file if file.is_file() else None


def fingerprint(data: config.Data, *, key: str) -> str:
    """32 hex digits that name the content: the bytes of the files, not their paths, and the fields that shape the rows.

    A hub id counts as ``path@revision:config_name``; its content is not looked at. ``train_size`` does not count:
    it is taken out of the loaded rows, and a run's record has the hash of that subset. Nor does ``fold``: all folds are
    one data set (see `split_fingerprint`).
    """
    location = locate(data, key=key)
    digest = hashlib.blake2b(digest_size=16)
    shaping: dict[str, object] = {
        "columns": _columns(data.columns),
        "labels": list(data.labels),
        "label_map": dict(data.label_map),
        "label_separator": data.label_separator,
        "fractions": [data.validation_fraction, data.test_fraction],
        "sizes": [data.validation_size, data.test_size],
        "formats": location.formats,
        "local": location.local,
    }
    if data.drop_invalid:
        shaping["drop_invalid"] = True
    if data.streaming:
        shaping["streaming"] = data.shuffle_buffer
    if data.folds is not None:  # the identity of data without them is older than they are
        shaping["folds"] = data.folds
    digest.update(json.dumps(shaping, sort_keys=True).encode())
    if location.hub is not None:
        digest.update(f"\0hub\0{location.hub}@{data.revision}:{data.config_name}".encode())
    for split, path in sorted(location.files.items()):
        if location.formats[split] in image_files.FORMATS:
            digest.update(f"\0{split}\0".encode() + image_files.content_hash(path))
            continue
        digest.update(f"\0{split}\0".encode() + bytes.fromhex(content_hash(path)))
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """32 hex digits of the bytes of a file. A large one is read again only where it has changed."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return _content_hash.__wrapped__(path, 0, 0)
    return _content_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _content_hash(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))  # type: ignore[arg-type]
    return content.hexdigest()


def _columns(columns: config.Columns) -> dict[str, object]:
    """The names of the columns; of those that came later than the others only what is set."""
    named = asdict(columns)
    return {name: value for name, value in named.items() if value or name not in ("tokens", "image", "choices")}


def split_fingerprint(data: config.Data, *, key: str) -> str:
    """As `fingerprint`, and in a cross-validation another one for each fold."""
    found = fingerprint(data, key=key)
    return found if data.folds is None else f"{found}-{data.fold}"


def format_of(path: Path, given: str | None) -> str | None:
    """The format by the name, ``.gz`` aside; None if it is none that is known. ``given`` has the last word."""
    if given is not None:
        return given
    if image_files.idx_labels(path) is not None:
        return image_files.IDX
    name = path.name.lower().removesuffix(".gz")
    extension = name.rpartition(".")[2]
    return extension if extension in FORMATS else None


def _looks_like_a_file(path: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; what starts in a folder that is here was meant as a file."""
    if format_of(Path(path), None) is not None or path.endswith((".gz", ".xlsx", ".zip", "/")):
        return True
    if path.startswith((".", "/", "~")) or "\\" in path or path.count("/") > 1:
        return True
    return "/" in path and Path(path).parent.is_dir()


def _embedded(path: str, data: config.Data, key: str) -> Location:
    name = path.removeprefix("embedded:")
    known = {file.name.split(".")[0]: file for file in EMBEDDED.iterdir() if format_of(file, None) is not None}
    if name not in known:
        guess = nearest(name, sorted(known))
        action = f"Did you mean embedded:{guess}?" if guess else "Choose one of these."
        raise UserError(Problem(f"{key}.path", path, ", ".join(f"embedded:{each}" for each in sorted(known)), action))
    return Location({"train": known[name]}, {"train": format_of(known[name], None) or ""}, {"train": f"{key}.path"})


def _from_names(named: dict[str, str], data: config.Data, key: str) -> Location:
    if data.path is not None:
        action = f"Set {key}.path=null to read the files, or leave {key}.files out."
        raise UserError(Problem(f"{key}.files", f"{named}, and {key}.path={data.path}", "one of the two", action))
    if "train" not in named:
        action = f"Set {key}.files.train; validation and test are drawn from it where they have no file."
        raise UserError(Problem(f"{key}.files.train", "null", "a file", action))
    return _from_files(named, data, {split: f"{key}.files.{split}" for split in named})


def _from_files(named: dict[str, str], data: config.Data, keys: dict[str, str]) -> Location:
    files, formats, problems = {}, {}, []
    for split, name in named.items():
        path = Path(name).expanduser()
        found = image_files.FOLDER if image_files.is_class_folder(path) else format_of(path, data.format)
        if not path.is_file() and found != image_files.FOLDER:
            problems.append(_missing(path, name, keys[split]))
        elif found is None:
            allowed = ", ".join(f".{each}" for each in FORMATS) + ", each also with .gz"
            base = keys[split].rsplit(".files", 1)[0].removesuffix(".path")
            action = f"Convert the file, or say what it is: {base}.format=csv."
            problems.append(Problem(keys[split], f"{name} (unknown extension)", allowed, action))
        else:
            files[split], formats[split] = path, found
    if problems:
        raise UserError(problems)
    return Location(files, formats, keys)


def _from_folder(folder: Path, data: config.Data, key: str, *, local: bool) -> Location:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    files, formats, problems = {}, {}, []
    for split, stems in SPLIT_NAMES.items():
        here = [folder / name for name in names if name.split(".")[0] in stems]
        here = [path for path in here if format_of(path, data.format) is not None]
        if len(here) > 1:
            received = ", ".join(path.name for path in here)
            action = f"Name the one that is meant: {key.rpartition('.')[0]}.files.{split}=..."
            problems.append(Problem(key, f"{folder} with {received}", f"one file for {split}", action))
        elif here:
            files[split], formats[split] = here[0], format_of(here[0], data.format) or ""
    if not problems and "train" not in files:
        kind, found = image_files.splits(folder, SPLIT_NAMES)
        if "train" in found:
            return Location(found, dict.fromkeys(found, kind), dict.fromkeys(found, key), local=local)
        received = f"{folder} with {_listing(names)}"
        allowed = "train.* and, if there are such, validation.* (valid.*, val.*, dev.*) and test.*; "
        allowed += "* is " + ", ".join(FORMATS)
        allowed += "; or images: idx files, or a subfolder for every class"
        action = f"Rename the files, or name them one by one: {key.rpartition('.')[0]}.files.train=..."
        problems.append(Problem(key, received, allowed, action))
    if problems:
        raise UserError(problems)
    return Location(files, formats, dict.fromkeys(files, key), local=local)


def _missing(path: Path, received: str, key: str) -> Problem:
    if path.is_dir():
        return Problem(key, f"{received} (a folder)", "a file", "Name the file inside it.")
    if not path.parent.is_dir():
        action = f"The folder {path.parent} does not exist; relative paths start in {Path.cwd()}."
        return Problem(key, f"{received} (no such file)", "an existing file", action)
    names = sorted(child.name for child in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    action = f"Did you mean {' or '.join(close)}?" if close else f"In {path.parent.resolve()}: {_listing(names)}."
    return Problem(key, f"{received} (no such file)", "an existing file", action)


def _no_local_copy(local: str, key: str) -> Problem:
    root = os.environ.get("TRANSFER_DATA")
    kind = "folder" if format_of(Path(local), None) is None else "file"
    received = f"TRANSFER_DATA={root}, where there is no {kind} {local}" if root else "TRANSFER_DATA is not set"
    if kind == "file":
        action = f"This data set is read from one local file: export TRANSFER_DATA=FOLDER, which holds {local}."
        return Problem(f"{key}.local", received, f"a file $TRANSFER_DATA/{local}", f"{action} Or set {key}.path.")
    action = (
        f"This data set is read from local files only: export TRANSFER_DATA=FOLDER, where FOLDER/{local}/ holds "
        f"train.jsonl (or csv, tsv, json, parquet; also .gz) with columns text and label. Or set {key}.path."
    )
    return Problem(f"{key}.local", received, f"a folder $TRANSFER_DATA/{local}", action)


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "no files"
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
