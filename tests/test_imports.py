"""Imports run downward only, and the heavy libraries stay where they belong."""

import ast

import pytest

from transfer.paths import PACKAGE

# From the command line down; a module may import from its own layer and from those below. A module inside a subpackage
# that has a layer of its own is named with it.
LAYERS = [
    "cli __main__ arguments",
    "estimate_table",
    "compose estimate explain sweep run rerun prefetch export adapter_export onnx_export listing doctor completion "
    "choose study uploads tracking_workspace",
    "launch measuring preflight preload",
    "stages fitting testing prefix.together fewshot.stage",
    "prefix.heads",
    "predict recording tracking tracking_study evaluation",
    "tracking_start",
    "module initial architecture image_inputs legs multitask fewshot",
    "prefix adaptation parallel_adapter shared regularizers averaging "
    "optim freezing checkpoints gradients memory operations "
    "progress ranks row_files sweep.pruning sweep.storage sweep.choices",
    "nodes sharding",
    "validation limits streams crossvalidation devices compiling methods plan identity fewshot.settings",
    "tasks models data mixture weights floors parameters pooling hardware peak",
    "config records wandb_environment",
    "paths interruption pictures",
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


def place(name):
    """transfer.X.Y -> X.Y where that has a layer of its own, else X; None for other packages."""
    parts = name.split(".")
    if parts[0] != "transfer" or parts[1] == "__version__":
        return None
    whole = ".".join(parts[1:3])
    return whole if whole in DEPTH else parts[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_downward(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    module = place(".".join(["transfer", *parts]))
    assert module in DEPTH, f"give {module} its place in LAYERS"
    found = set(imported(file))
    upward = {name for name in found if place(name) and DEPTH[place(name)] < DEPTH[module]}
    assert not upward
    if module == "study":
        assert {place(name) for name in found if place(name)} <= {"study", "records", "errors", "paths", "pictures"}
    libraries = {name.partition(".")[0] for name in found}
    assert "hydra" not in libraries or module in ("compose", "explain", "sweep")
    assert not {"wandb", "wandb_workspaces"} & libraries or module.startswith("tracking")
    assert file.stem not in ("utils", "util", "helpers", "helper", "common", "misc")


def test_every_layer_has_its_modules():
    there = {place(".".join(["transfer", *path.relative_to(PACKAGE).with_suffix("").parts])) for path in FILES}
    assert there == {*DEPTH}
