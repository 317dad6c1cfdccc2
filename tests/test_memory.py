"""Steps in parts: the same training as with whole batches, and what a run does when memory runs out."""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from tests.running import LSTM, QUICK, cli, record_of, reviews
from transfer import memory
from transfer.config import Freezing, Optimizer

DATA_ERROR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


class Limited(torch.nn.Module):
    """What a full device does: it refuses more than so many rows, once in the forward and once in the backward pass."""

    def __init__(self, rows, where):
        super().__init__()
        self.rows, self.where, self.refused = rows, where, 0

    def forward(self, logits):
        if len(logits) <= self.rows:
            return logits
        if not self.training or self.where == "forward":
            self.refuse()
        logits.register_hook(lambda gradient: self.refuse())
        return logits

    def refuse(self, *_):
        self.refused += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def weights_equal(first, second):
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 5.0, 0.0]])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_batch_train_as_the_whole_batch_does(tiny_model, fit, text_data, parts, weights):
    """With 21 rows in batches of 8 the last batch is short; weighted classes make parts of unequal weight."""
    losses, models = {}, {}
    sgd = Optimizer("torch.optim.SGD", lr=0.1)  # Adam makes a whole step of the rounding of a gradient of nought
    for number in (1, parts):
        data, seen = text_data(num_rows=21), Losses()
        data.task.class_weights = None if weights is None else torch.tensor(weights)
        models[number] = tiny_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = {"accumulate_grad_batches": number}
        fit(models[number], Freezing(), data=data, callbacks=[seen], max_epochs=3, trainer=trainer, optimizer=sgd)
        losses[number] = seen.values
    assert losses[parts] == pytest.approx(losses[1], rel=1e-4)
    weights_equal(models[1], models[parts])


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("rows", "parts"), [(4, 2), (1, 8)])
def test_where_memory_runs_out_the_same_step_goes_in_parts(tiny_model, fit, text_data, where, rows, parts, caplog):
    whole, cut = (tiny_model("lstm", dropout=0.0) for _ in range(2))
    fit(whole, Freezing(), data=text_data())
    limit = Limited(rows, where)
    cut.classifier = torch.nn.Sequential(cut.classifier, limit)
    module = fit(cut, Freezing(), data=text_data())
    assert module.splits == parts
    refused = {2: 1, 8: 3}[parts] + {2: 2, 8: 4}[parts]  # in training, and evaluating batches of 16
    assert limit.refused == refused, "what was learned of the memory holds for the steps that follow"
    assert f"with every batch in {parts} parts" in caplog.text
    assert module.num_examples == 48, "rows of a step that failed do not count twice"
    cut.classifier = cut.classifier[0]
    weights_equal(whole, cut)


@pytest.mark.parametrize(
    ("settings", "rows"), [({"halve_on_out_of_memory": False}, 4), ({}, 0)], ids=["switched off", "not even one row"]
)
def test_what_cannot_be_cut_fails(tiny_model, fit, settings, rows):
    model = tiny_model("lstm")
    model.classifier = torch.nn.Sequential(model.classifier, Limited(rows, "forward"))
    with pytest.raises(torch.OutOfMemoryError):
        fit(model, Freezing(), trainer=settings)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError(DATA_ERROR), True),
        (RuntimeError("could not create a primitive"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_other_errors_are_no_lack_of_memory(error, is_memory):
    assert memory.is_out_of_memory(error) == is_memory


class Crowded(torch.optim.SGD):
    """Finds the memory of the second process full, once: there is no file `seen` yet."""

    def __init__(self, params, lr, weight_decay, seen):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.seen = Path(seen)
        self.param_groups[-1]["params"][-1].register_hook(self.look)

    def look(self, gradient):
        if os.environ["RANK"] == "1" and not self.seen.exists():
            self.seen.touch()
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.cluster
def test_processes_begin_again_together_where_one_has_no_memory(tmp_path):
    data = reviews(tmp_path / "target.csv", num=60)
    arguments = [*QUICK, *LSTM, "stage=scratch", "data@target.data=csv", f"target.data.path={data}"]
    arguments += ["trainer=ddp_cpu", "scratch.lr=0.1", "optimizer._target_=tests.test_memory.Crowded"]
    arguments += [f"optimizer.options.seen={tmp_path / 'seen'}", f"output_dir={tmp_path / 'outputs'}"]
    outcome = cli("run", *arguments)
    assert outcome.code == 0, outcome.err
    assert "starting again, with every batch in 2 parts" in outcome.err
    record = record_of(outcome.out)
    assert record["status"] == "complete"
    assert record["notes"] == ["memory ran out: each batch of 16 was cut in 2 parts"]
    assert not list(Path(record["_folder"]).glob(".out*"))
