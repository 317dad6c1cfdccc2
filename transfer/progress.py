"""Progress bars for people, and quiet where nobody watches."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import transformers
from datasets import disable_progress_bars
from lightning.pytorch.callbacks import RichProgressBar


def progress_bar() -> RichProgressBar | None:
    """Lightning's rich bar on a terminal, none elsewhere and none where $TRANSFER_PROGRESS is off."""
    wanted = os.environ.get("TRANSFER_PROGRESS") != "off" and sys.stderr.isatty() and sys.stdout.isatty()
    return RichProgressBar(leave=False) if wanted else None


@contextmanager
def bar(what: str) -> Iterator[Callable[[int], None]]:
    """A count of rows on a terminal; the function that it gives is told how many more there are."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    shown = os.environ.get("TRANSFER_PROGRESS") != "off" and sys.stderr.isatty()
    columns = SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(what, total=None)
        yield lambda number: progress.advance(task, number)


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
        ".*better way to train encoder-decoder models.*",
    ):
        warnings.filterwarnings("ignore", pattern)
