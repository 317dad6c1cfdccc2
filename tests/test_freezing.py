from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback

from transfer import freezing
from transfer.config import Freezing
from transfer.errors import UserError

NEVER = None


def by_depth(model, policy):
    """depth -> the epoch from which it trains, for a model of two layers; `head` for the head."""
    from transfer import parameters

    plan, depths = freezing.make(model, policy), parameters.depths(model)
    found = {}
    for name, depth in depths.items():
        found.setdefault("head" if depth is None else depth, set()).add(plan[name])
    assert all(len(starts) == 1 for starts in found.values()), found
    return {depth: starts.pop() for depth, starts in found.items()}


@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm"])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Freezing("none"), {0: 0, 1: 0, 2: 0, "head": 0}),
        (Freezing("all"), {0: NEVER, 1: NEVER, 2: NEVER, "head": NEVER}),
        (Freezing("head_only"), {0: NEVER, 1: NEVER, 2: NEVER, "head": 0}),
        (Freezing("first_k", k=1), {0: NEVER, 1: NEVER, 2: 0, "head": 0}),
        (Freezing("first_k", k=2), {0: NEVER, 1: NEVER, 2: NEVER, "head": 0}),
        (Freezing("gradual"), {0: 3, 1: 2, 2: 1, "head": 0}),
        (Freezing("gradual", epochs_per_layer=2), {0: 6, 1: 4, 2: 2, "head": 0}),
        (Freezing("gradual", epochs_per_layer=0.5), {0: 1.5, 1: 1, 2: 0.5, "head": 0}),
        (Freezing("regex"), {0: NEVER, 1: 0, 2: 0, "head": 0}),
    ],
    ids=lambda value: f"{value.policy}" if isinstance(value, Freezing) else "",
)
def test_which_depth_trains_from_when(tiny_model, family, policy, expected):
    if policy.policy == "regex":
        patterns = [r".*\.wte\..*", r".*\.wpe\..*"] if family == "gpt2" else [r".*\.embeddings\..*"]
        policy = replace(policy, patterns=patterns)
    assert by_depth(tiny_model(family), policy) == expected


@pytest.mark.parametrize(
    ("family", "name", "trains"),
    [
        ("bert", "bert.encoder.layer.0.attention.output.LayerNorm.bias", True),
        ("bert", "bert.encoder.layer.0.attention.output.LayerNorm.weight", False),
        ("gpt2", "transformer.h.1.attn.c_attn.bias", True),
        ("lstm", "backbone.layers.0.bias_ih_l0_reverse", True),
        ("lstm", "backbone.layers.0.weight_hh_l0", False),
        ("resnet", "resnet.embedder.embedder.normalization.bias", True),
        ("bert", "classifier.weight", True),
    ],
)
def test_bitfit_trains_biases_and_head(tiny_model, family, name, trains):
    model = tiny_model(family)
    plan = freezing.make(model, Freezing("bitfit"))
    assert (plan[name] == 0) == trains
    backbone = {n for n, start in plan.items() if start == 0 and n.startswith(model.base_model_prefix)}
    assert all(dict(model.named_parameters())[n].ndim == 1 for n in backbone)


def test_regex_freezes_what_matches_whole_names(tiny_model):
    plan = freezing.make(tiny_model("bert"), Freezing("regex", patterns=[r".*\.layer\.0\..*", "classifier.bias"]))
    frozen = {name for name, start in plan.items() if start is None}
    assert frozen == {name for name in plan if ".layer.0." in name or name == "classifier.bias"}


