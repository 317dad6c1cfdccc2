"""Adapters in a model: what they change, what trains, what is left when they are merged, what a run keeps of them."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from lightning.pytorch import Callback

from tests.running import TINY_BERT, cli, reviews, run
from transfer import adaptation, freezing, optim, parameters, validation
from transfer.compose import compose
from transfer.config import Adaptation, Freezing, Optimizer
from transfer.errors import UserError

METHODS = {
    "lora": Adaptation("lora", r=2, alpha=4),
    "dora": Adaptation("lora", r=2, alpha=4, options={"use_dora": True, "use_rslora": True}),
    "ia3": Adaptation("ia3"),
    "adapter": Adaptation("adapter", r=2, alpha=4),
}
# What stands behind the usual targets: two layers of 16 units, 32 in the feed-forward layers, three attentions in T5.
COUNTS = {
    ("bert", "lora"): 2 * 2 * (16 * 2 + 2 * 16),
    ("bert", "ia3"): 2 * (16 + 16 + 32 + 16),  # keys, values, and the input of both layers called output.dense
    ("bert", "adapter"): 2 * (16 * 2 + 2 + 2 * 16),
    ("gpt2", "lora"): 2 * (16 * 2 + 2 * 48),
    ("gpt2", "ia3"): 2 * (48 + 64),
    ("gpt2", "adapter"): 2 * (16 * 2 + 2 + 2 * 16),
    ("distilbert", "lora"): 2 * 2 * (16 * 2 + 2 * 16),
    ("distilbert", "ia3"): 2 * (16 + 16 + 32),
    ("distilbert", "adapter"): 2 * (16 * 2 + 2 + 2 * 16),
    ("t5", "lora"): 2 * 3 * 2 * (16 * 2 + 2 * 16),
    ("t5", "ia3"): 2 * 3 * 2 * 16 + 2 * 2 * 32,
    ("t5", "adapter"): 2 * 2 * (16 * 2 + 2 * 16),
    ("resnet", "lora"): None,
    ("bert", "dora"): 2 * 2 * (16 * 2 + 2 * 16 + 16),
}


def built(tiny_model, family):
    extra = {"t5": {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}}.get(family, {})
    return tiny_model(family, **extra).eval()


def logits(model):
    generator = torch.Generator().manual_seed(1)
    if model.config.model_type == "resnet":
        return model(pixel_values=torch.randn(2, 1, 32, 32, generator=generator)).logits
    ids = torch.randint(3, 40, (2, 6), generator=generator)
    ids[:, -1] = 1
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def disturb(model, names):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("family", "method"), list(COUNTS))
def test_inserted_it_changes_nothing_and_merged_all_that_it_did(tiny_model, tmp_path, family, method):
    """Also saved and loaded as a plain model, and opened by peft on the weights below."""
    import peft

    settings, model = METHODS[method], built(tiny_model, family)
    if family == "resnet":
        settings = Adaptation("lora", r=2, alpha=4, target_modules=["convolution"])
    names = [name for name, _ in model.named_parameters()]
    before = logits(model)
    adapted = adaptation.adapt(model, settings, [], seed=0)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)
    size = sum(p.numel() for name, p in model.named_parameters() if name in adapted.names)
    assert COUNTS[family, method] in (None, size)
    assert freezing.make(model, Freezing(), adapted).keys() == dict(model.named_parameters()).keys()

    head = {name for name in names if not parameters.in_backbone(model)(name)}
    disturb(model, adapted.names | head)
    expected = logits(model)
    assert not torch.allclose(expected, before, atol=1e-4)
    adapted.save(tmp_path / "adapter", "BASE")
    adapted.merge()
    assert [name for name, _ in model.named_parameters()] == names
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(type(model).from_pretrained(tmp_path / "model")), expected, rtol=1e-4, atol=1e-5)
    if method == "adapter":
        assert not (tmp_path / "adapter").exists()
    else:
        opened = peft.PeftModel.from_pretrained(built(tiny_model, family), tmp_path / "adapter").eval()
        torch.testing.assert_close(logits(opened), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", list(METHODS))
def test_of_an_encoder_and_a_decoder_both_are_adapted(method):
    """The attention between them is new: it trains as it is."""
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.EncoderDecoderConfig(
        encoder={"model_type": "bert", "vocab_size": 50, **shape},
        decoder={"model_type": "bert", "vocab_size": 50, "is_decoder": True, "add_cross_attention": True, **shape},
    )
    model = transformers.EncoderDecoderModel(config).eval()
    ids = torch.arange(3, 11).reshape(2, 4)
    adapted = adaptation.adapt(model, METHODS[method], [], seed=0)
    assert {name.partition(".")[0] for name in adapted.names} == {"encoder", "decoder"}
    assert not any("crossattention" in name for name in adapted.names)
    plan = freezing.make(model, Freezing(), adapted)
    assert plan["decoder.bert.encoder.layer.0.crossattention.self.query.weight"] == 0
    disturb(model, adapted.names)
    expected = model(input_ids=ids, decoder_input_ids=ids).logits
    adapted.merge()
    torch.testing.assert_close(model(input_ids=ids, decoder_input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    widths = {part.intermediate_size for part in (model.config.encoder, model.config.decoder)}
    assert widths == {34 if method == "adapter" else 32}


@pytest.mark.parametrize("method", list(METHODS))
def test_adapters_head_and_what_was_new_train_and_nothing_else(tiny_model, fit, method):
    model = tiny_model("bert")
    new = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    module = fit(model, Freezing(), adaptation=METHODS[method], new=new, optimizer=Optimizer(lr=0.1))
    after = {name.replace(".base_layer.", "."): tensor for name, tensor in model.named_parameters()}
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved == new | {"classifier.weight", "classifier.bias"}
    size = sum(tensor.numel() for name, tensor in before.items() if name in moved) + COUNTS["bert", method]
    assert freezing.counts(module.freezing.plan, model)["trainable"] == size


def test_a_policy_speaks_of_the_adapters(tiny_model):
    model = tiny_model("bert")
    adapted = adaptation.adapt(model, METHODS["lora"], [], seed=0)
    plan = freezing.make(model, Freezing("first_k", k=1), adapted)
    trains = {name for name, start in plan.items() if start is not None}
    assert trains == {n for n in adapted.names if ".layer.1." in n} | {"classifier.weight", "classifier.bias"}
    woken = freezing.make(model, Freezing("gradual"), adapted)
    assert {woken[n] for n in adapted.names if ".layer.0." in n} == {2}


def test_the_rate_and_the_decay_of_adapters(tiny_model):
    for method, decay in (("lora", 0.01), ("ia3", 0.0)):
        model = tiny_model("bert")
        settings = Adaptation(method, r=2, lr_multiplier=10.0)
        adapted = adaptation.adapt(model, settings, [], seed=0)
        groups = optim.parameter_groups(model, Optimizer(lr=1e-3), freezing.make(model, Freezing(), adapted), adapted)
        found = {group["name"].removesuffix("_no_decay"): (group["lr"], group["weight_decay"]) for group in groups}
        assert found["adapter_depth_1"] == (pytest.approx(1e-2), decay)
        assert found["head"][0] == 1e-3
        assert set(found) == {"head", "adapter_depth_1", "adapter_depth_2"}


def test_adapters_start_the_same_for_a_seed_and_leave_the_other_chances_alone(tiny_model):
    states = []
    for seed in (0, 0, 1):
        model = tiny_model("bert")
        state = torch.random.get_rng_state()
        adaptation.adapt(model, METHODS["lora"], [], seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        states.append(model.state_dict()["bert.encoder.layer.0.attention.self.query.lora_A.default.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class SaveAt(Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_resumed_it_ends_where_it_would_have_undisturbed(tiny_model, fit, tmp_path, method):
    settings = {"adaptation": Adaptation(method, r=2, dropout=0.1)}
    trained, resumed = tiny_model("bert"), tiny_model("bert")
    fit(trained, Freezing(), callbacks=[SaveAt(tmp_path / "mid.ckpt", 4)], **settings)
    fit(resumed, Freezing(), ckpt_path=tmp_path / "mid.ckpt", **settings)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in trained.state_dict().items())


@pytest.mark.parametrize(
    ("family", "settings", "key", "words"),
    [
        ("lstm", Adaptation("lora"), "adaptation.name", "it has no layer to adapt"),
        ("lstm", Adaptation("adapter"), "adaptation.name", "adapter with bert"),
        ("resnet", Adaptation("lora"), "adaptation.target_modules", "modules of its backbone: "),
        ("bert", Adaptation("lora", target_modules=["q_proj"]), "adaptation.target_modules", "attention.self.query"),
        ("bert", Adaptation("lora", target_modules=["classifier"]), "adaptation.target_modules", "output.dense"),
        ("bert", Adaptation("ia3", target_modules=["embeddings"]), "adaptation.target_modules", "intermediate.dense"),
    ],
)
def test_a_model_that_it_does_not_fit(tiny_model, family, settings, key, words):
    with pytest.raises(UserError) as caught:
        adaptation.adapt(tiny_model(family), settings, [], seed=0)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["adaptation.name=prompt"], ["adaptation.name"]),
        (["adaptation=lora", "adaptation.r=0", "adaptation.alpha=0"], ["adaptation.r", "adaptation.alpha"]),
        (["adaptation=lora", "adaptation.dropout=1"], ["adaptation.dropout"]),
        (["adaptation=lora", "+adaptation.options.lora_alpha=4"], ["adaptation.options.lora_alpha"]),
        (["adaptation=lora", "+adaptation.options.init_lora_weights=pissa"], ["adaptation.options.init_lora_weights"]),
        (["adaptation=adapter", "adaptation.target_modules=[a]"], ["adaptation.target_modules"]),
        (["adaptation=lora", "freezing=bitfit"], ["freezing.policy"]),
        (["adaptation=ia3", "freezing=head_only"], ["freezing.policy"]),
        (["adaptation=lora", "regularizer=l2_sp"], ["regularizer.name"]),
        (["regularizer=mixout", "regularizer.p=1"], ["regularizer.p"]),
        (["regularizer=l2_sp", "regularizer.alpha=-1"], ["regularizer.alpha"]),
        (["regularizer=delta", "freezing=head_only"], ["regularizer.name"]),
        (["averaging=swa", "averaging.start_fraction=1"], ["averaging.start_fraction"]),
        (["averaging.name=sma"], ["averaging.name"]),
        (["weights.reinit_top_k=-1"], ["weights.reinit_top_k"]),
    ],
)
def test_settings_that_do_not_go(overrides, keys):
    with pytest.raises(UserError) as caught:
        validation.validate(compose(["experiment=movies_to_products", *overrides]))
    assert [problem.key for problem in caught.value.problems] == keys


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation")
    source, target = reviews(folder / "source.csv", seed=1), reviews(folder / "target.csv", seed=2)
    named = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]
    budgets = ["source.budget.max_epochs=1", "target.budget.max_epochs=1", "experiment_name=x"]
    return [*TINY_BERT, *named, *budgets, f"output_dir={folder / 'outputs'}"], folder / "outputs", target


def test_a_run_keeps_the_adapter_and_a_plain_model(data, tmp_path):
    """Exported, predicted with and finetuned further as any other; its scratch twin has no adapter and says so."""
    arguments, outputs, target = data
    record = run(*arguments, "adaptation=lora")
    folder = Path(record["_folder"])
    assert record["parameters"] == {"total": 6178 + 2 * 2 * 2 * 8 * 16, "trainable": 34 + 2 * 2 * 2 * 8 * 16}
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    parent = next(outputs.glob("x/pretrain-*"))
    assert settings["base_model_name_or_path"] == str(parent / "model")

    whole, alone, answers = tmp_path / "whole", tmp_path / "alone", tmp_path / "answers.csv"
    made = cli("export", record["run_id"], whole, "--output-dir", outputs)
    assert made.code == 0
    assert "says what the run said of" in made.out
    made = cli("export", record["run_id"], alone, "--output-dir", outputs, "--adapter")
    assert made.code == 0, made.err
    assert "gives the weights of the run (41 tensors compared)" in made.out
    assert 'library_name: "peft"' in (alone / "README.md").read_text()
    assert "Method: lora" in (alone / "README.md").read_text()
    assert not (alone / "config.json").exists()
    assert cli("predict", folder, "--input", target, "--output", answers).code == 0
    assert answers.read_text().count("\n") == 61
    further = run(*arguments, f"init={record['run_id']}", "adaptation=ia3")
    assert further["parents"][0]["run_id"] == record["run_id"]
    assert further["weights"]["fraction_loaded"] == 1


def test_a_parallel_adapter_is_part_of_the_model_that_is_left(data, tmp_path):
    """A run that starts from it has layers of the same width; there is no adapter to export, and it says why."""
    arguments, outputs, _ = data
    wide = run(*arguments, "adaptation=adapter")
    made = cli("export", wide["run_id"], tmp_path / "alone", "--output-dir", outputs, "--adapter")
    assert made.code == 2
    assert "a parallel adapter is part of the layer beside it" in made.err
    assert not (tmp_path / "alone").exists()
    further = run(*arguments, f"init={wide['run_id']}", "adaptation=adapter", "adaptation.r=2")
    assert (further["weights"]["fraction_loaded"], further["weights"]["dropped"]) == (1, [])
    config = json.loads((Path(further["_folder"]) / "model" / "config.json").read_text())
    assert (config["intermediate_size"], config["adapter_units"]) == (16 + 16 + 2, 18)
