"""Records -> strategies: the runs that differ in nothing but their random seeds.

A mean over seeds means something only when everything else is the same. Runs of one arm whose configs differ in what
changes the result are therefore different strategies, labelled by what differs; none is chosen over another.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transfer.study import predictions
from transfer.study.predictions import Predictions
from transfer.study.settings import FOLD, FOLDS, SEEDS, difference_words, flatten, own_config, unread

Record = dict[str, Any]
ARMS = ("transfer", "direct", "scratch")


@dataclass(frozen=True)
class Budget:
    """One target, one model, one number of labels. ``train_size`` None: all labels that there are."""

    target: str
    model: str
    train_size: int | None

    @property
    def sort_key(self) -> tuple[str, str, float]:
        """By target and model, then from few labels to all."""
        return self.target, self.model, float("inf") if self.train_size is None else self.train_size


@dataclass(eq=False)
class Run:
    """One record, with what pairs it with other runs. ``readings`` keep what was computed from its predictions."""

    record: Record
    readings: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)

    @property
    def seed(self) -> int:
        """The seed the user set."""
        return int(self.record["seed"])

    @cached_property
    def repetition(self) -> tuple[Any, ...]:
        """All seeds of the run, and its fold in a cross-validation. A twin has the same ones."""
        return self.seeds if self.fold is None else (*self.seeds, self.fold)

    @cached_property
    def seeds(self) -> tuple[Any, ...]:
        """All seeds of the run."""
        config = self.record.get("config") or {}
        return tuple(self.record["seed"] if key == "seed" else config.get(key) for key in SEEDS)

    @cached_property
    def fold(self) -> int | None:
        """The part of the data that this run was tested on, in a cross-validation."""
        return self.data.get("fold")

    @property
    def name(self) -> str:
        """What tells the run from the others of its strategy: ``seed 0`` or ``seed 0, fold 2``."""
        return f"seed {self.seed}" if self.fold is None else f"seed {self.seed}, fold {self.fold}"

    def seed_words(self, seed: int | None = None) -> list[str]:
        """Overrides that set the seed and the fold, and those seeds that do not follow it by default."""
        config = self.record.get("config") or {}
        defaults = {key: 0 if key == "data_seed" else self.seed for key in SEEDS[1:]}
        own = [f"{key}={config[key]}" for key, value in defaults.items() if config.get(key, value) != value]
        fold = [] if self.fold is None else [f"{FOLDS}={self.data['folds']}", f"{FOLD}={self.fold}"]
        return [f"seed={self.seed if seed is None else seed}", *own, *fold]

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """Fingerprint, sizes and subset hash of the data of this run."""
        return self.record.get("data") or {}

    @cached_property
    def num_labels(self) -> int:
        """Labelled training examples."""
        size = self.record.get("train_size")
        return int(self.data.get("num_train") or 0) if size is None else int(size)

    @property
    def folder(self) -> str | None:
        """Where the run's files are."""
        return self.record.get("_folder")

    def metric(self, name: str) -> float | None:
        """A recorded metric by its full name, None where there is none."""
        value = (self.record.get("metrics") or {}).get(name)
        return None if value is None else float(value)

    @cached_property
    def predictions(self) -> Predictions | None:
        """Test predictions, read when first asked for."""
        return predictions.load(self.folder) if self.folder else None

    @cached_property
    def own_config(self) -> dict[str, Any]:
        """Config without seeds, filing, logging and placement."""
        return own_config(self.record.get("config") or {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`own_config` with dotted keys."""
        return flatten(self.own_config)

    @cached_property
    def conditions(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Budget and task, which a twin has to share."""
        config = self.record.get("config") or {}
        target, trainer = config.get("target") or {}, config.get("trainer") or {}
        # What came later to the budget is null where it is as it was before.
        settings = {name: value for name, value in (target.get("budget") or {}).items() if value is not None}
        budget: dict[str, Any] = {"target.budget": settings}
        budget |= {f"trainer.{key}": trainer.get(key) for key in ("accumulate_grad_batches", "limit_train_batches")}
        return budget, {
            "target.task": target.get("task"),
            "trainer.limit_eval_batches": trainer.get("limit_eval_batches"),
        }

    @cached_property
    def read_settings(self) -> dict[str, Any]:
        """Those of the settings that this arm reads."""
        return {key: value for key, value in self.settings.items() if not unread(self.record["arm"], key)}


@dataclass
class Strategy:
    """Runs of one arm on one budget that differ in their seeds only; ``differences`` tell it from its siblings."""

    budget: Budget
    arm: str
    source: str | None
    freezing: str | None
    differences: dict[str, Any]
    runs: list[Run]
    label: str = field(default="")


def _name(value: Any) -> str:
    """Records hold names; anything else is shown as it is rather than refused."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("policy") or json.dumps(value, sort_keys=True, default=str)
    return "?" if value is None else str(value)


def build(records: Iterable[Record]) -> tuple[list[Strategy], list[str]]:
    """The strategies among complete target runs, few labels first, and a line for each run that was left out."""
    cells: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    notes: list[str] = []
    seen: set[str] = set()
    searched = 0
    for record in records:
        if record.get("arm") not in ARMS:
            continue
        name = f"{record['arm']} run {record.get('run_id') or record.get('_folder')}"
        if _of_a_search(record):
            searched += 1
            continue
        if record.get("status") != "complete":
            notes.append(f"{name}: not compared, its status is {record.get('status')}.")
            continue
        fingerprint = record.get("fingerprint")
        if fingerprint in seen:  # two experiments may share a run
            continue
        if fingerprint:
            seen.add(fingerprint)
        arm = record["arm"]
        budget = Budget(_name(record.get("target")), _name(record.get("model")), record.get("train_size"))
        source = _name(record.get("source")) if arm == "transfer" else None
        freezing = None if arm == "scratch" else _name(record.get("freezing"))
        cells[budget, arm, source, freezing].append(Run(record))
    if searched:
        notes.append(f"{searched} runs of a search: not compared, only its winner has been tested.")
    strategies = []
    for (budget, arm, source, freezing), runs in cells.items():
        for differences, members in _split(runs):
            kept, lines = _once(members)
            strategies.append(Strategy(budget, arm, source, freezing, differences, kept))
            notes += lines
    strategies.sort(
        key=lambda s: (
            s.budget.sort_key,
            ARMS.index(s.arm),
            s.source or "",
            s.freezing or "",
            json.dumps(s.differences, sort_keys=True, default=str),
        )
    )
    _label(strategies)
    return strategies, notes


def _of_a_search(record: Record) -> bool:
    """Trained to choose by validation only, or given up on the way there."""
    if record.get("status") != "complete":
        return str(record.get("error", "")).startswith("pruned")
    return not any(name.startswith("test") for name in record.get("metrics") or {})


def _split(runs: list[Run]) -> list[tuple[dict[str, Any], list[Run]]]:
    """Runs of one cell -> (what differs, the runs that share it)."""
    versions: dict[Any, set[Any]] = defaultdict(set)
    for run in runs:
        drawn = (run.record.get("config") or {}).get("data_seed"), run.data.get("folds")
        versions[drawn].add(run.data.get("fingerprint"))
    # The data changed between runs that draw it alike, so it is not the data seed that explains the difference.
    changed = any(len(fingerprints) > 1 for fingerprints in versions.values())
    if not changed and all(run.own_config == runs[0].own_config for run in runs):
        return [({}, runs)]
    groups = _by_difference(runs, [run.read_settings for run in runs], changed)
    if any(len({run.repetition for run in members}) < len(members) for _, members in groups):
        # Something set these runs apart although this arm is not known to read it (a vocabulary from the source, say).
        groups = _by_difference(runs, [run.settings for run in runs], changed)
    return groups


def _by_difference(
    runs: list[Run], settings: list[dict[str, Any]], data_changed: bool
) -> list[tuple[dict[str, Any], list[Run]]]:
    if data_changed:
        settings = [s | {"data": str(run.data.get("fingerprint"))[:8]} for run, s in zip(runs, settings, strict=True)]
    keys = sorted({key for setting in settings for key in setting})
    differing = [key for key in keys if any(setting.get(key) != settings[0].get(key) for setting in settings)]
    groups: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run, setting in zip(runs, settings, strict=True):
        differences = {key: setting.get(key) for key in differing}
        groups.setdefault(_text(differences), (differences, []))[1].append(run)
    return list(groups.values())


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _once(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """One run a repetition. With the same config and seeds, the code or a parent has changed: the last one counts."""
    kept: dict[tuple[Any, ...], Run] = {}
    notes = []
    for run in sorted(runs, key=lambda run: str((run.record.get("time") or {}).get("started") or "")):
        earlier = kept.get(run.repetition)
        if earlier is not None:
            name, later = f"{earlier.record['arm']} run {earlier.record.get('run_id')}", run.record.get("run_id")
            notes.append(f"{name}: not compared, run {later} has the same config and {run.name} and started later.")
        kept[run.repetition] = run
    return sorted(kept.values(), key=lambda run: tuple(str(part).zfill(12) for part in run.repetition)), notes


def _label(strategies: list[Strategy]) -> None:
    """Give every strategy a name that says no more than is needed to tell it from the others."""
    freezings = {s.freezing for s in strategies if s.freezing is not None}
    models = {s.budget.model for s in strategies}
    targets = {s.budget.target for s in strategies}
    for s in strategies:
        words = {"transfer": f"transfer from {s.source}", "direct": "direct", "scratch": "scratch"}[s.arm]
        details = [s.freezing] if s.freezing is not None and len(freezings) > 1 else []
        details += difference_words(s.differences, [other.differences for other in strategies if other.arm == s.arm])
        details += [s.budget.model] if len(models) > 1 else []
        details += [f"on {s.budget.target}"] if len(targets) > 1 else []
        s.label = f"{words} ({', '.join(str(detail) for detail in details)})" if details else words
