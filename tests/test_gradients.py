import logging
import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from transfer.config import Freezing, Optimizer
from transfer.freezing import FreezingCallback
from transfer.freezing import make as freezing_plan
from transfer.gradients import GradientNorms
from transfer.module import TransferModule


@pytest.fixture
def checked(tiny_model, run_plan, text_data, caplog):
    """Norms of the gradients by depth -> the warnings about them, after several steps."""

    def check(*norms_by_step):
        model = tiny_model("bert")
        callback = GradientNorms(model, every_n_steps=1)
        frozen = FreezingCallback(model, freezing_plan(model, Freezing()))
        module = TransferModule(model, text_data().task, run_plan(), frozen)
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "transfer"):
            for norms in norms_by_step:
                for group, members in callback.groups.items():
                    for parameter in members:
                        parameter.grad = None
                    if norms.get(group) is not None:
                        members[0].grad = torch.zeros_like(members[0])
                        members[0].grad.view(-1)[0] = norms[group]
                callback.on_before_optimizer_step(trainer, module, None)
        return [record.getMessage() for record in caplog.records if record.name == "transfer.gradients"]

    return check


HEALTHY = {"depth_0": 0.1, "depth_1": 2.0, "depth_2": 30.0, "head": 1.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"depth_1": math.nan}, "exploding gradients in depth_1: norm nan at step 0"),
        ({"depth_2": math.inf}, "exploding gradients in depth_2: norm inf at step 0"),
        ({"depth_0": 2e3, "head": 5e3}, "exploding gradients in head: norm 5e+03 at step 0"),
        ({"depth_1": math.nan, "head": 1e4}, "exploding gradients in depth_1: norm nan"),
        ({"depth_0": 0.0}, "vanishing gradients in depth_0: norm below 1e-07 at step 0"),
        ({"depth_0": 1e-9, "depth_1": 1e-8}, "vanishing gradients in depth_0, depth_1:"),
        # frozen layers have no gradient, which is no trouble
        ({"depth_0": None, "depth_1": None, "depth_2": None}, None),
        # whoever has learnt everything has small gradients
        (dict.fromkeys(HEALTHY, 1e-9), None),
        (dict.fromkeys(HEALTHY), None),
    ],
)
def test_a_layer_in_trouble_is_named(checked, change, words):
    found = checked(HEALTHY | change)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_each_kind_of_trouble_is_told_once(checked):
    exploded, vanished = HEALTHY | {"head": math.nan}, HEALTHY | {"depth_0": 0.0}
    found = checked(exploded, exploded, vanished, vanished, exploded)
    assert [text.split()[0] for text in found] == ["exploding", "vanishing"]


def test_both_troubles_at_once_are_both_told(checked):
    assert len(checked(HEALTHY | {"head": math.nan, "depth_0": 0.0})) == 2


class Logged(Callback):
    def __init__(self):
        self.steps = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[trainer.global_step] = dict(trainer.logged_metrics)


def test_norms_are_those_before_clipping_and_of_what_trains(tiny_model, fit):
    model, logged = tiny_model("bert"), Logged()
    fit(
        model,
        Freezing("first_k", k=1),
        max_epochs=1,
        callbacks=[GradientNorms(model, 1), logged],
        trainer={"gradient_clip_val": 1e-6, "log_every_n_steps": 1},
    )
    assert len(logged.steps) == 3
    for metrics in logged.steps.values():
        norms = {name: float(value) for name, value in metrics.items() if name.startswith("gradient_norm/")}
        assert set(norms) == {"gradient_norm/total", "gradient_norm/depth_2", "gradient_norm/head"}
        total = math.hypot(norms["gradient_norm/depth_2"], norms["gradient_norm/head"])
        assert norms["gradient_norm/total"] == pytest.approx(total)
        assert total > 1e-3, "what came before clipping"


def test_a_diverging_run_says_so_once(tiny_model, fit, caplog):
    model = tiny_model("mean")
    with caplog.at_level(logging.WARNING, "transfer"):
        fit(
            model,
            Freezing(),
            callbacks=[GradientNorms(model, 1)],
            optimizer=Optimizer("torch.optim.SGD", lr=1e30, weight_decay=0.0),
        )
    found = [record.getMessage() for record in caplog.records if record.name == "transfer.gradients"]
    assert len([text for text in found if "exploding" in text]) == 1


def test_a_loss_that_is_no_number_is_not_left_out_of_the_mean(tiny_model, fit, text_data):
    model, data = tiny_model("mean"), text_data(num_rows=6, batch_size=1)
    module = fit(model, Freezing(), max_epochs=1, data=data)
    in_batches = [set(batch["inputs"]["input_ids"].flatten().tolist()) for batch in data.val_dataloader()]
    only_first = in_batches[0] - set.union(*in_batches[1:])
    with torch.no_grad():
        model.backbone.embeddings.weight[sorted(only_first)] = math.nan
    (metrics,) = module.trainer.validate(module, datamodule=data, verbose=False)
    assert math.isnan(metrics["val/loss"])