@pytest.mark.parametrize(
    ("family", "policy", "key", "words"),
    [
        ("bert", Freezing("first_k", k=3), "freezing.k", "1 to 2"),
        ("mean", Freezing("first_k", k=1), "freezing.k", "another policy: this model has 0 layers"),
        ("bert", Freezing("regex", patterns=["classifier.*", "embeddings"]), "freezing.patterns", "['embeddings']"),
        ("bert", Freezing("regex", patterns=[".*"]), "freezing.patterns", "leave something to train"),
        ("mean", Freezing("bitfit"), "freezing.policy", "has no biases"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tiny_model, family, policy, key, words):
    with pytest.raises(UserError) as caught:
        freezing.make(tiny_model(family), policy)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert words in str(caught.value)


def callback(model, policy, *, distributed=False):
    made = freezing.FreezingCallback(model, freezing.make(model, policy))
    made.prepare(distributed=distributed)
    return made


def backward(model):
    ids = torch.arange(3, 15).reshape(2, 6)
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "distilbert", "lstm"])
@pytest.mark.parametrize(
    "policy", [Freezing("head_only"), Freezing("first_k", k=1), Freezing("gradual"), Freezing("none")]
)
def test_a_backward_gives_gradients_to_what_trains_and_to_nothing_else(tiny_model, family, policy):
    model = tiny_model(family)
    plan = callback(model, policy).plan
    assert backward(model) == {name for name, start in plan.items() if start == 0}


def test_no_activation_of_a_frozen_prefix_is_kept_for_the_backward(tiny_model):
    model = tiny_model("bert")
    callback(model, Freezing("first_k", k=1))
    seen = {}
    for depth, layer in enumerate(model.bert.encoder.layer, start=1):
        layer.register_forward_hook(lambda _, __, out, depth=depth: seen.update({depth: out[0].requires_grad}))
    backward(model)
    assert seen == {1: False, 2: True}


def training_modules(model):
    return {name for name, module in model.named_modules() if module.training}


@pytest.mark.parametrize(
    ("policy", "resting", "awake"),
    [
        (Freezing("head_only"), ["bert", "bert.encoder.layer.1.output.dropout"], ["classifier", "dropout", ""]),
        (
            Freezing("first_k", k=1),
            ["bert.embeddings", "bert.embeddings.dropout", "bert.encoder.layer.0.attention.self.dropout"],
            ["bert", "bert.encoder.layer.1", "bert.encoder.layer.1.output.dropout", "bert.pooler", "dropout"],
        ),
        (
            Freezing("regex", patterns=[r".*\.attention\..*"]),
            ["bert.encoder.layer.0.attention.output.dropout"],
            ["bert.encoder.layer.0.output.dropout", "bert.embeddings.dropout"],
        ),
        (Freezing("none"), [], ["bert.embeddings.dropout", "dropout"]),
        (Freezing("all"), ["", "dropout", "bert"], []),
    ],
    ids=lambda value: value.policy if isinstance(value, Freezing) else "",
)
def test_frozen_modules_rest(tiny_model, policy, resting, awake):
    model = tiny_model("bert")
    callback(model, policy)
    assert training_modules(model).isdisjoint(resting)
    assert training_modules(model) >= set(awake)


