"""The Hydra side: schema, search path, `experiment=NAME`, and Hydra's errors in this project's words."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from transfer.config import Config
from transfer.errors import Problem, UserError, nearest
from transfer.paths import search_folders, shipped
from transfer.validation import FULL

EXPERIMENT_GROUP = "experiment"


class ExperimentSource(ConfigSource):
    """Serves the folder `experiments/` as the group `experiment`, each file with its stem as `experiment_name`."""

    @staticmethod
    def scheme() -> str:
        return "experiments"

    def _file(self, config_path: str) -> Path | None:
        group, _, name = config_path.partition("/")
        return Path(self.path) / self._normalize_file_name(name) if group == EXPERIMENT_GROUP and name else None

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        if file is None or not file.is_file():
            raise ConfigLoadError(f"Config not found: {file}")
        text = file.read_text(encoding="utf-8")
        config = OmegaConf.create(text)
        assert isinstance(config, DictConfig)
        if "experiment_name" not in config:
            config["experiment_name"] = file.stem
        header = ConfigSource._get_header_dict(text)
        header.setdefault("package", "_global_")
        return ConfigResult(config=config, path=f"{self.scheme()}://{self.path}", provider=self.provider, header=header)

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return config_path == EXPERIMENT_GROUP

    def is_config(self, config_path: str) -> bool:
        file = self._file(config_path)
        return file is not None and file.is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "" and results_filter in (None, ObjectType.GROUP):
            return [EXPERIMENT_GROUP]
        if config_path == EXPERIMENT_GROUP and results_filter in (None, ObjectType.CONFIG):
            return sorted(file.stem for file in Path(self.path).glob("*.yaml"))
        return []


class TransferSearchPath(SearchPathPlugin):
    """The user's own `conf/` and `experiments/` in the working directory first, then the shipped ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(search_folders("conf")):
            if folder != shipped("conf"):
                search_path.prepend(provider="user", path=f"file://{folder}")
        for folder in search_folders("experiments"):
            search_path.append(provider="experiments", path=f"{ExperimentSource.scheme()}://{folder}")


def register() -> None:
    """Tell Hydra the schema and where configs are. Safe to call again."""
    ConfigStore.instance().store(name="schema", node=Config)
    plugins = Plugins.instance()
    if TransferSearchPath not in plugins.discover(SearchPathPlugin):
        plugins.register(ExperimentSource)
        plugins.register(TransferSearchPath)


def compose(overrides: list[str]) -> Config:
    """The config of `transfer run OVERRIDES`, in process and without running anything.

    Raises:
        UserError: as on the command line.
    """
    register()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(shipped("conf")), version_base="1.3"):
            return to_config(hydra.compose("config", overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


def to_config(composed: DictConfig) -> Config:
    """The composed DictConfig as plain dataclasses: below this nobody knows Hydra."""
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return config


def app(arguments: list[str], job: Callable[[Config], Any]) -> None:
    """Run the Hydra app: `job` gets one config, or one after another in a multirun.

    Raises:
        UserError: for whatever Hydra found wrong in the arguments or the files.
    """
    import os

    register()

    @hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")
    def main(composed: DictConfig) -> Any:
        return job(to_config(composed))

    # Hydra would print its own messages and exit with 1; asked for full errors it raises, and we say it our way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    before = sys.argv
    sys.argv = ["transfer run", *arguments]
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    finally:
        sys.argv = before


def valid_keys(node: Any = None, prefix: str = "") -> list[str]:
    """Every key of the schema, dotted."""
    node = OmegaConf.structured(Config) if node is None else node
    keys = []
    for name in node:
        key = f"{prefix}{name}"
        keys.append(key)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            keys += valid_keys(child, f"{key}.")
    return keys


def explain(error: Exception) -> UserError:
    """A Hydra or OmegaConf error as key, received, allowed, what to do."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException):
        return UserError(_unknown_choice(error))
    if isinstance(error, OverrideParseException):
        text = str(error).splitlines()
        return UserError(
            Problem("command line", error.override, "KEY=VALUE (quote lists and spaces for your shell)", text[0])
        )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    full_key = getattr(cause, "full_key", None)
    message = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    own = str(error).splitlines()[0]
    unknown = re.search(r"Key '([^']+)' (?:is )?not in", message) or re.search(r"Could not override '([^']+)'", own)
    if unknown:
        return UserError(_unknown_key(full_key or unknown[1], own))
    group = re.search(r"Could not override '([^']+)'|No match in the defaults list", own)
    if group:
        return UserError(Problem("command line", own, "a group of conf/", "`transfer run --help` lists the groups"))
    if full_key:
        received = re.search(r"[Vv]alue '([^']*)'", message)
        expected = re.search(r"expected one of \[(.*)\]|could not be converted to (\w+)", message)
        allowed = next((group for group in expected.groups() if group), message) if expected else message
        return UserError(Problem(str(full_key), received[1] if received else own, allowed, "" if expected else own))
    return UserError(Problem("config", own, "a config that composes", message if message != own else ""))


def _unknown_choice(error: MissingConfigException) -> Problem:
    missing = str(error.missing_cfg_file or "")
    group, _, choice = missing.rpartition("/")
    options = [str(option) for option in error.options or []]
    if group == "freezing" and choice == "full":
        return Problem("freezing", "full", ", ".join(options), FULL)
    if not options:
        top = nearest(
            missing,
            ["source", "target", "model", "data", "task", "freezing", "optimizer", "scheduler", "trainer", "logger"],
        )
        return Problem(
            missing, missing, "a config file or group", f"did you mean {top}?" if top else str(error).splitlines()[0]
        )
    meant = nearest(choice, options)
    action = (
        f"did you mean {group}={meant}?"
        if meant
        else ("`transfer list` describes them" if group == EXPERIMENT_GROUP else "")
    )
    return Problem(group, choice, ", ".join(options), action)


def _unknown_key(key: str, own: str) -> Problem:
    keys = valid_keys()
    meant = nearest(key, keys) or nearest(key, [k for k in keys if k.endswith(key.rsplit(".", 1)[-1])])
    parent = key.rpartition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent] or [k for k in keys if "." not in k]
    found = re.search(r"'([^']*=[^']*)'", own)
    return Problem(key, found[1] if found else key, ", ".join(siblings), f"did you mean {meant}?" if meant else "")


__all__ = ["ConfigCompositionException", "app", "compose", "explain", "register", "to_config", "valid_keys"]
