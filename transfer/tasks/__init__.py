"""One module a task: NAME.py holds a class `Task`, found by the task's name in the config.

The shipped ones are here; those of the user's own are in the folder `tasks/` of the working directory.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from transfer import config
from transfer.errors import Problem, UserError, nearest

OWN = "tasks"
_SHIPPED = Path(__file__).parent


def modules() -> dict[str, Path]:
    """The name of every task -> its module, none of which is imported: that would take seconds."""
    shipped = _shipped()
    # Those of the user's own may change while this process lives.
    own = _declaring_a_task(Path.cwd() / OWN)
    return shipped | {name: path for name, path in own.items() if name not in shipped}


@cache
def _shipped() -> dict[str, Path]:
    return _declaring_a_task(_SHIPPED)


def _declaring_a_task(folder: Path) -> dict[str, Path]:
    """The modules of a folder; some hold only what several tasks share."""
    files = sorted(folder.glob("[a-z]*.py"))
    return {path.stem: path for path in files if "\nclass Task(" in path.read_text(encoding="utf-8")}


def own(name: str) -> Path | None:
    """The module of the user's own of this name, if there is one."""
    path = Path.cwd() / OWN / f"{name}.py"
    return path if path.is_file() else None


def code(name: str) -> str | None:
    """What stands for the code of a task of the user's own, which may change from run to run; None for the shipped."""
    path = None if (_SHIPPED / f"{name}.py").is_file() else own(name)
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path else None


def make(task: config.Task, labels: list[str], *, key: str) -> Any:
    """The task of a leg over these class names (none for regression)."""
    return _module(task.name, key).Task(task, labels, key=key)


def problem_type(task: config.Task) -> str:
    """How the label column is read (`transfer.tasks.base`)."""
    kind: str = _module(task.name).Task.kind_of_labels(task)
    return kind


def pipeline(task: config.Task) -> str | None:
    """The pipeline of transformers that opens the models of this task, where there is one."""
    name: str | None = _module(task.name).Task.pipeline
    return name


def _module(name: str, key: str = "task") -> ModuleType:
    if not (_SHIPPED / f"{name}.py").is_file():
        if own(name) is None:
            meant = nearest(name, list(modules()))
            action = (
                f"did you mean {meant}?" if meant else f"one of your own is {OWN}/{name}.py in the folder you work in"
            )
            raise UserError(Problem(f"{key}.name", name, ", ".join(modules()), action))
        _look_here()
    return importlib.import_module(f"{__name__}.{name}")


def _look_here() -> None:
    folder = str(Path.cwd() / OWN)
    if folder not in __path__:
        __path__.append(folder)


# A process that is sent a task, such as a worker that makes batches, imports its module by name.
_look_here()
