"""The configs of a sweep's jobs: Hydra composes once for each choice of groups, and plain values are set on that.

Composing a job anew takes Hydra about 150 ms, setting its values on what was composed before about 0.1 ms; a sweep of a
thousand jobs does it each time it is started.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import Container, DictConfig, ListConfig, OmegaConf, open_dict

from transfer.config import Config

# `${key}`, which stands for the value of another key.
WHOLE_NUMBER = re.compile(r"([A-Za-z_][\w.]*)=(0|[1-9]\d*)")
REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


class Composer:
    """Overrides -> the resolved config of a job."""

    def __init__(self, hydra_context: HydraContext, master: DictConfig, parser: OverridesParser) -> None:
        self.loader = hydra_context.config_loader
        self.master = master
        self.parser = parser
        self.parsed: dict[str, Override] = {}
        self.samples: dict[str, Override] = {}  # the first one of each key
        self.frames: dict[tuple[str, ...], Frame] = {}
        self.is_group: dict[str, bool] = {}

    def config(self, overrides: Sequence[str]) -> Config:
        """The config of a job with these overrides. Raises what Hydra, OmegaConf and `compose.to_config` raise."""
        parsed = [self._parse(override) for override in overrides]
        plain = [override for override in parsed if self._sets_a_value(override)]
        groups = tuple(o.input_line for o in parsed if o.input_line and not self._sets_a_value(o))
        if groups not in self.frames:
            config = self.loader.load_sweep_config(self.master, list(groups))
            with open_dict(config):
                del config["hydra"]
            self.frames[groups] = Frame(config)
        return self.frames[groups].config(plain)

    def _parse(self, override: str) -> Override:
        if override not in self.parsed:
            found = self._whole_number(override) or self.parser.parse_overrides([override])[0]
            self.parsed[override] = found
            self.samples.setdefault(found.key_or_group, found)
        return self.parsed[override]

    def _whole_number(self, override: str) -> Override | None:
        """One more number for a key that has had one: a sweep may have a thousand seeds, and Hydra's parser is slow."""
        match = WHOLE_NUMBER.fullmatch(override)
        sample = self.samples.get(match[1]) if match else None
        if match is None or sample is None or not WHOLE_NUMBER.fullmatch(sample.input_line or ""):
            return None
        return replace(sample, input_line=override, _value=int(match[2]))

    def _sets_a_value(self, override: Override) -> bool:
        """A plain KEY=VALUE, no group choice and no addition or deletion."""
        key = override.key_or_group
        if override.package is not None or override.is_add() or override.is_delete() or override.is_force_add():
            return False
        if key not in self.is_group:
            self.is_group[key] = bool(self.loader.get_group_options(key))
        return not self.is_group[key]


class Frame:
    """What Hydra composed for one choice of groups; `config` sets values on it and leaves it as it is."""

    def __init__(self, composed: DictConfig) -> None:
        from transfer.compose import to_config

        self.composed = composed
        self.plain = pickle.dumps(to_config(composed))  # copied by pickle, several times faster than by deepcopy
        self.references, self.simple = _references(composed)
        self.values: dict[str, Any] = {}
        self.leaves: dict[str, bool] = {}
        self.scratch = copy.deepcopy(composed)

    def config(self, overrides: Sequence[Override]) -> Config:
        """The config with these values, as OmegaConf would resolve it."""
        if not self.simple or not all(map(self._is_leaf, overrides)):
            return self._resolved(overrides)
        config: Config = pickle.loads(self.plain)
        given = {override.key_or_group: self._value(override) for override in overrides}
        for key, value in given.items():
            _set(config, key, value)
        for key, other in self.references.items():
            if key not in given:
                _set(config, key, _get(config, other))
        return config

    def _resolved(self, overrides: Sequence[Override]) -> Config:
        from transfer.compose import to_object

        composed = copy.deepcopy(self.composed)
        for override in overrides:
            OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
        return to_object(composed)

    def _is_leaf(self, override: Override) -> bool:
        """Whether it sets one value that stands for itself, in the place of one."""
        value, key = override.value(), override.key_or_group
        if isinstance(value, dict) or "${" in str(value):
            return False
        if key not in self.leaves:
            self.leaves[key] = not isinstance(OmegaConf.select(self.composed, key), DictConfig)
        return self.leaves[key]

    def _value(self, override: Override) -> Any:
        """The value as the schema has it: 1 for a number with a fraction is 1.0."""
        line = override.input_line
        assert line is not None
        if line not in self.values:
            OmegaConf.update(self.scratch, override.key_or_group, override.value(), merge=True)
            value = OmegaConf.select(self.scratch, override.key_or_group)
            self.values[line] = OmegaConf.to_object(value) if isinstance(value, Container) else value
        return copy.copy(self.values[line])


def _references(composed: DictConfig) -> tuple[dict[str, str], bool]:
    """Keys that stand for the value of another one; and whether there is no interpolation of any other kind."""
    found: dict[str, Any] = {}
    _interpolations(composed, "", found)
    references: dict[str, str] = {}
    for key, node in found.items():
        match = REFERENCE.fullmatch(str(node._value()))
        target = _node(composed, match[1]) if match else None
        if match is None or match[1] in found or target is None or isinstance(target, Container):
            return {}, False
        if node._metadata.ref_type != target._metadata.ref_type:  # OmegaConf would convert the value
            return {}, False
        references[key] = match[1]
    return references, True


def _node(node: Any, key: str) -> Any:
    """The node of a dotted key, None where there is none."""
    for name in key.split("."):
        node = node._get_node(name) if isinstance(node, DictConfig) and name in node else None
    return node


def _interpolations(node: Any, prefix: str, found: dict[str, Any]) -> None:
    if node._is_interpolation():
        found[prefix] = node
    elif isinstance(node, Container) and not node._is_none() and not node._is_missing():
        assert isinstance(node, (DictConfig, ListConfig))
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            _interpolations(node._get_node(key), f"{prefix}.{key}" if prefix else str(key), found)


def _get(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


def _set(config: Any, key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    place = _get(config, section) if section else config
    if isinstance(place, dict):
        place[name] = value
    else:
        assert hasattr(place, name), key
        setattr(place, name, value)
