"""`transfer ARGUMENTS` in a process forked from one with torch imported: real, and without the seconds of imports.

It has its own environment, folder, signals and exit code, as a command of a shell has. What a test says of imports, or
of what is read from the environment while importing, needs a fresh interpreter (`tests.running.start`).
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from transfer.cli import main
from transfer.interruption import SIGNALS


def _main(arguments, environment, folder, out, err):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, (file, stream) in {1: (out, sys.stdout), 2: (err, sys.stderr)}.items():
        opened = os.open(file, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
        stream.reconfigure(line_buffering=True)
    for signum in SIGNALS:  # the process that this one is forked from ignores them
        signal.signal(signum, signal.SIG_DFL)
    # As from a terminal: tests that are started in the background hand down that the keyboard is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["transfer", *arguments]
    try:
        main(arguments)
    finally:
        # The end of an interpreter, of which a process of multiprocessing leaves out the second half.
        threading._shutdown()
        atexit._run_exitfuncs()


class Forked:
    """As much of `subprocess.Popen` as the tests need."""

    def __init__(self, arguments, env=None, cwd=None):
        # The same process that the product forks ranks from: one a test worker.
        multiprocessing.set_forkserver_preload(["transfer.preload", "transfer.stages"])
        self._files = [Path(tempfile.mkstemp(suffix=".txt")[1]) for _ in range(2)]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_main, args=([*map(str, arguments)], dict(env or os.environ), str(cwd or Path.cwd()), *self._files)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("transfer", timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """All of stdout and stderr, once it has ended."""
        self.wait(timeout)
        texts = [file.read_text() for file in self._files]
        return texts[0], texts[1]

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)
