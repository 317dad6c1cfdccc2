"""Adaptation, regularizer and averaging: what there is, and the checks of their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from transfer import records
from transfer.config import Config
from transfer.errors import Problem, nearest

if TYPE_CHECKING:
    from transfer.plan import Plan

ADAPTATIONS = ("none", "lora", "ia3", "adapter")
REGULARIZERS = ("none", "l2_sp", "delta", "mixout")
AVERAGINGS = ("none", "swa", "ema")
GROUPS = ("adaptation", "regularizer", "averaging")
# What peft's own config has beside `r`, `alpha`, `dropout` and `target_modules`, and what leaves the base as it is.
OPTIONS = {
    "lora": ("use_rslora", "use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern", "layers_to_transform"),
    "ia3": ("feedforward_modules",),
    "adapter": (),
}
# Other ways to start LoRA (PiSSA, OLoRA, ...) change the weights below, so that the adapter alone would not fit them.
LORA_STARTS = (True, "gaussian", "orthogonal")
# Policies under which no adapter would train, or that are another way to the same end.
WITHOUT_ADAPTERS = ("all", "head_only", "bitfit")


def chosen(record: Mapping[str, Any]) -> list[str]:
    """The methods of a recorded run."""
    if record["stage"] in records.SOURCE_STAGES:
        return []
    groups = GROUPS if record["arm"] != "scratch" else ("averaging",)
    named = ((record["config"].get(group) or {}).get("name", "none") for group in groups)
    return [name for name in named if name != "none"]


def chosen_of(plan: Plan) -> list[str]:
    """Those that a run uses; the scratch arm has no adaptation and no regularizer."""
    return [name for group in GROUPS if (name := getattr(plan, group).name) != "none"]


def problems(config: Config) -> Iterable[Problem]:
    """What is wrong with these settings of the target's training."""
    yield from _one_of("adaptation.name", config.adaptation.name, ADAPTATIONS)
    yield from _one_of("regularizer.name", config.regularizer.name, REGULARIZERS)
    yield from _one_of("averaging.name", config.averaging.name, AVERAGINGS)
    if config.adaptation.name in OPTIONS:
        yield from _adaptation(config)
    yield from _regularizer(config)
    yield from _averaging(config)
    if config.weights.reinit_top_k < 0:
        yield Problem("weights.reinit_top_k", config.weights.reinit_top_k, "a whole number of at least 0", "")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> Iterable[Problem]:
    if value not in allowed:
        meant = nearest(value, allowed)
        yield Problem(key, value, ", ".join(allowed), f"did you mean {meant}?" if meant else "")


def _adaptation(config: Config) -> Iterable[Problem]:
    own = config.adaptation
    if own.r < 1:
        yield Problem("adaptation.r", own.r, "a whole number of at least 1", "")
    for key, value in {"adaptation.alpha": own.alpha, "adaptation.lr_multiplier": own.lr_multiplier}.items():
        if not value > 0:
            yield Problem(key, value, "a number above 0", "")
    if not 0 <= own.dropout < 1:
        yield Problem("adaptation.dropout", own.dropout, "a fraction from 0 to below 1", "")
    allowed = OPTIONS[own.name]
    for name in own.options:
        if name not in allowed:
            listed = ", ".join(allowed) or "none"
            action = "r, alpha and dropout have keys of their own"
            yield Problem(f"adaptation.options.{name}", own.options[name], listed, action)
    start = own.options.get("init_lora_weights", True)
    if start not in LORA_STARTS:
        yield Problem("adaptation.options.init_lora_weights", start, ", ".join(map(str, LORA_STARTS)).lower(), "")
    if own.name == "adapter" and own.target_modules is not None:
        action = "leave it out: an adapter stands beside every feed-forward layer"
        yield Problem("adaptation.target_modules", own.target_modules, "null", action)
    if config.freezing.policy in WITHOUT_ADAPTERS:
        others = "none, first_k, gradual, regex"
        action = "the backbone's own weights do not train anyway; choose one of the two"
        yield Problem("freezing.policy", config.freezing.policy, f"{others}, with adaptation={own.name}", action)
    if config.regularizer.name in ("l2_sp", "mixout"):
        action = "the source's weights do not move: choose regularizer=none or adaptation=none"
        allowed_here = f"none or delta, with adaptation={own.name}"
        yield Problem("regularizer.name", config.regularizer.name, allowed_here, action)


def _regularizer(config: Config) -> Iterable[Problem]:
    own = config.regularizer
    for key, value in {"regularizer.alpha": own.alpha, "regularizer.beta": own.beta}.items():
        if not value >= 0:
            yield Problem(key, value, "a number of at least 0", "")
    if not 0 < own.p < 1:
        yield Problem("regularizer.p", own.p, "a fraction between 0 and 1", "")
    if own.name != "none" and config.freezing.policy in ("all", "head_only") and not config.stage.is_source:
        action = "nothing of the backbone moves, so there is nothing to hold back"
        yield Problem("regularizer.name", own.name, f"none, with freezing={config.freezing.policy}", action)


def _averaging(config: Config) -> Iterable[Problem]:
    own = config.averaging
    if not 0 <= own.start_fraction < 1:
        yield Problem("averaging.start_fraction", own.start_fraction, "a fraction from 0 to below 1", "")
    if not 0 < own.decay < 1:
        yield Problem("averaging.decay", own.decay, "a fraction between 0 and 1", "")
