"""Progress bars for people, and quiet where nobody watches."""

from __future__ import annotations

import logging
import sys
import warnings

import transformers
from datasets import disable_progress_bars
from lightning.pytorch.callbacks import RichProgressBar


def progress_bar() -> RichProgressBar | None:
    """Lightning's rich bar on a terminal, none elsewhere."""
    return RichProgressBar(leave=False) if sys.stderr.isatty() and sys.stdout.isatty() else None


def quiet() -> None:
    """Lightning's hints are about settings that are decided here; the libraries' own bars come between ours."""
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",
        ".*sync_dist=True.*",
        ".*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*treespec.*",
        ".*exists and is not empty.*",
        ".*will save all targets and predictions in the buffer.*",
        ".*variance of predictions or target is close to zero.*",
    ):
        warnings.filterwarnings("ignore", pattern)
