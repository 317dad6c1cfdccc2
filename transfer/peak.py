"""The matrix peak of this machine: the operations a second that a device reaches in the product of two large matrices.

It is measured, in a third of a second, once for each device, type of number and number of threads, and kept in the
cache folder. On a machine that others use at the same time it is what they left.
"""

from __future__ import annotations

import json
import platform
import time
from typing import TYPE_CHECKING, Any

from transfer import hardware, records
from transfer.paths import cache_folder

if TYPE_CHECKING:
    import torch

SECONDS = 0.3
# Rows and columns: on the CPU a product takes some 10 ms a core, on a GPU some ms.
SIZE = {"cpu": 1024, "cuda": 8192, "mps": 2048}
_known: dict[str, float] = {}


def matrix_peak(precision: str, device: str, cache_dir: str | None) -> float:
    """Floating point operations a second, of the type of number that products have with this precision.

    Args:
        precision: one of Lightning's words, such as bf16-mixed.
        device: cpu, cuda or mps.
    """
    import torch

    kind = {"bf1": torch.bfloat16, "16-": torch.float16, "64-": torch.float64}.get(precision[:3], torch.float32)
    about = {
        "device": torch.cuda.get_device_name() if device == "cuda" else hardware.cpu_name(),
        "node": platform.node() if device == "cpu" else "",
        "kind": str(kind),
        "threads": torch.get_num_threads() if device == "cpu" else 0,
        "torch": torch.__version__,
        "float32": torch.get_float32_matmul_precision(),
    }
    key = records.fingerprint(about)
    if key not in _known:
        file = cache_folder(cache_dir) / "peaks" / f"{key}.json"
        if file.is_file():
            _known[key] = float(json.loads(file.read_text(encoding="utf-8"))["flops_per_s"])
        else:
            _known[key] = _measure(device, kind)
            file.parent.mkdir(parents=True, exist_ok=True)
            records.write_atomically(file, json.dumps(about | {"flops_per_s": _known[key]}, indent=1) + "\n")
    return _known[key]


def _measure(device: str, kind: torch.dtype) -> float:
    """By the quickest of the products that fit into the time: what slows one down is not the machine's own."""
    import torch

    size = SIZE[device]
    left, right = (torch.rand(size, size, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(left)
    wait: Any = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    quickest, end = float("inf"), time.perf_counter() + SECONDS
    for number in range(1000):
        began = time.perf_counter()
        with torch.inference_mode():
            torch.mm(left, right, out=out)
        wait()
        if number:  # the first chooses a kernel
            quickest = min(quickest, time.perf_counter() - began)
        if number > 1 and time.perf_counter() > end:
            break
    return 2.0 * size**3 / quickest
