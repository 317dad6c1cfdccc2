"""Imports run downward only, and the heavy libraries stay where they belong."""

import ast
from pathlib import Path

import pytest

from transfer.paths import PACKAGE

# From the command line down; a module may import from its own layer and from those below.
LAYERS = [
    "cli __main__",
    "compose explain sweep run rerun listing doctor completion study",
    "launch preflight",
    "stages",
    "recording tracking evaluation",
    "module initial legs",
    "optim freezing checkpoints gradients progress",
    "validation plan identity",
    "tasks models data weights floors parameters hardware",
    "config records",
    "paths",
    "errors",
]
DEPTH = {module: depth for depth, layer in enumerate(LAYERS) for module in layer.split()}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imported(file):
    """The modules that a file imports, dotted, wherever in the file; what only the type checker sees aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name):
    """transfer.X.Y -> X; None for other packages and for names of the package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "transfer" and parts[1] != "__version__" else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_downward(file):
    module = file.relative_to(PACKAGE).with_suffix("").parts[0]
    assert module in DEPTH, f"give {module} its place in LAYERS"
    found = set(imported(file))
    upward = {name for name in found if own(name) and DEPTH[own(name)] < DEPTH[module]}
    assert not upward
    if module == "study":
        assert {own(name) for name in found if own(name)} <= {"study", "records", "errors", "paths"}
    libraries = {name.partition(".")[0] for name in found}
    assert "hydra" not in libraries or module in ("compose", "explain", "sweep")
    assert "wandb" not in libraries or module == "tracking"
    assert file.stem not in ("utils", "util", "helpers", "helper", "common", "misc")


def test_every_layer_has_its_modules():
    there = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in map(Path, FILES)}
    assert there == {*DEPTH}
