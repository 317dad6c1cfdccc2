"""Work that another core does meanwhile, where there is one to spare and enough to do."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")


def beside(work: Callable[[], Result], *, wanted: bool) -> Callable[[], Result]:
    """Begin `work` in a forked process, and a function that waits for what comes of it.

    Without a core to spare, outside of Linux, or beside other threads, whose locks a fork would keep for ever, the
    work is done when its result is asked for; also where the process did not come to its end.

    Args:
        wanted: whether there is so much to do that it pays.
    """
    alone = threading.active_count() == 1 and not multiprocessing.current_process().daemon
    if not (wanted and alone and sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1):
        return work
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(work, theirs), daemon=True)
    with warnings.catch_warnings():
        # From Python 3.12 on of any thread, also of those that numpy's matrix products wait with.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()

    def result() -> Result:
        try:
            found: Any = ours.recv()
        except EOFError:
            return work()
        finally:
            process.join()
        return found[0] if found else work()

    return result


def _send(work: Callable[[], Any], to: Connection) -> None:
    try:
        found = (work(),)
    except Exception:
        to.send(())  # it fails again where it is done again, and is told there
        return
    to.send(found)
