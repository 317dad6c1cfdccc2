"""The Hydra side: schema, search path, `experiment=NAME`, and the app that runs one job or a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from transfer import plan as planning
from transfer.config import Config
from transfer.errors import Problem, UserError
from transfer.explain import (
    EXPERIMENT_GROUP,
    explain,
    free_mappings,
    is_composition_error,
    of_a_source,
    schema_keys,
    unknown_key,
    valid_keys,
)
from transfer.paths import search_folders, shipped
from transfer.sweep.ahead import Ahead, of_sweep
from transfer.sweep.work import Work
from transfer.validation import validate

# Mappings of a sweeper or a launcher whose keys are the user's.
FREE_SETTINGS = tuple(f"hydra.sweeper.{name}" for name in ("params", "sampler_options", "pruner_options")) + tuple(
    f"hydra.launcher.{name}" for name in ("ray.init", "ray.remote", "additional_parameters")
)


MULTIRUN = ("-m", "--multirun")


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
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig):
            raise UserError(Problem(str(file), "a list", "keys and values, as in the shipped experiments", ""))
        if "experiment_name" not in config:
            config["experiment_name"] = file.stem
        header = ConfigSource._get_header_dict(file.read_text(encoding="utf-8"))
        header.setdefault("package", "_global_")
        return ConfigResult(config=config, path=f"{self.scheme()}://{self.path}", provider=self.provider, header=header)

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", EXPERIMENT_GROUP)

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
    store = ConfigStore.instance()
    if "schema.yaml" not in store.repo:
        store.store(name="schema", node=Config)
    plugins = Plugins.instance()
    if TransferSearchPath not in plugins.discover(SearchPathPlugin):
        from transfer.sweep.grid import GridSweeper
        from transfer.sweep.search import OptunaSweeper

        plugins.register(ExperimentSource)
        plugins.register(TransferSearchPath)
        for sweeper in (GridSweeper, OptunaSweeper):
            plugins.register(sweeper)
            # Hydra instantiates plugins of this package only; we register ours instead of shipping a second package.
            plugins.class_name_to_class[f"hydra_plugins.transfer.{sweeper.__name__}"] = sweeper
        # conf/hydra/launcher/ has files in place of what the launchers' packages bring; Hydra would warn of both.
        launchers = store.repo.get("hydra", {}).get("launcher", {})
        for file in (shipped("conf") / "hydra" / "launcher").glob("*.yaml"):
            launchers.pop(file.name, None)


def compose(overrides: list[str]) -> Config:
    """The config of `transfer run OVERRIDES`, in process and without running anything.

    Raises:
        UserError: as on the command line.
    """
    register()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(shipped("conf")), version_base="1.3"):
            return to_config(hydra.compose("config", _accepted(overrides)))
    except Exception as error:
        if not is_composition_error(error):
            raise
        raise explain(error) from error


def ahead(arguments: list[str]) -> Ahead:
    """The runs that `transfer run ARGUMENTS` would start, none of which is.

    Raises:
        UserError: as on the command line, where no run can be started.
    """
    register()
    GlobalHydra.instance().clear()
    accepted = _accepted(arguments)
    overrides = [argument for argument in accepted if argument not in MULTIRUN]
    if options := [argument for argument in overrides if argument.startswith("-")]:
        raise UserError(Problem("--estimate", " ".join(options), "KEY=VALUE and -m beside it", "leave one of them out"))
    try:
        with hydra.initialize_config_dir(str(shipped("conf")), version_base="1.3"):
            app: Any = GlobalHydra.instance().hydra
            if len(overrides) == len(accepted) and app.get_mode("config", list(overrides)) is not RunMode.MULTIRUN:
                config = to_config(hydra.compose("config", overrides))
                validate(config)
                return Ahead([planning.make(config)])
            master = app.compose_config("config", [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
            context = HydraContext(config_loader=app.config_loader, callbacks=Callbacks(master))
            return of_sweep(context, master, list(master.hydra.overrides.task))
    except Exception as error:
        if not is_composition_error(error):
            raise
        raise explain(error) from error


def to_config(composed: DictConfig) -> Config:
    """The composed DictConfig as plain dataclasses: below this nobody knows Hydra.

    Raises:
        UserError: a key that is not in the schema, which `+KEY=VALUE` would bring in; a value that does not fit.
    """
    free = tuple(f"{key}." for key in free_mappings())
    unknown = [
        key
        for key in valid_keys(composed)
        if of_a_source(key) not in schema_keys() and not of_a_source(key).startswith(free)
    ]
    if unknown:
        raise UserError([unknown_key(key) for key in unknown if key.rpartition(".")[0] not in unknown])
    return to_object(composed)


def to_object(composed: DictConfig) -> Config:
    """As `to_config`, for a config whose keys are known to be those of the schema."""
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(config, Config)
    return config


def app(arguments: list[str], job: Callable[[Config, bool], Any]) -> None:
    """Run the Hydra app: `job` gets a config and whether to wait for other processes; in a multirun, one after another.

    Raises:
        UserError: for whatever Hydra found wrong in the arguments or the files.
        SweepFailedError: when jobs of a multirun are not complete.
    """
    register()
    failed: list[Exception] = []
    work = Work(job)

    @hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")
    def main(composed: DictConfig) -> Any:
        try:
            return work(composed)
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:  # the sweeper gets it from Hydra, and goes on
                raise
            failed.append(error)
            return None

    # Hydra would print its own messages and exit with 1; asked for full errors it raises, and we say it our way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    before = sys.argv
    sys.argv = ["transfer run", *_accepted(arguments)]
    try:
        main()
    except Exception as error:
        if is_composition_error(error):
            raise explain(error) from error
        raise
    finally:
        sys.argv = before
    if failed:
        raise failed[0]


def _accepted(arguments: list[str]) -> list[str]:
    """What Hydra's parser would refuse though it is meant plainly: a late `-m`, a new key of a free mapping."""
    flags = [argument for argument in arguments if argument in MULTIRUN]
    rest = [argument for argument in arguments if argument not in flags]
    free = tuple(f"{key}{sign}" for key in (*free_mappings(), *FREE_SETTINGS) for sign in ".=")
    return flags + [f"++{argument}" if _is_new(argument, free) else argument for argument in rest]


def _is_new(argument: str, free: tuple[str, ...]) -> bool:
    # A source before the source, or a further data set of it, is not there until one of its keys is.
    return of_a_source(argument).startswith(free) or argument.startswith(("source.before.", "source.also."))
