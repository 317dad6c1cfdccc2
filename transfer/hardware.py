"""What this machine is and can do fast."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from transfer import paths

PACKAGES = (
    "transfer",
    "torch",
    "lightning",
    "transformers",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "wandb",
    "numpy",
    "scikit-learn",
)


@lru_cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags, where the system tells them (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def cpu_has_fast_bf16() -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def precision(requested: str, accelerator: str) -> str:
    """`auto` -> bf16-mixed where bfloat16 is fast here, else 32-true."""
    if requested != "auto":
        return requested
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator in ("cpu", "auto") and not torch.backends.mps.is_available() and cpu_has_fast_bf16():
        return "bf16-mixed"
    return "32-true"


def exact_float32() -> None:
    """`32-true` is float32: no TF32, which keeps 10 of 23 bits, and which torch has on in convolutions by default.

    A run in 32-true is what others are compared with, and the same on every machine; for speed there is bf16-mixed.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def channels_last(model: Any) -> None:
    """Lay out convolutions, and so what goes through them, with the channels last: where batch norms lie in between.

    On the CPU that is 1.2 times as fast for a small ResNet, and no gain for VGG-11 (0.92) and a small CNN (1.08).
    """
    from torch import channels_last as last
    from torch.nn import BatchNorm2d

    if any(isinstance(module, BatchNorm2d) for module in model.modules()):
        model.to(memory_format=last)


def num_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_process() -> Any:
    """For a Trainer that is the only one of its run: inside a SLURM job Lightning would take it for a SLURM task, and
    write checkpoints and requeue the job by itself.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment

    return LightningEnvironment()


def on_gpu(accelerator: str) -> bool:
    """Whether a run with this `trainer.accelerator` is on an NVIDIA or AMD GPU here."""
    import torch

    return accelerator != "cpu" and torch.cuda.is_available()


def describe(accelerator: str, num_devices: int, precision: str) -> dict[str, Any]:
    """The record's `hardware`."""
    import torch

    gpu = on_gpu(accelerator)
    return {
        "device": torch.cuda.get_device_name(0) if gpu else cpu_name(),
        "accelerator": "gpu" if gpu else "cpu",
        "num_devices": num_devices,
        "num_cpus": num_cpus(),
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
    }


def forget_peak_memory() -> None:
    """From now on `peak_memory` speaks of what comes, where the system can forget (Linux) what was."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int | None]:
    """The record's `memory`: the most that this process has had in main memory and on its GPU, in bytes."""
    import resource

    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_available()
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch is not None and on_gpu else None,
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@lru_cache
def versions() -> dict[str, str]:
    """The record's `versions`: Python and the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


DIFF = "code.diff"


@lru_cache
def diff() -> str:
    """The uncommitted changes to tracked files of the code that `git` speaks of."""
    for folder in (Path.cwd(), paths.PACKAGE):
        try:
            found = subprocess.run(["git", "diff", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return ""
        if found.returncode == 0:
            return found.stdout
    return ""


@lru_cache
def git() -> dict[str, Any]:
    """The record's `git`: the commit of the working directory (or of this checkout) and whether it has changes."""
    for folder in (Path.cwd(), paths.PACKAGE):
        try:
            commit = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10
            )
            status = subprocess.run(
                ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return {"commit": None, "dirty": None}
        if commit.returncode == 0:
            return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
    return {"commit": None, "dirty": None}
