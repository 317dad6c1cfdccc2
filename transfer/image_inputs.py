"""The image processor of a run, and what the model's config has to know of its images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.utils import IMAGE_PROCESSOR_NAME

from transfer.errors import Problem, UserError
from transfer.identity import local_folder
from transfer.models import image_processors
from transfer.plan import Plan

log = logging.getLogger(__name__)


def require_kind(plan: Plan, task: Any, *, images: bool) -> None:
    """That a task for images gets some, and no other task does.

    Raises:
        UserError: it is not so.
    """
    if images and not task.reads_images:
        action = f"task@{plan.leg}.task=image_classification, or {plan.leg}.data.columns.image=null"
        raise UserError(Problem(f"{plan.leg}.task.name", task.task.name, "a task for images, as the data are", action))
    if task.reads_images and not images:
        action = f"{plan.leg}.data.columns.image=COLUMN (in folders and idx files it is called image)"
        raise UserError(Problem(f"{plan.leg}.data.columns.image", "null", f"images, for {task.task.name}", action))


def processor_for(plan: Plan, task: Any, encoded: Callable[[], Iterable[Any]], weights_from: Path | None) -> Any:
    """The processor that belongs to the weights, else the model's, else one made for images like these.

    The task's options, and the settings of a model that is built from its config, have the last word.
    """
    wanted, kept = task.wanted({} if plan.model.name else plan.model.config), None
    if weights_from is not None and (weights_from / IMAGE_PROCESSOR_NAME).is_file():
        kept = AutoImageProcessor.from_pretrained(weights_from)
    elif plan.model.name:
        name = str(local_folder(plan.model.name) or plan.model.name)
        try:
            kept = AutoImageProcessor.from_pretrained(name, revision=plan.model.revision)
        except (OSError, ValueError):
            log.info("%s has no image processor: images are made alike by what the training images are", name)
    if kept is None:
        return image_processors.make(wanted, list(encoded()))
    return image_processors.changed(kept, wanted)


def settings(processor: Any, config: PreTrainedConfig, *, named: bool, options: dict[str, Any]) -> dict[str, Any]:
    """`num_channels` and `image_size`, where the architecture has them; of a named model what the options change."""
    own: dict[str, Any] = {}
    if hasattr(config, "num_channels") and (options["channels"] or not named):
        own["num_channels"] = image_processors.channels_of(processor)
    if hasattr(config, "image_size") and (options["size"] or not named):
        height, width = image_processors.size_of(processor)
        own["image_size"] = height if height == width else [height, width]
    return own
