"""The mean of the last weights, by hand, as one more candidate for the best ones."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from tests.running import TINY_BERT, reviews, run
from transfer.averaging import AveragedWeights
from transfer.config import Averaging, Freezing


class Weights(Callback):
    """The weights after each step, and a checkpoint after one of them."""

    def __init__(self, path=None):
        self.seen, self.path = [], path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append({name: p.detach().clone() for name, p in pl_module.model.named_parameters()})
        if self.path and trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


class Strategy(SingleDeviceStrategy):
    """What `apply` asks of a trainer."""

    strategy = property(lambda self: self)


def means(averaged):
    return dict(averaged.averaged.module.named_parameters())


def test_swa_is_the_mean_of_the_last_steps(tiny_model, fit):
    """Of six steps those after the third."""
    seen, averaged = Weights(), AveragedWeights(Averaging("swa", start_fraction=0.5))
    fit(tiny_model("bert"), Freezing(), callbacks=[seen, averaged])
    assert (len(seen.seen), averaged.num_averaged) == (6, 3)
    for name, mean in means(averaged).items():
        torch.testing.assert_close(mean, torch.stack([step[name] for step in seen.seen[3:]]).mean(dim=0))


def test_ema_counts_the_newest_most(tiny_model, fit):
    seen, averaged = Weights(), AveragedWeights(Averaging("ema", start_fraction=0.0, decay=0.8))
    fit(tiny_model("bert"), Freezing("first_k", k=1), max_epochs=1, callbacks=[seen, averaged])
    first, second, third = seen.seen
    for name, mean in means(averaged).items():
        torch.testing.assert_close(mean, 0.64 * first[name] + 0.16 * second[name] + 0.2 * third[name])


def test_resumed_it_has_the_same_mean(tiny_model, fit, tmp_path):
    settings, path = Averaging("swa", start_fraction=0.4), tmp_path / "mid.ckpt"
    whole, rest = AveragedWeights(settings), AveragedWeights(settings)
    fit(tiny_model("bert"), Freezing(), callbacks=[whole, Weights(path)])
    fit(tiny_model("bert"), Freezing(), callbacks=[rest], ckpt_path=path)
    assert whole.num_averaged == rest.num_averaged == 4
    assert all(torch.equal(mean, means(rest)[name]) for name, mean in means(whole).items())


@pytest.mark.parametrize(
    ("policy", "frozen"),
    [(Freezing(), ()), (Freezing("first_k", k=1), ("resnet.embedder.", "resnet.encoder.stages.0."))],
    ids=["none", "first_k"],
)
def test_batch_norms_of_the_mean_are_those_of_its_own_activations(tiny_model, policy, frozen):
    from transfer import freezing

    model = tiny_model("resnet")
    callback = freezing.FreezingCallback(model, freezing.make(model, policy))
    callback.prepare(distributed=False)
    module = torch.nn.Module()
    module.model = model
    train = torch.nn.Module.train
    module.train = lambda mode=True: (train(module, mode), callback.rest())
    images = torch.randn(12, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = [{"inputs": {"pixel_values": images[i : i + 4]}} for i in (0, 4, 8)]
    averaged = AveragedWeights(Averaging("swa"))
    averaged.averaged = averaged._start(model)
    averaged.averaged.update_parameters(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    norm = model.resnet.embedder.embedder.normalization
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert averaged.apply(Strategy(), module, batches)
    still = {name for name, buffer in model.named_buffers() if torch.equal(buffer, before[name])}
    assert still == {name for name in before if name.startswith(frozen)}
    if not frozen:
        with torch.no_grad():
            activations = model.resnet.embedder.embedder.convolution(images)
        torch.testing.assert_close(norm.running_mean, activations.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_run_says_what_came_of_it_and_scratch_averages_too(tmp_path):
    """Chosen, the mean is the best that the run has seen; not chosen, the run ends as it would have without."""
    target = reviews(tmp_path / "target.csv")
    arguments = [*TINY_BERT, f"target.data.path={target}", "stage=scratch", f"output_dir={tmp_path / 'outputs'}"]
    plain = run(*arguments)
    record = run(*arguments, "averaging=ema", "averaging.decay=0.5")
    assert "averaging" not in plain
    assert plain["fingerprint"] != record["fingerprint"]
    found = record["averaging"]
    assert (found["name"], found["num_averaged"]) == ("ema", 6)
    assert set(found) == {"name", "num_averaged", "chosen", "val/accuracy"}
    if found["chosen"]:
        assert record["monitor"]["best"] == found["val/accuracy"]
    else:
        assert record["metrics"] == plain["metrics"]
