"""The pictures of a search: how its best value came about, and which keys mattered."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

log = logging.getLogger(__name__)


@dataclass
class Drawn:
    """The files that were written, and the share of each key in the variance of the value (empty: unknown)."""

    files: list[Path] = field(default_factory=list)
    importances: dict[str, float] = field(default_factory=dict)


def draw(study: optuna.Study, folder: Path, metric: str) -> Drawn:
    """Write history.png and, where trials differ enough to tell, importance.png into the sweep's folder."""
    import matplotlib
    from optuna.visualization import matplotlib as pictures

    drawn = Drawn()
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state is TrialState.COMPLETE]
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = folder / "history.png"
        _save(lambda: pictures.plot_optimization_history(study, target_name=metric), history)
        drawn.files.append(history)
        if len({trial.value for trial in complete}) < 2:
            return drawn
        try:
            drawn.importances = optuna.importance.get_param_importances(study)
            importance = folder / "importance.png"
            _save(lambda: pictures.plot_param_importances(study, target_name=metric), importance)
            drawn.files.append(importance)
        except (ValueError, RuntimeError) as error:
            log.info("no importances: %s", error)
    return drawn


def _save(plot: Callable[[], Any], path: Path) -> None:
    from matplotlib import pyplot

    figure = plot().figure
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(temporary, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    temporary.replace(path)
