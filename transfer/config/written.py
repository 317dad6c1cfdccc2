"""The config as plain values and as a file."""

from __future__ import annotations

import re
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from transfer import records
from transfer.config.run import Config


def to_plain(config: Config) -> dict[str, Any]:
    """The config as plain nested dicts, as it goes into config.yaml, the record and the loggers."""
    plain: dict[str, Any] = asdict(config, dict_factory=_plain)
    return plain


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, Enum) else value for name, value in items}


def from_plain(plain: dict[str, Any]) -> Config:
    """The config back from `to_plain`, checked against the schema."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    assert isinstance(config, Config)
    return config


def save(config: Config, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    records.write_atomically(path, as_yaml(to_plain(config)))


# Text that OmegaConf, which reads more numbers than YAML 1.1 has, would not read as text.
_QUOTED = re.compile(r"[-+.]?[0-9].*|true|false|yes|no|on|off|null|~|[-+.]*(inf|nan)|", re.IGNORECASE)


def as_yaml(plain: dict[str, Any]) -> str:
    """As OmegaConf would write it, with libyaml 20 times faster: a sweep writes a config for each of its jobs."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        pass

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, "'" if _QUOTED.fullmatch(value) else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def load(path: Path) -> Config:
    """Read a config that `save` wrote."""
    import yaml

    plain = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert isinstance(plain, dict)
    return from_plain(plain)
