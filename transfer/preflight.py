"""What can be found wrong with a target run before its source has trained for hours."""

from __future__ import annotations

import torch
import transformers

from transfer import adaptation, architecture, freezing, legs, models, optim, regularizers, tasks, weights
from transfer.plan import Plan


def check(plan: Plan) -> None:
    """Load the data and try the settings on an empty model.

    Raises:
        UserError: as the run itself would.
    """
    leg = legs.load(plan)
    task = tasks.make(plan.task, leg.splits.labels, key=f"{plan.leg}.task")
    optimizer = optim.build([{"params": [torch.nn.Parameter(torch.zeros(1))]}], plan.optimizer)
    optim.schedule(optimizer, plan.scheduler, num_steps=100, mode=plan.task.mode)
    models.register()
    num_features = len(leg.train[0]["features"]) if "features" in leg.train.column_names else 0
    config = architecture.config_for(plan, task, None, num_features)
    with torch.device("meta"), architecture.configured(plan):
        model = getattr(transformers, task.auto_class).from_config(config)
    if plan.weights.reinit_top_k:
        weights.top_layers(model, plan.weights.reinit_top_k)
    adapted = adaptation.adapt(model, plan.adaptation, [], seed=0)
    regularizers.make(model, plan.regularizer, [])
    freezing.make(model, plan.freezing, adapted)
