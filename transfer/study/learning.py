"""How fast an arm learns, read off the validation metric that a run logged while it trained."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfer.study.results import Contrast
from transfer.study.statistics import Spread, spread
from transfer.study.strategies import Run
from transfer.study.weighted_metrics import Array

FILE = "metrics.csv"


@dataclass(frozen=True)
class Curve:
    """Validation metric [k] after so many optimizer steps [k]."""

    steps: Array
    values: Array


@dataclass(frozen=True)
class Speed:
    """A strategy's learning beside scratch's, over the seeds whose runs both logged it; gains positive if better.

    ``jumpstart``: first validation value less that of scratch. ``final``: the same of the best values, which the kept
    weights have. ``steps``: median steps until the best value of the twin from scratch is reached, infinite where more
    than half of the seeds never reach it; ``scratch_steps``: what scratch took itself. (The measures are those of
    Taylor and Stone 2009, Transfer Learning for Reinforcement Learning Domains, JMLR 10, section 2.)
    """

    jumpstart: Spread
    final: Spread
    steps: float
    scratch_steps: float
    num_reached: int
    num_seeds: int


def curve(run: Run, metric: str) -> Curve | None:
    """What the run logged of the validation ``metric``, None where it logged nothing."""
    path = Path(run.folder or "") / FILE
    if not run.folder or not path.is_file():
        return None
    steps, values = [], []
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if "step" not in header or f"val/{metric}" not in header:
            return None
        step, value = header.index("step"), header.index(f"val/{metric}")
        for row in rows:  # a row holds what was logged together; most cells are empty
            if len(row) > max(step, value) and row[value]:
                steps.append(int(row[step]) + 1)  # Lightning counts from 0
                values.append(float(row[value]))
    return Curve(np.array(steps), np.array(values)) if steps else None


def speed(contrast: Contrast, metric: str, higher_is_better: bool) -> Speed | None:
    """Jumpstart, steps to scratch's best value and final value; None without a pair of logged runs."""
    sign = 1 if higher_is_better else -1
    jumps, finals, steps, scratch_steps = [], [], [], []
    for treated, control in zip(contrast.treated, contrast.control, strict=True):
        ours, theirs = curve(treated.run, metric), curve(control.run, metric)
        if ours is None or theirs is None:
            continue
        best, threshold = (sign * ours.values).max(), (sign * theirs.values).max()
        jumps.append(float(sign * (ours.values[0] - theirs.values[0])))
        finals.append(float(best - threshold))
        steps.append(_reached(ours, threshold, sign))
        scratch_steps.append(_reached(theirs, threshold, sign))
    if not jumps:
        return None
    return Speed(
        spread(jumps),
        spread(finals),
        _median(steps),
        _median(scratch_steps),
        sum(math.isfinite(step) for step in steps),
        len(steps),
    )


def _median(steps: list[float]) -> float:
    """The upper of the two in the middle, so that infinity need not be averaged."""
    return sorted(steps)[len(steps) // 2]


def _reached(found: Curve, threshold: float, sign: int) -> float:
    """Steps until the threshold is first reached; infinite if it never is."""
    reached = np.flatnonzero(sign * found.values >= threshold)
    return float(found.steps[reached[0]]) if len(reached) else math.inf
