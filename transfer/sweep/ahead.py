"""The runs that a command would start: composed as it would compose them, and none of them started."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig

from transfer import plan as planning
from transfer import records
from transfer.errors import UserError
from transfer.plan import Plan
from transfer.sweep import grid, search
from transfer.sweep.composer import Composer
from transfer.sweep.ledger import Job, Ledger


@dataclass
class Ahead:
    """The plans of all jobs; what is wrong with those that have none; what has to be said of them."""

    plans: list[Plan]
    mistakes: list[UserError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of_sweep(hydra_context: HydraContext, master: DictConfig, arguments: Sequence[str]) -> Ahead:
    """The jobs of a sweep or, of a search, as many as it may begin.

    Raises:
        UserError: in all of the jobs something is wrong.
    """
    sweeper: Any = Plugins.instance().instantiate_sweeper(
        hydra_context=hydra_context, task_function=lambda composed: None, config=master
    )
    parser = OverridesParser.create(config_loader=hydra_context.config_loader)
    if isinstance(sweeper, search.OptunaSweeper):
        found = _of_search(sweeper, hydra_context, master, parser, arguments)
    else:
        combinations = grid.combinations(parser, sweeper.params, arguments)
        with records.without_collector():
            _, configs, mistakes = grid.freeze(hydra_context, master, parser, combinations)
        found = Ahead([planning.make(config) for config in configs.values()], list(mistakes.values()))
    if not found.plans:
        problems = {str(problem): problem for error in found.mistakes for problem in error.problems}
        raise UserError(problems.values())
    return found


def _of_search(
    sweeper: search.OptunaSweeper,
    hydra_context: HydraContext,
    master: DictConfig,
    parser: OverridesParser,
    arguments: Sequence[str],
) -> Ahead:
    """As many jobs as the search has trials left: points of its grid, or others that are drawn at random."""
    import optuna

    from transfer.sweep import choices, settings
    from transfer.sweep.attempts import typed

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base, searched, asked = sweeper.read(parser, master, list(arguments))
    composer = Composer(hydra_context, master, parser)
    if asked.sampler == choices.GRID:
        points = list(itertools.islice(settings.grid(searched), asked.num_trials))
    else:
        study = optuna.create_study(sampler=choices.make_sampler("random", asked.sampler_seed, {}))
        points = [study.ask(dict(searched.distributions)).params for _ in range(asked.num_trials)]
    ledger = Ledger(sweeper.name(base, searched, asked), Path(base.config.output_dir), [], "")
    done = len(list(ledger.folder.glob("jobs/*.yaml")))
    found = Ahead([], notes=["the trials of a search are drawn at random here, and none is pruned"])
    for params, seed in list(itertools.product(points, asked.seeds or ()))[done:]:
        overrides = [*searched.fixed, *searched.overrides(params), f"{base.seed_key}={seed}"]
        frozen = grid.freeze_job(composer, Job(0, overrides), overrides=typed(overrides), test=False)
        (found.mistakes if isinstance(frozen, UserError) else found.plans).append(frozen)  # type: ignore[arg-type]
    return found
