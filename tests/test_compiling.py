"""When a model is compiled, what stands against it, and that float32 is float32."""

import pytest
import torch

from tests.running import TINY_BERT, reviews, run
from tests.test_validation import changed, problems
from transfer import compiling, hardware
from transfer.errors import UserError


def test_only_long_runs_are_worth_it():
    assert not compiling.pays(60)
    assert not compiling.pays(600)
    assert compiling.pays(3600)


@pytest.mark.parametrize(
    ("key", "value"), [("trainer.compile", "sometimes"), ("trainer.strategy", "fsdp")], ids=["word", "sharded"]
)
def test_what_does_not_go_together(key, value):
    sharded = {"trainer.devices": 2, "trainer.halve_on_out_of_memory": False} if value == "fsdp" else {}
    found = problems(changed(**{"trainer.compile": "always", **sharded, key: value}))
    assert found.keys() == {"trainer.compile"}


def test_without_a_compiler(tmp_path, monkeypatch):
    line = [
        *TINY_BERT,
        f"target.data.path={reviews(tmp_path / 'a.csv')}",
        "arm=scratch",
        f"output_dir={tmp_path / 'out'}",
    ]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        run(*line, "trainer.compile=always")
    assert not (tmp_path / "out").exists()


def test_names_and_weights_stay_as_they_are(tiny_model):
    model = tiny_model("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = {"input_ids": torch.randint(3, 40, (2, 9))}
    expected = model.eval()(**inputs).logits
    model.compile(dynamic=True, backend="eager")
    assert torch.allclose(model(**inputs).logits, expected, atol=1e-6)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = True
    hardware.exact_float32()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_the_channels_come_last_and_nothing_else_changes(tiny_model, tmp_path):
    model, plain = tiny_model("resnet"), tiny_model("resnet")
    hardware.channels_last(model)
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert len(kernels) > 2
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    images = torch.rand(4, 1, 28, 28)
    for each in (model.train(), plain.train()):
        each(pixel_values=images).logits.square().sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), plain.parameters(), strict=True))
    text = tiny_model("bert")
    hardware.channels_last(text)
    assert all(p.is_contiguous() for p in text.parameters())
