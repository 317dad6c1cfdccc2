"""Giving up hopeless runs early: what asks the pruner after each validation."""

from __future__ import annotations

from pathlib import Path

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna import TrialPruned

from transfer.config import Search
from transfer.sweep import storage
from transfer.sweep.choices import make_pruner

__all__ = ["Pruning", "TrialPruned"]


class Pruning(Callback):
    """Reports the monitored validation metric of each epoch to the trial; stops the run that the pruner gives up.

    Raises:
        optuna.TrialPruned: from within training, in every rank.
    """

    def __init__(self, search: Search, monitor: str) -> None:
        self.search = search
        self.monitor = monitor
        self.trial: optuna.Trial | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.trial is None and trainer.is_global_zero:
            self.trial = _trial(self.search)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        epoch, hopeless = trainer.current_epoch + 1, False
        if self.trial is not None:
            self.trial.report(float(trainer.callback_metrics[self.monitor]), epoch)
            hopeless = not _at_its_end(trainer) and self.trial.should_prune()
        if trainer.world_size > 1:
            hopeless = trainer.strategy.broadcast(hopeless)
        if hopeless:
            raise TrialPruned(f"pruned after epoch {epoch}, at step {trainer.global_step}")


def _at_its_end(trainer: Trainer) -> bool:
    """Whether training ends with this epoch in any case: its result is there, and nothing is saved by giving it up."""
    enough = 0 < trainer.max_steps <= trainer.global_step
    return trainer.should_stop or enough or trainer.current_epoch + 1 == trainer.max_epochs


def _trial(search: Search) -> optuna.Trial:
    """The trial that a sweeper, in whatever process, has begun. The sampler has done its part there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = storage.open_storage(Path(search.folder))
    study = optuna.load_study(
        study_name=search.study,
        storage=kept,
        sampler=optuna.samplers.RandomSampler(),
        pruner=make_pruner(search.pruner, search.pruner_options),
    )
    study_id = kept.get_study_id_from_name(search.study)
    return optuna.Trial(study, kept.get_trial_id_from_study_id_trial_number(study_id, search.trial))
