import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from transfer import parameters
from transfer.errors import UserError


@pytest.fixture
def model(tiny_model):
    return tiny_model("lstm", auto="AutoModelForCausalLM", bidirectional=False).eval()


def test_the_output_weights_are_the_embeddings(model, tmp_path):
    assert model.decoder.weight is model.backbone.embeddings.weight
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.decoder.weight is again.backbone.embeddings.weight
    ids = torch.arange(3, 11)[None]
    assert torch.equal(again.eval()(ids).logits, model(ids).logits)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    for name, tensor in loaded.backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), "a classifier takes the backbone"


def test_a_word_depends_on_those_before_it_alone(model):
    ids = torch.arange(3, 11)[None]
    other = ids.clone()
    other[0, 5:] = 40
    one, two = model(ids).logits, model(other).logits
    assert torch.equal(one[:, :5], two[:, :5])
    assert not torch.equal(one[:, 5], two[:, 5])
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    torch.testing.assert_close(model(padded).logits[:, 3:], one)


def test_the_loss_is_that_of_the_next_word(model):
    ids = torch.arange(3, 11)[None]
    outputs = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(outputs.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(outputs.loss, expected)


def test_the_head_is_what_is_above_the_layers(model):
    depths = parameters.depths(model)
    assert {name for name, depth in depths.items() if depth is None} == {
        "projection.weight",
        "projection.bias",
        "decoder.bias",
    }
    assert depths["backbone.embeddings.weight"] == 0


@pytest.mark.parametrize("settings", [{"bidirectional": True}, {"cell": "mean", "bidirectional": False}])
def test_what_sees_the_next_word_is_refused(tiny_model, settings):
    family = "mean" if "cell" in settings else "lstm"
    with pytest.raises(UserError, match="a language model reads"):
        tiny_model(family, auto="AutoModelForCausalLM", **settings)