def test_frozen_batch_statistics_and_dropout_stand_still(tiny_model):
    model = tiny_model("resnet")
    callback(model, Freezing("first_k", k=1))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(pixel_values=torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {name for name in before if ".stages.1." in name}

    bert = tiny_model("bert", hidden_dropout_prob=0.5)
    callback(bert, Freezing("head_only"))
    ids = torch.arange(3, 15).reshape(2, 6)
    assert torch.equal(bert.bert(ids).pooler_output, bert.bert(ids).pooler_output)
    assert not torch.equal(bert(ids).logits, bert(ids).logits), "the head's own dropout is at work"


def test_an_evaluated_model_stays_in_evaluation_mode(tiny_model):
    model = tiny_model("bert").eval()
    callback(model, Freezing("gradual")).apply(1)
    assert training_modules(model) == set()


class Watch(Callback):
    """What trains at each training batch: names with a gradient, and modules in training mode."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = {name for name, p in pl_module.model.named_parameters() if p.grad is not None}
        self.seen.append((trainer.current_epoch, gradients, training_modules(pl_module.model)))

    def epochs(self):
        """epoch -> (gradients, modes), which are the same over all its batches."""
        found = {}
        for epoch, gradients, modes in self.seen:
            assert found.setdefault(epoch, (gradients, modes)) == (gradients, modes)
        return found


def test_frozen_modules_still_rest_after_lightnings_validation(tiny_model, fit):
    watch = Watch()
    model = tiny_model("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, Freezing("head_only"), max_epochs=2, callbacks=[watch])
    assert watch.seen[0][0] == 0
    assert watch.seen[-1][0] == 1
    for gradients, modes in watch.epochs().values():
        assert gradients == {"classifier.weight", "classifier.bias"}
        assert modes == {"", "classifier", "dropout"}
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_gradual_wakes_one_depth_more_in_each_epoch(tiny_model, fit):
    """With its gradients, and with its dropout: a woken layer trains as it would without freezing."""
    watch = Watch()
    model = tiny_model("bert")
    frozen = fit(model, Freezing("gradual"), max_epochs=4, callbacks=[watch]).freezing
    epochs = watch.epochs()
    assert len(epochs) == 4
    for epoch, (gradients, modes) in epochs.items():
        assert gradients == {name for name, start in frozen.plan.items() if start <= epoch}
        assert ("bert.encoder.layer.1.output.dropout" in modes) == (epoch >= 1)
        assert ("bert.encoder.layer.0.output.dropout" in modes) == (epoch >= 2)
        assert ("bert.embeddings.dropout" in modes) == (epoch >= 3)
        assert "classifier" in modes
    assert epochs[3][1] == {name for name, _ in model.named_modules()}


def test_two_layers_wake_together_at_half_an_epoch_each(tiny_model, fit):
    watch = Watch()
    fit(tiny_model("lstm"), Freezing("gradual", epochs_per_layer=0.5), max_epochs=3, callbacks=[watch])
    depths = [
        sorted({name.split(".")[2] for name in gradients if "layers" in name})
        for gradients, _ in watch.epochs().values()
    ]
    assert depths == [[], ["0", "1"], ["0", "1"]]
    assert ["backbone.embeddings.weight" in gradients for gradients, _ in watch.epochs().values()] == [
        False,
        False,
        True,
    ]


class SaveAt(Callback):
    """A checkpoint after so many steps, and none later."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6])
def test_a_resumed_run_goes_on_with_what_was_awake(tiny_model, fit, tmp_path, step):
    """Epochs have three batches: inside the second the top layer trains, and between two epochs one more wakes."""
    path, whole, rest = tmp_path / "mid.ckpt", Watch(), Watch()
    trained = tiny_model("bert")
    fit(trained, Freezing("gradual"), max_epochs=3, callbacks=[whole, SaveAt(path, step)])
    resumed = tiny_model("bert", seed=1)
    fit(resumed, Freezing("gradual"), max_epochs=3, callbacks=[rest], ckpt_path=path)
    assert rest.seen == whole.seen[step:]
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in trained.state_dict().items())


def test_under_several_ranks_all_that_ever_trains_keeps_its_gradient_until_the_step(tiny_model):
    model = tiny_model("bert")
    made = callback(model, Freezing("gradual"), distributed=True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "bert.embeddings.dropout" not in training_modules(model)
    made.apply(1, wrapped=True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {name for name, start in made.plan.items() if start <= 1} == made.active
    first_k = tiny_model("bert")
    plan = callback(first_k, Freezing("first_k", k=1), distributed=True).plan
    assert all(parameter.requires_grad == (plan[name] is not None) for name, parameter in first_k.named_parameters())


def test_describe_counts_parameters(tiny_model):
    model = tiny_model("linear", num_labels=2)
    assert freezing.describe(freezing.make(model, Freezing()), model) == "8 of 8 parameters train (100.0%)"
    model = tiny_model("mean")
    text = freezing.describe(freezing.make(model, Freezing("gradual", epochs_per_layer=1.5)), model)
    assert text == "27 of 427 parameters train (6.3%), 427 from epoch 2 on"
    assert freezing.describe(freezing.make(model, Freezing("all")), model) == "0 of 427 parameters train (0.0%)"
