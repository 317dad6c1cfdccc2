"""Penalties towards the source: their gradients by hand, once a step, in parts as in one piece."""

import pytest
import torch
from lightning.pytorch import Callback

from transfer import regularizers
from transfer.config import Freezing, Optimizer, Regularizer
from transfer.errors import UserError

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HEAD = {"classifier.weight", "classifier.bias"}
SGD = Optimizer("torch.optim.SGD", lr=0.1, weight_decay=0.0)


class Gradients(Callback):
    """Weights and gradients before each step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        model = pl_module.model
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.seen.append(
            (weights, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )


def gradients(tiny_model, fit, *, parts=1, family="bert", **changes):
    """The model of each of three steps with its gradient."""
    seen = Gradients()
    model = tiny_model(family, **(NO_DROPOUT if family == "bert" else {}))
    trainer = {"accumulate_grad_batches": parts, "gradient_clip_val": None}
    fit(model, Freezing(), max_epochs=1, callbacks=[seen], trainer=trainer, new=HEAD, optimizer=SGD, **changes)
    return seen.seen


@pytest.mark.parametrize("parts", [1, 4])
def test_l2_sp_adds_its_gradient_once_a_step(tiny_model, fit, parts):
    """alpha (w - w0) for what came from the source, beta w for the head, on top of the gradient of the loss there."""
    plain = gradients(tiny_model, fit)[0]
    steps = gradients(tiny_model, fit, parts=parts, regularizer=Regularizer("l2_sp", alpha=0.3, beta=0.2))
    start = plain[0]
    assert all(torch.equal(tensor, steps[0][0][name]) for name, tensor in start.items())
    for name, gradient in steps[0][1].items():
        extra = 0.2 * start[name] if name in HEAD else torch.zeros(())
        torch.testing.assert_close(gradient, plain[1][name] + extra, rtol=1e-4, atol=1e-6)
    without = gradients(tiny_model, fit, parts=parts, regularizer=Regularizer("l2_sp", alpha=0.0, beta=0.2))
    torch.testing.assert_close(steps[1][0], without[1][0])  # before the second step nothing had moved
    for name, gradient in steps[1][1].items():
        pull = 0.0 if name in HEAD else 0.3 * (steps[1][0][name] - start[name])
        torch.testing.assert_close(gradient, without[1][1][name] + pull, rtol=1e-4, atol=1e-6)
        assert name in HEAD or name.endswith(("key.bias", "embeddings.weight")) or pull.abs().max() > 0


def test_l2_sp_leaves_what_is_frozen(tiny_model, fit):
    seen = Gradients()
    settings = Regularizer("l2_sp", alpha=1.0, beta=1.0)
    fit(tiny_model("bert"), Freezing("first_k", k=1), max_epochs=1, callbacks=[seen], new=HEAD, regularizer=settings)
    assert not any(".layer.0." in name or "embeddings" in name for name in seen.seen[0][1])


@pytest.mark.parametrize("parts", [2, 4])
def test_delta_in_parts_is_delta_in_one_piece(tiny_model, fit, parts):
    settings = Regularizer("delta", alpha=5.0)
    whole, cut = (gradients(tiny_model, fit, parts=number, regularizer=settings) for number in (1, parts))
    for name, gradient in whole[2][1].items():
        torch.testing.assert_close(cut[2][1][name], gradient, rtol=1e-3, atol=1e-6)
    plain = gradients(tiny_model, fit)
    torch.testing.assert_close(plain[0][1], whole[0][1], rtol=1e-4, atol=1e-6)  # at the source it has no gradient
    assert not torch.allclose(plain[2][1]["classifier.weight"], whole[2][1]["classifier.weight"], atol=1e-6)


def test_the_distance_of_features_by_hand(tiny_model):
    """Two layers of [2, 3, 16] features; the second row has one token of padding, which does not count."""
    model = tiny_model("bert").eval()
    delta = regularizers.Delta(model, Regularizer("delta", alpha=3.0))
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias.add_(0.5)
    inputs = {"input_ids": torch.arange(3, 9).reshape(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    batch = {"inputs": inputs, "share": torch.tensor([0.25, 0.75])}
    outputs = delta.outputs(model, inputs)
    before = delta.source(**inputs, output_hidden_states=True).hidden_states
    by_hand = torch.zeros(())
    for share, row, tokens in ((0.25, 0, 3), (0.75, 1, 2)):
        for layer in (1, 2):
            difference = outputs.hidden_states[layer][row, :tokens] - before[layer][row, :tokens]
            by_hand = by_hand + 3.0 * share * difference.square().mean() / 2
    found = delta.penalty(outputs, batch)
    torch.testing.assert_close(found, by_hand)
    found.backward()
    assert model.bert.encoder.layer[0].output.dense.bias.grad.abs().max() > 0
    assert model.classifier.bias.grad is None
    assert all(parameter.grad is None for parameter in delta.source.parameters())


@pytest.mark.parametrize("family", ["gpt2", "lstm", "t5"])
def test_delta_goes_with_every_architecture_that_has_hidden_states(tiny_model, fit, family):
    shown = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1} if family == "t5" else {}
    model = tiny_model(family, **shown)
    delta = regularizers.Delta(model, Regularizer("delta"))
    ids = torch.arange(3, 11).reshape(2, 4)
    ids[:, -1] = 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    outputs = delta.outputs(model.train(), inputs)
    assert len(regularizers.features(outputs)) == (4 if family == "t5" else 2)
    assert delta.penalty(outputs, {"inputs": inputs, "share": torch.ones(2)}).requires_grad


def test_mixout_is_the_source_with_probability_p_and_keeps_the_mean(tiny_model):
    """By the equation: with u = 0 and one weight w, an output is 0 or w / (1 - p)."""
    model = tiny_model("bert", **NO_DROPOUT)
    name = "bert.pooler.dense.weight"
    mixout = regularizers.Mixout(model, Regularizer("mixout", p=0.75), dict(model.named_parameters()))
    assert set(mixout.initial) == {
        n for n, p in model.named_parameters() if p.ndim == 2 and "embeddings" not in n and n.startswith("bert.")
    }
    source = mixout.initial[name].clone()
    seen = []
    model.bert.pooler.dense.register_forward_pre_hook(lambda module, _: seen.append(module.weight.detach().clone()))
    inputs = {"input_ids": torch.arange(3, 9).reshape(2, 3)}
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_parameter(name).add_(1.0)
    for _ in range(200):
        outputs = mixout.outputs(model, inputs)
    drawn = torch.stack(seen) - source
    torch.testing.assert_close(drawn.unique().round(decimals=3).unique(), torch.tensor([0.0, 4.0]))
    assert drawn.mean() == pytest.approx(1.0, abs=0.05)
    outputs.logits.sum().backward()
    torch.testing.assert_close(model.get_parameter(name).detach(), source + 1.0)  # itself it has not been changed
    assert model.get_parameter(name).grad is not None


class SaveAt(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("name", ["l2_sp", "delta", "mixout"])
def test_resumed_it_pulls_to_the_same_source(tiny_model, fit, tmp_path, name):
    settings = {"regularizer": Regularizer(name), "new": HEAD}
    trained, resumed = tiny_model("bert"), tiny_model("bert")
    fit(trained, Freezing(), callbacks=[SaveAt(tmp_path / "mid.ckpt")], **settings)
    fit(resumed, Freezing(), ckpt_path=tmp_path / "mid.ckpt", **settings)
    assert all(torch.equal(tensor, resumed.state_dict()[key]) for key, tensor in trained.state_dict().items())


@pytest.mark.parametrize("name", ["l2_sp", "delta", "mixout"])
def test_whole_models_in_half_precision(tiny_model, fit, name):
    model = tiny_model("bert")
    before = model.get_parameter("bert.pooler.dense.weight").clone()
    settings = {"regularizer": Regularizer(name), "new": HEAD, "optimizer": Optimizer(lr=0.1)}
    fit(model, Freezing(), max_epochs=1, trainer={"precision": "bf16-true"}, **settings)
    after = model.get_parameter("bert.pooler.dense.weight")
    assert after.isfinite().all()
    assert not torch.equal(after.float(), before)


def test_what_has_nothing_to_mix_is_refused(tiny_model):
    with pytest.raises(UserError, match="mixout, with a model recurrent"):
        regularizers.make(tiny_model("lstm"), Regularizer("mixout"), [])
    model = tiny_model("linear")
    delta = regularizers.Delta(model, Regularizer("delta"))
    inputs = {"features": torch.randn(2, 3)}
    with pytest.raises(UserError, match="delta, with a model linear"):
        delta.penalty(delta.outputs(model, inputs), {"inputs": inputs, "share": torch.ones(2)})
