"""What a step of a meta run computes on real models, and which rows it sees."""

import copy

import pytest
import torch

from tests.fewshot.test_runs import META, intents, waves
from tests.running import QUICK, TINY_BERT
from transfer import hardware, plan
from transfer.compose import compose
from transfer.fewshot import stage
from transfer.fewshot.maml import over_episodes

TINY_GPT2 = ["model.name=null", "model.config={model_type: gpt2, n_embd: 16, n_layer: 2, n_head: 2}", "model.lr=1e-3"]
WAVES = ["source.data.columns={text: null, features: [x], label: y, group: domain}", "task@source.task=regression"]


@pytest.fixture
def prepared(tmp_path):
    """(algorithm, overrides) -> all that a run of the kind begins with: waves through a perceptron, or intents."""

    def make(algorithm, *overrides, of="waves"):
        data = [*WAVES, "model=mlp", f"source.data.path={waves(tmp_path / 'waves.csv')}"]
        if of == "intents":
            own = [] if any("model_type" in word for word in overrides) else TINY_BERT
            data = [*own, f"source.data.path={intents(tmp_path / 'intents.csv')}"]
        words = [*QUICK, *META, "data@source.data=csv", *data, f"source.meta.algorithm={algorithm}", *overrides]
        return stage.prepare(plan.make(compose([*words, f"output_dir={tmp_path / 'out'}"])), None)

    return make


def batch_of(run, num=4):
    batch = run.data.batch([run.data.episode("train", number) for number in range(num)])
    return {name: batch[name] for name in ("inputs", "labels")}


def gradients(run, *, batched):
    run.module.batched = batched
    run.module.zero_grad()
    objective, shown = run.module.over(run.module.objective)(batch_of(run))
    objective.mean().backward()
    found = {name: each.grad.clone() for name, each in run.module.model.named_parameters() if each.grad is not None}
    return shown.detach(), found


@pytest.mark.parametrize(
    ("algorithm", "of"),
    [
        *((name, of) for name in ("maml", "fomaml", "anil", "reptile") for of in ("waves", "intents")),
        ("prototypes", "intents"),
        ("matching", "intents"),
    ],
)
def test_vmap_and_the_loop_agree_on_a_model(prepared, algorithm, of):
    """Of texts too: each episode's padding is its own in the loop, and that of the longest through vmap."""
    run = prepared(algorithm, of=of)
    (first, ours), (second, theirs) = (gradients(run, batched=batched) for batched in (True, False))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)
    assert sum(gradient.abs().sum() for gradient in ours.values()) > 0


@pytest.mark.parametrize(("model", "together"), [([], True), (TINY_GPT2, False)], ids=["bert", "gpt2"])
def test_episodes_go_together_on_a_gpu_where_the_answers_are_the_same(prepared, monkeypatch, model, together):
    """A model that looks back alone would see what comes after through the masks that vmap takes."""
    monkeypatch.setattr(hardware, "on_gpu", lambda accelerator: True)
    run = prepared("fomaml", *model, of="intents")
    stage.choose_mapping(run.module, run.data)
    assert run.module.batched is together


def test_second_order_is_more_than_first_order(prepared):
    whole, first = (gradients(prepared(name), batched=True)[1] for name in ("maml", "fomaml"))
    assert any(not torch.allclose(whole[name], first[name], rtol=0.01) for name in whole)


def test_of_a_transformer_maml_has_second_derivatives(prepared):
    """Through attention; its fused kernel has none, so another one was chosen."""
    run = prepared("maml", of="intents")
    assert run.module.model.config._attn_implementation == "eager"
    _, ours = gradients(run, batched=False)
    _, theirs = gradients(prepared("fomaml", of="intents"), batched=False)
    query = next(name for name in ours if "query.weight" in name)
    assert not torch.allclose(ours[query], theirs[query], rtol=0.01)


def test_anil_adapts_the_head_alone(prepared):
    run = prepared("anil", of="intents")
    assert run.module.adapting == ["classifier.weight", "classifier.bias"]
    assert len(prepared("maml", of="intents").module.adapting) > 10


def test_the_curve_is_what_plain_descent_comes_to(prepared):
    """Steps of torch's SGD on a copy of the model: the same errors on the queries after 0 and 2 of them."""
    run = prepared("maml")
    episode = {
        name: part[0] if name == "labels" else {n: t[0] for n, t in part.items()}
        for name, part in batch_of(run, 1).items()
    }
    scores, _ = run.module.curve(episode, run.module.start(), run.module.rates(), [0, 2])
    model, cut = copy.deepcopy(run.module.model), run.data.num_support
    x, y = episode["inputs"]["features"], episode["labels"]
    descent, found = torch.optim.SGD(model.parameters(), lr=0.1), []
    for step in range(3):
        found.append(((model(features=x[cut:]).logits[:, 0] - y[cut:]) ** 2).mean().item())
        if step < 2:
            descent.zero_grad()
            ((model(features=x[:cut]).logits[:, 0] - y[:cut]) ** 2).mean().backward()
            descent.step()
    assert scores.tolist() == pytest.approx([found[0], found[2]], rel=1e-5)


def test_dropout_rests_in_training(prepared):
    run = prepared("maml", of="intents")
    run.module.train()
    assert not any(module.training for module in run.module.modules())


def test_the_rows_of_a_batch_are_those_of_their_class(prepared):
    """One word of each text tells its class: it is in all of the class's rows and in no others of the episode."""
    run = prepared("maml", of="intents")
    batch, episode = batch_of(run, 1), run.data.episode("train", 0)
    texts = [run.tokenizer.decode(row).split() for row in batch["inputs"]["input_ids"][0]]
    assert len(texts) == 3 * (2 + 4)
    for words, number in zip(texts, batch["labels"][0].tolist(), strict=True):
        assert f"key{episode.units[number].removeprefix('intent ')}" in words
    assert batch["labels"][0].tolist() == [0, 0, 1, 1, 2, 2, *[0] * 4, *[1] * 4, *[2] * 4]


def test_the_rows_of_a_regression_are_of_one_domain(prepared):
    """Lines through 0: the slope of every row is that of its domain."""
    run = prepared("maml")
    batch = batch_of(run)
    slopes = batch["labels"] / batch["inputs"]["features"][..., 0]
    for each in slopes:
        torch.testing.assert_close(each, each[:1].expand_as(each))
    assert slopes[:, 0].unique().numel() > 1


def test_no_row_of_a_test_class_scales_the_features(prepared):
    run = prepared("maml")
    seen = {n for unit in run.data.pool.units["train"] for n in run.data.pool.rows_of[unit].tolist()}
    features = torch.tensor([run.data.pool.rows[n]["features"] for n in sorted(seen)])
    torch.testing.assert_close(run.module.model.backbone.mean, features.mean(dim=0))


def test_a_loop_over_episodes_takes_trees_apart_and_together():
    tree = {"a": torch.arange(6.0).reshape(3, 2), "b": {"c": torch.arange(3.0)}}
    for batched in (True, False):
        total, twice = over_episodes(lambda e: (e["a"].sum() + e["b"]["c"], 2 * e["a"]), batched=batched)(tree)
        assert total.tolist() == [1.0, 6.0, 11.0]
        assert torch.equal(twice, 2 * tree["a"])
