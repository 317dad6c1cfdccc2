"""Progress bars for people, and quiet where nobody watches."""

from __future__ import annotations

import sys

from lightning.pytorch.callbacks import RichProgressBar


def progress_bar() -> RichProgressBar | None:
    """Lightning's rich bar on a terminal, none elsewhere."""
    return RichProgressBar(leave=False) if sys.stderr.isatty() and sys.stdout.isatty() else None
