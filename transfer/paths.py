"""Where configs, experiments, caches and local data are: in a checkout, an installed wheel, a user's folder."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

from transfer.errors import Problem, UserError, nearest

PACKAGE = Path(__file__).resolve().parent
PACKAGE_PREFIX = "package:"


def shipped(name: str) -> Path:
    """The `conf` or `experiments` that came with the project: beside the package in a checkout, in it in a wheel."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir() else PACKAGE / name


def search_folders(name: str) -> list[Path]:
    """Where to look for `conf` or `experiments`: the user's own in the working directory first, then the shipped."""
    folders = [Path.cwd() / name, shipped(name)]
    return [folder for i, folder in enumerate(folders) if folder.is_dir() and folder not in folders[:i]]


def cache_folder(cache_dir: str | None) -> Path:
    """Where tokens and floors are kept: `cache_dir`, else $TRANSFER_CACHE, else the user's cache folder."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    if os.environ.get("TRANSFER_CACHE"):
        return Path(os.environ["TRANSFER_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "transfer"


def local_data() -> Path | None:
    """The folder of local copies of data sets, from $TRANSFER_DATA; None when it is not set or no folder."""
    folder = os.environ.get("TRANSFER_DATA")
    return Path(folder).expanduser() if folder and Path(folder).expanduser().is_dir() else None


def resolve_package_path(spec: str, *, key: str = "model.name") -> Path:
    """`package:NAME/sub/path` -> the path inside the installed package NAME, found without importing it.

    Raises:
        UserError: the package is not installed, or holds no such path.
    """
    name, _, rest = spec.removeprefix(PACKAGE_PREFIX).partition("/")
    found = importlib.util.find_spec(name)
    locations = list(found.submodule_search_locations or []) if found else []
    if not locations:
        distribution = name.replace("_", "-")
        raise UserError(Problem(key, spec, "an installed Python package", f"pip install {distribution}"))
    path = Path(locations[0]) / rest
    if not path.exists():
        inside = sorted(entry.name for entry in Path(locations[0]).iterdir())
        hint = nearest(rest.split("/")[0], inside)
        raise UserError(
            Problem(
                key, spec, f"a path inside {locations[0]}: {', '.join(inside)}", f"did you mean {hint}?" if hint else ""
            )
        )
    return path


def require_writable(folder: Path, *, key: str = "output_dir") -> None:
    """Create `folder` and write a file there, so that a run fails now and not after its training.

    Raises:
        UserError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise UserError(
            Problem(key, folder, "a folder that can be written", f"choose another with {key}=FOLDER ({error.strerror})")
        ) from error
