"""Imported by the process that ranks are forked from: it has to outlive a signal that goes to a whole SLURM step.

Without it the ranks count as dead before they have written their checkpoint. Each takes its signals back by itself.
"""

import signal

from transfer.interruption import SIGNALS

for _signum in SIGNALS:
    signal.signal(_signum, signal.SIG_IGN)
