import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from transfer import parameters, weights
from transfer.config import Weights
from transfer.errors import UserError

FAMILIES = ["bert", "roberta", "gpt2", "distilbert", "lstm", "linear"]


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_account(report, before, model, source):
    """What the report says of each tensor of the target is what happened to it."""
    after = model.state_dict()
    assert sorted(report.loaded + report.reinitialised) == sorted(after)
    for name in report.reinitialised:
        assert torch.equal(after[name], before[name]), f"{name} is said to be new and has changed"
    prefix = parameters.backbone_prefix(model)
    for name in report.loaded:
        names = (name, name.removeprefix(prefix), f"{model.base_model_prefix}.{name}")
        origin = next(source[n] for n in names if n in source)
        assert torch.equal(after[name], origin), f"{name} is said to be loaded and is not"
    assert set(report.dropped) <= set(source)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_architecture_and_labels_loads_everything(tiny_model, family):
    source = {name: torch.randn_like(tensor) for name, tensor in tiny_model(family, seed=1).state_dict().items()}
    model = tiny_model(family)
    report = weights.transfer(source, model, Weights(), with_head=True)
    assert report.loaded == list(model.state_dict())
    assert (report.reinitialised, report.dropped, report.fraction_loaded) == ([], [], 1.0)
    assert all(torch.equal(tensor, source[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("num_labels", [3, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_labels_give_a_new_head(tiny_model, family, num_labels):
    """Also where the two heads have the same shape: its rows would mean something else."""
    source, model = tiny_model(family, seed=1).state_dict(), tiny_model(family, num_labels)
    before, prefix = values(model), parameters.backbone_prefix(model)
    head = [name for name in before if not name.startswith(prefix)]
    report = weights.transfer(source, model, Weights(), with_head=False)
    assert report.reinitialised == head
    assert sorted(report.dropped) == sorted(head)
    assert report.loaded == [name for name in before if name.startswith(prefix)]
    assert report.fraction_loaded == 1.0
    assert_account(report, before, model, source)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_backbone_goes_into_a_whole_model(tiny_model, family):
    source, model = tiny_model(family, auto="AutoModel", seed=1).state_dict(), tiny_model(family)
    before, prefix = values(model), parameters.backbone_prefix(model)
    report = weights.transfer(source, model, Weights(), with_head=False)
    backbone = [name for name in before if name.startswith(prefix)]
    assert report.loaded == backbone
    assert report.reinitialised == [name for name in before if name not in backbone]
    # a pooler that the classifier of this family does not have
    assert report.dropped == [name for name in source if prefix + name not in before]
    assert_account(report, before, model, source)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_goes_into_a_bare_backbone(tiny_model, family):
    whole = tiny_model(family, seed=1)
    source, model = whole.state_dict(), tiny_model(family, auto="AutoModel")
    before, prefix = values(model), parameters.backbone_prefix(whole)
    report = weights.transfer(source, model, Weights(), with_head=False)
    assert report.loaded == [name for name in before if prefix + name in source]
    assert report.dropped == [name for name in source if not name.startswith(prefix)]
    assert_account(report, before, model, source)


def test_a_backbone_saved_without_prefix_beside_a_head_is_found(tiny_model):
    model = tiny_model("bert")
    source = {name.removeprefix("bert."): tensor for name, tensor in tiny_model("bert", seed=1).state_dict().items()}
    report = weights.transfer(source, model, Weights(), with_head=True)
    assert report.fraction_loaded == 1.0
    assert not report.dropped
    assert not report.reinitialised


def test_rename_include_exclude(tiny_model):
    source = {f"module.{name}": tensor for name, tensor in tiny_model("bert", seed=1).state_dict().items()}
    model = tiny_model("bert")
    before = values(model)
    rules = Weights(
        include=[r"bert\..*", "classifier.bias"],
        exclude=[r".*\.pooler\..*", "bert.encoder.layer.1"],  # the second matches no whole name, so it excludes nothing
        rename={r"^module\.": "", "nothing": "like it"},
    )
    report = weights.transfer(source, model, rules, with_head=True)
    new = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight"]
    assert report.reinitialised == new
    assert report.dropped == [f"module.{name}" for name in new]
    assert "classifier.bias" in report.loaded
    size = sum(tensor.numel() for name, tensor in before.items() if name.startswith("bert."))
    assert report.fraction_loaded == pytest.approx(1 - (16 * 16 + 16) / size)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in new)


def test_renames_apply_in_order(tiny_model):
    """A layer-dropping initialisation: layer 1 of the source becomes layer 0 of a smaller model."""
    source, model = tiny_model("bert", seed=1).state_dict(), tiny_model("bert", num_hidden_layers=1)
    rules = Weights(rename={r"layer\.0\.": "layer.gone.", r"layer\.(1)\.": r"layer.0."})
    report = weights.transfer(source, model, rules, with_head=True)
    assert not report.reinitialised
    assert report.dropped
    assert all("layer.0." in name for name in report.dropped)
    goal = model.state_dict()["bert.encoder.layer.0.output.dense.weight"]
    assert torch.equal(goal, source["bert.encoder.layer.1.output.dense.weight"])


def test_two_sources_for_one_tensor(tiny_model):
    """The first is taken, the second said to be left behind."""
    source, model = dict(tiny_model("linear", seed=1).state_dict()), tiny_model("linear")
    source["classifier.bias"] = torch.tensor([1.0, 2.0, 3.0])
    source["old.bias"] = torch.tensor([7.0, 8.0, 9.0])
    report = weights.transfer(source, model, Weights(rename={"old": "classifier"}), with_head=True)
    assert report.dropped == ["old.bias"]
    assert model.classifier.bias.tolist() == [1, 2, 3]


def test_a_tensor_of_another_shape_stays_new(tiny_model):
    source, model = tiny_model("bert", seed=1, vocab_size=45).state_dict(), tiny_model("bert")
    before = values(model)
    report = weights.transfer(source, model, Weights(), with_head=True)
    assert report.reinitialised == report.dropped == ["bert.embeddings.word_embeddings.weight"]
    assert_account(report, before, model, source)
    assert 0.5 < report.fraction_loaded < 1


def test_half_precision_becomes_float32_and_the_source_is_left_alone(tiny_model):
    source = {name: tensor.half() for name, tensor in tiny_model("bert", seed=1).state_dict().items()}
    model = tiny_model("bert")
    weights.transfer(source, model, Weights(), with_head=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    name = "bert.pooler.dense.weight"
    assert torch.equal(model.state_dict()[name], source[name].float())
    model.state_dict()[name].zero_()
    assert source[name].any()


def test_tied_embeddings_count_as_loaded_and_stay_tied(tiny_model):
    """safetensors keeps one of two tied tensors."""
    source = tiny_model("bert", auto="AutoModelForMaskedLM", seed=1).state_dict()
    source = {name: tensor for name, tensor in source.items() if not name.startswith("cls.predictions.decoder")}
    model = tiny_model("bert", auto="AutoModelForMaskedLM")
    report = weights.transfer(source, model, Weights(), with_head=True)
    assert not report.reinitialised
    assert not report.dropped
    assert {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} <= set(report.loaded)
    embeddings = model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.weight is embeddings
    assert torch.equal(embeddings, source["bert.embeddings.word_embeddings.weight"])


def test_a_language_models_backbone_goes_into_a_classifier(tiny_model):
    source, model = tiny_model("bert", auto="AutoModelForMaskedLM", seed=1).state_dict(), tiny_model("bert")
    report = weights.transfer(source, model, Weights(), with_head=False)
    assert report.reinitialised == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ]
    assert report.dropped == [name for name in source if name.startswith("cls.")]


def test_nothing_in_common_names_both_sides(tiny_model):
    source, model = tiny_model("lstm", seed=1).state_dict(), tiny_model("bert")
    source = {name: tensor for name, tensor in source.items() if name.startswith("backbone.")}
    before = values(model)
    with pytest.raises(UserError) as caught:
        weights.transfer(source, model, Weights(), with_head=False, key="model.name")
    problem = caught.value.problems[0]
    assert problem.key == "model.name"
    assert "share no tensor" in str(problem.received)
    assert "- bert.embeddings.word_embeddings.weight" in problem.action
    assert "+ backbone.embeddings.weight" in problem.action
    assert re.search(r"and \d+ more", problem.action)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("least", "enough"), [(0.3, True), (0.31, False), (0.0, True), (1.0, False)])
def test_the_least_fraction_is_of_the_backbones_elements(tiny_model, least, enough):
    """The embeddings are one tensor of seventeen, and hold 400 of 1,296 elements."""
    source, model = tiny_model("lstm", seed=1).state_dict(), tiny_model("lstm")
    before = values(model)
    rules = Weights(include=[r"backbone\.embeddings\..*"], min_fraction_loaded=least)
    fraction = 50 * 8 / 1296
    if enough:
        report = weights.transfer(source, model, rules, with_head=False)
        assert report.fraction_loaded == pytest.approx(fraction)
        return
    with pytest.raises(UserError, match=f"{fraction:.1%}") as caught:
        weights.transfer(source, model, rules, with_head=False)
    assert f"at least {least:.0%} (weights.min_fraction_loaded)" in caught.value.problems[0].allowed
    assert "- backbone.layers.0.weight_ih_l0" in caught.value.problems[0].action
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "it failed half-way"


@pytest.mark.parametrize(("family", "k"), [("bert", 1), ("bert", 2), ("gpt2", 1), ("lstm", 1), ("resnet", 1)])
def test_the_top_layers_and_what_stands_above_them_stay_random(tiny_model, family, k):
    model, before = tiny_model(family), values(tiny_model(family))
    source = {n: t + 1 for n, t in values(tiny_model(family)).items()}
    top = {"bert": ".layer.", "gpt2": ".h.", "lstm": ".layers.", "resnet": ".stages."}[family]
    above = {"bert": "bert.pooler.", "gpt2": "transformer.ln_f."}.get(family, "no other")
    report = weights.transfer(source, model, Weights(reinit_top_k=k), with_head=True)
    wanted = {n for n in before if any(f"{top}{i}." in n for i in range(2 - k, 2)) or n.startswith(above)}
    assert set(report.reinitialised) == set(report.dropped) == wanted
    assert_account(report, before, model, source)
    assert 0 < report.fraction_loaded < 1


def test_there_are_so_many_layers(tiny_model):
    source = values(tiny_model("bert", seed=1))
    with pytest.raises(UserError, match="0 to 2: this model has 2 layers"):
        weights.transfer(source, tiny_model("bert"), Weights(reinit_top_k=3), with_head=True)


def test_shapes_stand_in_the_message(tiny_model):
    source, model = tiny_model("bert", seed=1, hidden_size=8).state_dict(), tiny_model("bert")
    with pytest.raises(
        UserError, match=re.escape("- bert.embeddings.word_embeddings.weight (shape [50, 8] -> [50, 16])")
    ):
        weights.transfer(source, model, Weights(), with_head=True)


def test_summary_names_what_is_new_and_what_is_left(tiny_model):
    report = weights.transfer(
        tiny_model("bert", seed=1).state_dict(), tiny_model("bert", 5), Weights(), with_head=False
    )
    assert report.summary() == (
        f"{len(report.loaded)} tensors loaded (100% of the backbone), new: classifier.weight, classifier.bias, "
        "left behind: classifier.weight, classifier.bias"
    )
    assert report.to_dict()["fraction_loaded"] == 1.0


@pytest.fixture
def state(tiny_model):
    return {name: tensor.contiguous() for name, tensor in tiny_model("lstm", seed=1).state_dict().items()}


@pytest.mark.parametrize("kind", ["folder", "shards", "bin folder", "pth folder", "safetensors", "torch", "lightning"])
def test_read_state(tiny_model, state, tmp_path, kind):
    path = tmp_path / "weights"
    if kind == "folder":
        tiny_model("lstm", seed=1).save_pretrained(path)
    elif kind == "shards":
        tiny_model("lstm", seed=1).save_pretrained(path, max_shard_size="2KB")
        assert len(list(path.glob("*.safetensors"))) > 1
    elif kind.endswith("folder"):
        path.mkdir()
        torch.save(state, path / ("pytorch_model.bin" if kind == "bin folder" else "best.pth"))
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "lightning" else state, path)
    found = weights.read_state(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


def cut(path, size=None):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if size is None else size])


def bad_file(kind, state, folder):
    path = folder / ("w.safetensors" if "safetensors" in kind else "w.pt")
    if kind.endswith("safetensors"):
        save_file(state, path)
        cut(path, 0 if kind.startswith("empty") else None)
    elif kind.endswith("torch"):
        torch.save(state, path)
        cut(path, 0 if kind.startswith("empty") else None)
    elif kind == "list":
        torch.save(list(state.values()), path)
    elif kind == "numbers":
        torch.save({"epoch": 3, "loss": 0.1}, path)
    elif kind == "nothing":
        torch.save({}, path)
    elif kind == "code":
        path.write_bytes(pickle.dumps(re.compile("a")))
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "empty folder":
        path = folder / "model"
        path.mkdir()
        (path / "config.json").write_text("{}")
    elif kind == "broken folder":
        path = folder / "model"
        path.mkdir()
        save_file(state, path / "model.safetensors")
        cut(path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "cut safetensors",
        "empty safetensors",
        "cut torch",
        "empty torch",
        "list",
        "numbers",
        "nothing",
        "code",
        "text",
        "empty folder",
        "broken folder",
        "no such file",
    ],
)
def test_what_is_no_weights_is_said_with_its_key(state, tmp_path, kind):
    path = bad_file(kind, state, tmp_path)
    with pytest.raises(UserError) as caught:
        weights.read_state(path, key="weights from here")
    problem = caught.value.problems[0]
    assert problem.key == "weights from here"
    assert path.name in str(problem.received)
    assert problem.allowed
    assert problem.action


def test_a_pickle_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "w.bin"
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(UserError):
        weights.read_state(path)
    torch.save({"weight": Evil()}, path)
    with pytest.raises(UserError):
        weights.read_state(path)
    assert not (tmp_path / "ran").exists()
