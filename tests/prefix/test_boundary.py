"""Where the frozen part of a model ends, and that the model goes on from there as if it had been computed again."""

import math

import numpy as np
import pytest
import torch

from tests.tasks import contract
from tests.tasks.contract_table import FITTING
from transfer import freezing, parameters
from transfer.config import Freezing
from transfer.errors import UserError
from transfer.prefix import boundary as boundaries
from transfer.prefix import store
from transfer.prefix.boundary import FIRST, HIDDEN, ROWS, TOKENS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return contract.write(tmp_path_factory.mktemp("prefix"))


@pytest.mark.parametrize("policy", [Freezing("head_only"), Freezing("first_k", k=1)], ids=lambda p: p.policy)
@pytest.mark.parametrize("pair", FITTING, ids=lambda pair: "-".join(pair).replace(" ", "_"))
def test_every_task_and_model_goes_on_from_its_boundary(folder, pair, policy, tmp_path):
    """What is kept of all rows, read back for some, leads to the model's own outputs for them."""
    built = contract.build(folder, *pair)
    model = built.copy().eval()
    try:
        found = boundaries.find(model, freezing.make(model, policy), math.inf)
    except UserError:
        return  # this policy is refused for this model
    if found is None:
        assert parameters.has_two_stacks(model) or model.base_model is model
        return
    batch = built.batch()
    inputs, mask = batch["inputs"], batch["inputs"].get("attention_mask")
    try:
        kept = boundaries.look(model, found, inputs)
    except boundaries.UnsupportedError:
        # A row is several texts; these layers return more than hidden states.
        assert pair[0] == "choice" or (pair[1] in ("lstm", "gru", "t5") and found.depth is not None)
        return
    with torch.no_grad():
        values = boundaries.values(kept, boundaries.compute(model, [found], inputs)[found])
        lengths = np.asarray(built.encoded["length"])
        fields = {
            name: store.Field(
                kept.kinds[name], str(value.dtype)[6:], tuple(value.shape[1 + (kept.kinds[name] != ROWS) :])
            )
            for name, value in values.items()
        }
        writer = store.Writer(tmp_path / "rows", fields, lengths)
        writer.write(batch["index"], values, mask)
        writer.finish()
        some = built.batch([4, 1, 2])
        given = store.Reader(tmp_path / "rows", lengths).rows(some["index"], some["inputs"].get("attention_mask"))
        expected = model(**some["inputs"])
        with boundaries.resumed(model, kept, given, some["inputs"]):
            resumed = model(**some["inputs"])
    real = some["inputs"].get("attention_mask")
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            by_token = real is not None and value.dim() > 1 and value.shape[:2] == real.shape
            at = real.bool() if by_token else slice(None)
            torch.testing.assert_close(resumed[name][at], value[at], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "policy", "epoch", "module", "depth"),
    [
        ("bert", Freezing("head_only"), 0, "bert", None),
        ("bert", Freezing("first_k", k=1), 5, "bert.encoder.layer.0", 1),
        ("bert", Freezing("gradual"), 0, "bert", None),
        ("bert", Freezing("gradual"), 1, "bert.encoder.layer.0", 1),
        ("bert", Freezing("gradual"), math.inf, None, None),
        ("bert", Freezing("none"), 0, None, None),
        ("bert", Freezing("bitfit"), 0, None, None),
        ("gpt2", Freezing("first_k", k=2), 0, "transformer", None),
        ("resnet", Freezing("first_k", k=1), 0, "resnet.encoder.stages.0", 1),
        ("mean", Freezing("head_only"), 0, "backbone", None),
        ("t5", Freezing("head_only"), 0, None, None),
    ],
)
def test_the_highest_one_below_which_nothing_trains(tiny_model, family, policy, epoch, module, depth):
    model = tiny_model(family)
    found = boundaries.find(model, freezing.make(model, policy), epoch)
    assert (found and (found.module, found.depth)) == (module and (module, depth))


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("bert", {"pooler_output": ROWS}),
        ("roberta", {"last_hidden_state": FIRST}),
        ("gpt2", {"last_hidden_state": TOKENS}),
    ],
)
def test_of_a_backbone_only_what_the_head_reads(tiny_model, family, kinds):
    model = tiny_model(family).eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    found = boundaries.find(model, freezing.make(model, Freezing("head_only")), 0)
    assert boundaries.look(model, found, inputs).kinds == kinds


def test_what_is_computed_ends_at_the_highest_boundary(tiny_model):
    model = tiny_model("bert").eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    low = boundaries.find(model, freezing.make(model, Freezing("first_k", k=1)), 0)
    above = []
    model.bert.encoder.layer[1].register_forward_hook(lambda *_: above.append(1))
    found = boundaries.compute(model, [low], inputs)
    assert not above
    assert found[low].shape == (1, 3, model.config.hidden_size)


@pytest.mark.parametrize("depth", [None, 1])
def test_the_name_of_a_boundary_depends_on_what_is_below_it(tiny_model, depth):
    model = tiny_model("bert")
    whole, layer = boundaries.Boundary("bert", None), boundaries.Boundary("bert.encoder.layer.0", 1)
    boundary = whole if depth is None else layer
    names = {name for name, _ in boundaries.tensors(model, boundary)}
    assert "bert.embeddings.word_embeddings.weight" in names
    assert "bert.encoder.layer.0.output.dense.weight" in names
    assert ("bert.encoder.layer.1.output.dense.weight" in names) == (depth is None)
    assert not any(name.startswith("classifier") for name in names)
    before = store.identity(boundaries.tensors(model, boundary), {})
    assert store.identity(boundaries.tensors(model, boundary), {}) == before
    assert store.identity(boundaries.tensors(model, boundary), {"precision": "bf16"}) != before
    with torch.no_grad():
        model.classifier.weight += 1
    assert store.identity(boundaries.tensors(model, boundary), {}) == before
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[3] += 1
    assert store.identity(boundaries.tensors(model, boundary), {}) != before


def test_bfloat16_comes_back_as_it_was(tmp_path):
    lengths = np.array([2, 3])
    values = {HIDDEN: torch.randn(2, 3, 4).bfloat16()}
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])  # padded on the left
    writer = store.Writer(tmp_path / "rows", {HIDDEN: store.Field(TOKENS, "bfloat16", (4,))}, lengths)
    writer.write(torch.tensor([0, 1]), values, mask)
    writer.finish()
    found = store.Reader(tmp_path / "rows", lengths).rows(torch.tensor([1, 0]), mask.flip(0))[HIDDEN]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, values[HIDDEN].flip(0) * mask.flip(0)[..., None], rtol=0, atol=0)
