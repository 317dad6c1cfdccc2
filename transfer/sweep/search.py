"""The sweeper of `sweep=optuna`: a search whose trials are chosen by what the earlier ones came to on validation.

Optuna is imported when a search begins: this module is there for every `transfer run`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from transfer import plan as planning
from transfer import records
from transfer.config import Config, to_plain
from transfer.errors import Problem, UserError
from transfer.paths import require_writable
from transfer.sweep import launching

if TYPE_CHECKING:
    from transfer.sweep.settings import Settings
    from transfer.sweep.space import Space

log = logging.getLogger(__name__)

# What says where a run goes, how it is logged and where it is computed, and so makes no other search of it.
FILING = ("output_dir", "cache_dir", "logger", "floors", "test")
PLACEMENT = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "compile",
    "num_workers",
    "log_every_n_steps",
    "checkpoint_every_s",
)


@dataclass(frozen=True)
class Base:
    """The config around the searched keys: what is measured, and which of its keys is the seed."""

    config: Config
    monitor: str
    mode: str
    seed_key: str
    plan: planning.Plan | None

    @property
    def seed(self) -> int:
        return self.config.source.seed if self.seed_key == "source.seed" else self.config.seed

    @property
    def experiment(self) -> str:
        return self.plan.experiment if self.plan else self.config.experiment_name or "search"

    @property
    def identity(self) -> dict[str, Any]:
        """What makes another search of it. With the plan's fingerprint also the contents of files."""
        from transfer.config import OF_THE_CALL

        plain = to_plain(self.config)
        kept = {name: value for name, value in plain.items() if name not in (*FILING, *OF_THE_CALL)}
        kept["trainer"] = {name: value for name, value in plain["trainer"].items() if name not in PLACEMENT}
        return {"config": kept, "run": self.plan.fingerprint if self.plan else None}


class OptunaSweeper(Sweeper):
    """Searches with Optuna; any number of processes that are given the same command work on the same search.

    The arguments are described in conf/hydra/sweeper/optuna.yaml.
    """

    def __init__(self, params: dict[str, Any] | None = None, **settings: Any) -> None:
        plain = OmegaConf.to_container(OmegaConf.create({"params": params or {}, **settings}))
        assert isinstance(plain, dict)
        self.params: dict[str, Any] = plain.pop("params")
        self.settings: dict[str, Any] = {str(name): value for name, value in plain.items()}
        self.hydra_context: HydraContext
        self.config: DictConfig
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = launching.make(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        from transfer.sweep import outcome
        from transfer.sweep.attempts import Search
        from transfer.sweep.composer import Composer
        from transfer.sweep.ledger import Ledger

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        base, searched, settings = self.read(parser, self.config, arguments)
        if (points := settings.num_points(searched)) > settings.num_trials:
            log.warning(
                "the grid has %d points, and hydra.sweeper.num_trials=%d ends it before", points, settings.num_trials
            )
        identity = _identity(base, searched, settings)
        ledger = Ledger(self.name(base, searched, settings), Path(base.config.output_dir), arguments, records.now())
        require_writable(ledger.folder)
        composer = Composer(self.hydra_context, self.config, parser)
        trials = _open(ledger.folder, base, searched, settings, records.fingerprint(identity))
        search = Search(base, searched, settings, trials, ledger, composer, self.launcher)
        search.run()
        outcome.conclude(search)
        return search.returned

    def read(self, parser: OverridesParser, master: DictConfig, arguments: list[str]) -> tuple[Base, Space, Settings]:
        """What is searched, where, and how.

        Raises:
            UserError: with what is wrong with it.
        """
        from transfer.sweep import space
        from transfer.sweep.settings import Settings

        base = _base(master)
        if base.config.force:
            action = "leave force out; for the same search anew, give it another sweep_name"
            raise UserError(Problem("force", True, "false: what a search has found out is kept and built on", action))
        searched = space.read(parser, self.params, arguments, base.seed_key)
        settings = Settings(**self.settings)
        settings.check(searched)
        settings.seeds = tuple(settings.seeds or searched.seeds or [base.seed])
        return base, searched, settings

    @staticmethod
    def name(base: Base, searched: Space, settings: Settings) -> str:
        """That of the search's folder."""
        return base.config.sweep_name or _name(base, _identity(base, searched, settings), settings.identity)


def _identity(base: Base, searched: Space, settings: Settings) -> dict[str, Any]:
    return base.identity | {"space": searched.identity, "seeds": settings.seeds}


def _base(master: DictConfig) -> Base:
    from transfer.compose import to_config

    composed = master.copy()
    with open_dict(composed):
        del composed["hydra"]
    config = to_config(composed)
    pretrain = config.stage.is_source
    task = config.source.task if pretrain else config.target.task
    try:
        plan = planning.make(config)
    except UserError:
        plan = None  # the searched keys may be what is missing; each trial will say it if not
    return Base(config, f"val/{task.monitor}", task.mode, "source.seed" if pretrain else "seed", plan)


def _name(base: Base, identity: dict[str, Any], settings: dict[str, Any]) -> str:
    return f"{base.experiment}-search-{records.fingerprint({**identity, 'settings': settings})[:10]}"


def _open(folder: Path, base: Base, searched: Any, settings: Any, identity: str) -> Any:
    """The trials of the study, which is made where it is not there.

    Raises:
        UserError: a search of this name has been begun with something else.
    """
    import optuna

    from transfer.sweep import storage
    from transfer.sweep.trials import Trials, turn

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with turn(folder):
        study = optuna.create_study(
            study_name=folder.name,
            storage=storage.begin(folder, settings.storage),
            direction="maximize" if base.mode == "max" else "minimize",
            load_if_exists=True,
        )
        known = study.user_attrs.get("identity")
        if known not in (None, identity):
            allowed = "a name that no other search has: this one was begun with another space, config, metric or seeds"
            action = "choose another name, or leave it out: the search then gets one of its own"
            raise UserError(Problem("sweep_name", folder.name, allowed, action))
        study.set_user_attr("identity", identity)
    max_epochs = base.plan.budget.max_epochs if base.plan else None
    return Trials(study, folder, searched.distributions, settings.sampling(searched, max_epochs))
