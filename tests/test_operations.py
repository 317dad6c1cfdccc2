"""Operations counted on one row are those of whole steps, as torch counts them in the steps themselves."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from transfer import freezing, operations
from transfer.config import Freezing


def batch_of(family, rows=3, length=12, written=5):
    if family == "resnet":
        return {"pixel_values": torch.rand(rows, 1, 28, 28)}
    ids = torch.randint(3, 40, (rows, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"labels": torch.randint(3, 40, (rows, written))} if family == "t5" else {})


def flops(model, inputs):
    """As torch counts them forward and backward."""
    with FlopCounterMode(display=False) as counter:
        outputs = model(**inputs)
        loss = outputs.loss if "labels" in inputs else outputs.logits.sum()
        if loss.requires_grad:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "policy",
    [Freezing(), Freezing("head_only"), Freezing("first_k", k=1), Freezing("bitfit"), Freezing("all")],
    ids=lambda policy: policy.policy,
)
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "distilbert", "resnet"])
def test_of_a_step(tiny_model, family, policy):
    # In attention of its own torch counts what is computed a second time.
    settings = {} if family == "resnet" else {"attn_implementation": "eager"}
    model = tiny_model(family, **settings)
    plan = freezing.make(model, policy) if policy.policy != "bitfit" or family != "resnet" else {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(plan.get(name) is not None)
    rates = operations.count(model, {name: value[:1] for name, value in batch_of(family).items()})
    inputs = batch_of(family)
    expected = flops(model, inputs)
    found = rates.sum(axis=0) @ operations.amounts(inputs)
    assert found == pytest.approx(expected, rel=1e-9)
    assert (rates[1].sum() == 0) == (policy.policy == "all" or not plan)


def test_of_a_decoder(tiny_model):
    model = tiny_model("t5", auto="AutoModelForSeq2SeqLM", decoder_start_token_id=0)
    rates = operations.count(model, {name: value[:1] for name, value in batch_of("t5").items()})
    for length, written in ((12, 5), (20, 9)):
        inputs = batch_of("t5", length=length, written=written)
        found = rates.sum(axis=0) @ operations.amounts(inputs)
        assert found == pytest.approx(flops(model, inputs), rel=1e-9)


def test_the_attention_of_the_library_counts_as_written_out(tiny_model):
    inputs = batch_of("bert")
    counted = []
    for kind in ("eager", "sdpa"):
        model = tiny_model("bert", attn_implementation=kind)
        counted.append(operations.count(model, {name: value[:1] for name, value in inputs.items()}))
    assert counted[0] == pytest.approx(counted[1])
    assert counted[0][:, operations.UNITS.index("read x read")].sum() > 0


def test_a_step_of_everything_is_six_times_the_matrices(tiny_model):
    """6N a token, of the layers, and 12 a token for each layer, unit of width and token of the text."""
    model = tiny_model("gpt2")
    rates = operations.count(model, {name: value[:1] for name, value in batch_of("gpt2").items()}).sum(axis=0)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n)
    by_unit = dict(zip(operations.UNITS, rates, strict=True))
    classifier = 6 * model.score.weight.numel()
    assert by_unit["read"] == 6 * matrices + classifier
    assert by_unit["read x read"] == 12 * model.config.n_layer * model.config.n_embd


def test_an_lstm(tiny_model):
    model = tiny_model("lstm")
    rates = operations.count(model, {name: value[:1] for name, value in batch_of("lstm").items()}).sum(axis=0)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n)
    assert dict(zip(operations.UNITS, rates, strict=True))["read"] == 6 * matrices


def test_counting_leaves_no_trace(tiny_model):
    model = tiny_model("resnet").train()
    model.resnet.embedder.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    operations.count(model, {"pixel_values": torch.rand(1, 1, 28, 28)} | {})
    torch.set_rng_state(state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_that_wake_later(fit, tiny_model, text_data):
    """Each epoch counts what trains in it; both epochs of two steps come to what torch counts."""
    model, data = tiny_model("bert", attn_implementation="eager"), text_data(num_rows=16, batch_size=8)
    policy = Freezing("gradual", epochs_per_layer=1)
    frozen = freezing.FreezingCallback(model, freezing.make(model, policy))
    counted = operations.Operations(model, frozen, data)
    assert [start for start, _ in counted.rates] == [0.0, 1.0, 2.0, 3.0]
    inputs = batch_of("bert")
    expected = []
    for epoch in (0, 1, 2, 3):
        frozen.apply(epoch)
        expected.append(flops(model, inputs))
    assert [counted.of_a_step(inputs, epoch) for epoch in (0, 1.5, 2, 9)] == pytest.approx(expected)
    assert expected == sorted(expected)
    frozen.apply(0)
    fit(model, policy, callbacks=[counted], data=data)
    steps = [counted.of_a_step(batch["inputs"], 0) for batch in data.train_dataloader()]
    assert counted.total > sum(steps) * 2
    assert 0 < counted.seconds < 60
    assert counted.state_dict() == {"total": counted.here}


def test_it_knows_the_models_of_transformers():
    """A head on the words: its matrix is that of the embeddings, which are looked up for nothing."""
    config = transformers.BertConfig(
        vocab_size=53, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertForMaskedLM(config)
    ids = torch.randint(3, 40, (1, 14))
    rates = operations.count(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).sum(axis=0)
    matrices = 4 * 16 * 16 + 2 * 16 * 32 + 16 * 16 + 16 * 53
    assert dict(zip(operations.UNITS, rates, strict=True))["read"] == 6 * matrices
