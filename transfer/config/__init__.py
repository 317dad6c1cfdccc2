"""The typed schema of the whole config.

Hydra composes YAML into these dataclasses, so a typo or a wrong type fails at composition, with its full key.
The checks between fields are in `transfer.validation`; what one run needs of all this is cut out by `transfer.plan`.
"""

from transfer.config.leg import (
    Also,
    Arm,
    Budget,
    Columns,
    Data,
    Files,
    Optimizer,
    Scheduler,
    Scratch,
    Source,
    Stage,
    Target,
    Task,
)
from transfer.config.meta import Meta
from transfer.config.model import Adaptation, Averaging, Freezing, Model, Regularizer, Vectors, Vocabulary, Weights
from transfer.config.run import OF_THE_CALL, Config, Logger, Search, Trainer
from transfer.config.written import as_yaml, from_plain, load, save, to_plain

__all__ = [
    "OF_THE_CALL",
    "Adaptation",
    "Also",
    "Arm",
    "Averaging",
    "Budget",
    "Columns",
    "Config",
    "Data",
    "Files",
    "Freezing",
    "Logger",
    "Meta",
    "Model",
    "Optimizer",
    "Regularizer",
    "Scheduler",
    "Scratch",
    "Search",
    "Source",
    "Stage",
    "Target",
    "Task",
    "Trainer",
    "Vectors",
    "Vocabulary",
    "Weights",
    "as_yaml",
    "from_plain",
    "load",
    "save",
    "to_plain",
]
