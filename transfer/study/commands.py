"""The command lines that repeat the runs of a study, or add the ones it lacks."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.study.settings import FOLD, METHODS, unread
from transfer.study.strategies import Run, Strategy

if TYPE_CHECKING:
    from transfer.study.results import Comparison


class Commands:
    """Writes the commands of a study; it names what tells a run from the others of its experiment."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.freezings = {s.freezing for s in strategies if s.freezing is not None}
        self.sizes = {s.budget.train_size for s in strategies}
        self.sources: dict[Any, set[str]] = defaultdict(set)
        self.targets: dict[Any, set[str]] = defaultdict(set)
        self.models: dict[Any, set[str]] = defaultdict(set)
        for strategy in strategies:
            for experiment in {run.record.get("experiment") for run in strategy.runs}:
                self.targets[experiment].add(strategy.budget.target)
                self.models[experiment].add(strategy.budget.model)
                if strategy.source is not None:
                    self.sources[experiment].add(strategy.source)

    def command(
        self,
        run: Run,
        strategy: Strategy,
        arm: str | None = None,
        seed: int | None = None,
        folds: Sequence[int] | None = None,
    ) -> str:
        """The command line that repeats ``run``, or its twin of another ``arm`` or ``seed``, or on other ``folds``.

        It is the one that was typed where the record kept it.
        """
        arm = arm or strategy.arm
        typed = run.record.get("overrides")
        words = self._typed(run, typed, arm, seed) if typed else self._rebuilt(run, strategy, arm, seed)
        if folds:
            words = [word for word in words if not word.startswith(f"{FOLD}=")]
            words = ["-m", *words, f"{FOLD}={','.join(map(str, folds))}"]
        return " ".join(shlex.quote(word) for word in ["transfer", "run", *words])

    def _typed(self, run: Run, typed: Sequence[str], arm: str, seed: int | None) -> list[str]:
        """The overrides of the run itself, with another arm and seed where they are asked for."""
        words, found = [], set()
        for word in typed:
            key = word.partition("=")[0].lstrip("+~")
            found.add(key)
            if key == "arm":
                words.append(f"arm={arm}")
            elif key == "seed" and seed is not None:
                words.append(f"seed={seed}")
            elif arm == run.record["arm"] or _said(arm, key):
                words.append(word)
        words += [f"arm={arm}"] if "arm" not in found else []
        return words + ([f"seed={run.seed if seed is None else seed}"] if "seed" not in found else [])

    def _rebuilt(self, run: Run, strategy: Strategy, arm: str, seed: int | None) -> list[str]:
        experiment = run.record.get("experiment")
        words = [f"experiment={experiment}"] if experiment and experiment != "default" else []
        words.append(f"arm={arm}")
        if arm != "scratch" and strategy.freezing is not None and len(self.freezings) > 1:
            words.append(f"freezing={strategy.freezing}")
        if arm == "transfer" and len(self.sources[experiment]) > 1:
            words.append(f"data@source.data={strategy.source}")
        if len(self.targets[experiment]) > 1:
            words.append(f"data@target.data={strategy.budget.target}")
        name = ((run.record.get("config") or {}).get("model") or {}).get("name")
        if name is not None and len(self.models[experiment]) > 1:
            words.append(f"model.name={name}")
        if strategy.budget.train_size is not None or len(self.sizes) > 1:
            words.append(f"target.data.train_size={_value(strategy.budget.train_size)}")
        words += [
            f"{key}={_value(value)}"
            for key, value in strategy.differences.items()
            if key != "data" and (arm == strategy.arm or _said(arm, key)) and not without_method(key, value)
        ]
        return words + run.seed_words(seed)


def _said(arm: str, key: str) -> bool:
    """Whether the command of another arm says this key. A vocabulary may be that of the source, also in an arm that
    does not start from it."""
    return not unread(arm, key) or key.partition(".")[0] == "source"


def without_method(key: str, value: Any) -> bool:
    """Whether this is the absent setting of an adaptation, a regularizer or an averaging that others have."""
    return value is None and key.partition(".")[0] in METHODS


def _value(value: Any) -> str:
    """As Hydra's override grammar writes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def next_commands(comparison: Comparison, commands: Commands) -> list[str]:
    """Missing folds and twins first, then one more seed where one seed or the interval leaves a pair of arms open."""
    by_row = {(s.budget, s.label): s for s in comparison.strategies}
    lines = [
        line for row in comparison.rows if not row.secondary for line in _folds(by_row[row.budget, row.label], commands)
    ]
    lines += [line for row in comparison.rows for line in (*row.missing, *row.outdated)]
    # What was asked is settled before what comes of it.
    for other in ("scratch", "direct"):
        for row in comparison.rows:
            contrasts = row.over_scratch if other == "scratch" else row.over_direct
            if row.secondary or all(c.verdict != "undecided" and c.gain.covers_seeds for c in contrasts):
                continue
            strategy = by_row[row.budget, row.label]
            last = strategy.runs[-1]
            folds = range(int(last.data["folds"])) if row.folds else None
            for arm in (strategy.arm, other):
                lines.append(commands.command(last, strategy, arm=arm, seed=max(row.seeds) + 1, folds=folds))
    return list(dict.fromkeys(lines))


def use_command(comparison: Comparison) -> str | None:
    """The command that predicts with the best model.

    It is of the arm with the best mean test score on the most labels, and of the seed with the best validation value.
    None with several targets or models, with folds, and where no weights are left.
    """
    if len({(row.budget.target, row.budget.model) for row in comparison.rows}) != 1 or comparison.unit != "seeds":
        return None
    most = max(row.num_labels for row in comparison.rows)
    rows = [row for row in comparison.rows if row.num_labels == most and not row.secondary]
    sign = 1 if comparison.higher_is_better else -1
    for row in sorted(rows, key=lambda row: -sign * row.score.mean):
        kept = [side.run for side in row.sides if side.run.folder and (Path(side.run.folder) / "model").is_dir()]
        if kept:
            return shlex.join(["transfer", "predict", str(max(kept, key=_validation).folder), "--input", "FILE"])
    return None


def _validation(run: Run) -> float:
    """More is better; a run that was never validated is the last to be taken."""
    monitor = run.record["monitor"]
    best = monitor["best"]
    return -math.inf if best is None else best * (-1 if monitor["mode"] == "min" else 1)


def _folds(strategy: Strategy, commands: Commands) -> list[str]:
    """A command for each seed that lacks folds of its cross-validation."""
    by_seeds: dict[Any, list[Run]] = defaultdict(list)
    for run in strategy.runs:
        if run.fold is not None:
            by_seeds[run.seeds].append(run)
    lines = []
    for runs in by_seeds.values():
        missing = sorted(set(range(int(runs[0].data["folds"]))) - {run.fold for run in runs})
        if missing:
            lines.append(commands.command(runs[0], strategy, folds=missing))
    return lines
