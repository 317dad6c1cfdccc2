"""Which settings of a run's config tell it from another, and which an arm does not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

SEEDS = ("seed", "data_seed", "subset_seed", "init_seed", "order_seed")
FOLDS, FOLD = "target.data.folds", "target.data.fold"
# Where a run is filed, logged and placed, and what the group of a strategy already says.
_NEVER = (
    *SEEDS,
    FOLD,
    "stage",
    "arm",
    "experiment_name",
    "output_dir",
    "cache_dir",
    "force",
    "floors",
    "logger",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.num_workers",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_s",
    "trainer.deterministic",
    "trainer.detect_anomaly",
    "target.data.train_size",
    "target.data.local",
    "source.data.local",
    "freezing.policy",
)
# Groups that came later; where they choose nothing, a record is as it was before there were any.
METHODS = ("adaptation", "regularizer", "averaging")
# Parts of the config that a run of this arm does not read.
_UNREAD = {
    "transfer": ("scratch",),
    "direct": ("scratch", "source", "init"),
    "scratch": (
        "source",
        "init",
        "freezing",
        "adaptation",
        "regularizer",
        "weights",
        "scheduler",
        "optimizer.lr",
        "optimizer.weight_decay",
        "optimizer.head_multiplier",
    ),
}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested config -> dotted keys, the way a user types them. Lists stay values."""
    flat: dict[str, Any] = {}
    _flatten(config, "", flat)
    return flat


def _flatten(config: Mapping[str, Any], prefix: str, flat: dict[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            _flatten(value, f"{prefix}{key}.", flat)
        else:
            flat[prefix + key] = value


def _within(key: str, part: str) -> bool:
    return key == part or key.startswith(part + ".")


def _tree(keys: Iterable[str]) -> dict[str, Any]:
    """Dotted keys -> nested dicts; None where a key ends."""
    tree: dict[str, Any] = {}
    for key in keys:
        *sections, last = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = None
    return tree


_NEVER_TREE = _tree(_NEVER)


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without seeds, filing, logging and placement, and without the methods that it does not use."""
    kept = _pruned(config, _NEVER_TREE)
    for group in METHODS:
        if (kept.get(group) or {}).get("name", "none") == "none":
            kept.pop(group, None)
    if "weights" in kept:
        kept["weights"] = {"reinit_top_k": 0, **kept["weights"]}
    return kept


def difference_words(differences: Mapping[str, Any], siblings: Iterable[Mapping[str, Any]]) -> list[str]:
    """What differs, in words: of adaptation=lora its name, and its settings only where another lora has others."""
    named = [d for d in siblings if d is not differences]
    found = []
    for key, value in differences.items():
        group, _, setting = key.partition(".")
        name = differences.get(f"{group}.name") if group in METHODS else None
        if group not in METHODS:
            found.append(f"{key}={value}")
        elif setting == "name":
            found += [str(value)] if value else []
        elif name and any(d.get(f"{group}.name") == name and d.get(key) != value for d in named):
            found.append(f"{setting}={value}")
        elif f"{group}.name" not in differences:
            found.append(f"{key}={value}")
    return found


def _pruned(config: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the keys that end in the tree."""
    return {
        key: _pruned(value, tree[key]) if key in tree and isinstance(value, dict) else value
        for key, value in config.items()
        if key not in tree or tree[key] is not None
    }


@cache
def unread(arm: str, key: str) -> bool:
    """Whether a run of this arm is known not to read the config key."""
    return any(_within(key, part) for part in _UNREAD[arm])
