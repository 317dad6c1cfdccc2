import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from transfer.errors import UserError
from transfer.models import register
from transfer.models.recurrent import (
    RecurrentConfig,
    RecurrentForSequenceClassification,
    RecurrentForTokenClassification,
    RecurrentModel,
)
from transfer.models.word_vectors import build_tokenizer

torch.set_num_threads(1)
VOCAB = 30
SHAPES = [
    pytest.param({"cell": "lstm"}, id="lstm"),
    pytest.param({"cell": "lstm", "num_hidden_layers": 2, "pooling": "last"}, id="two-layer-last"),
    pytest.param({"cell": "lstm", "bidirectional": False, "pooling": "last"}, id="one-way-last"),
    pytest.param({"cell": "gru", "pooling": "mean"}, id="gru-mean"),
    pytest.param({"cell": "mean"}, id="word-mean"),
]


def small(**settings) -> RecurrentConfig:
    sizes = {"embedding_size": 6} | ({} if settings.get("cell") == "mean" else {"hidden_size": 8})
    return RecurrentConfig(vocab_size=VOCAB, **(sizes | settings))


def batch(rows: list[list[int]], length: int, side: str = "right") -> dict[str, torch.Tensor]:
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[i, place], mask[i, place] = torch.tensor(row, dtype=torch.long), 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(settings, side):
    torch.manual_seed(0)
    model = RecurrentForSequenceClassification(small(**settings)).eval()
    rows = [[5, 6, 7, 8], [9], [3, 4]]
    together = batch(rows, length=9, side=side)
    with torch.no_grad():
        padded = model(**together, output_hidden_states=True)
        without_mask = model(together["input_ids"]).logits
        masked_words = together["input_ids"].masked_fill(together["attention_mask"] == 0, 17)
        hidden = model(masked_words, together["attention_mask"]).logits
        for i, row in enumerate(rows):
            alone = model(torch.tensor([row]), output_hidden_states=True)
            torch.testing.assert_close(padded.logits[i], alone.logits[0])
            words = together["attention_mask"][i].bool()
            for state, state_alone in zip(padded.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(state[i, words], state_alone[0])
                assert not state[i, ~words].any()
    torch.testing.assert_close(padded.logits, without_mask)
    torch.testing.assert_close(padded.logits, hidden)


@pytest.mark.parametrize("settings", SHAPES)
def test_order_of_words_matters_where_there_is_a_layer(settings):
    torch.manual_seed(0)
    model = RecurrentForSequenceClassification(small(**settings)).eval()
    there, back = model(torch.tensor([[5, 6, 7]])).logits, model(torch.tensor([[7, 6, 5]])).logits
    assert torch.allclose(there, back, atol=1e-6) == (settings["cell"] == "mean")


@pytest.mark.parametrize("settings", SHAPES)
def test_a_text_without_words_gets_finite_logits_and_gradients(settings):
    model = RecurrentForSequenceClassification(small(**settings))
    output = model(**batch([[], [4, 5]], length=3), labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_last_pooling_joins_the_two_ends_of_the_text():
    model = RecurrentModel(small(pooling="last")).eval()
    outputs = model(**batch([[5, 6, 7], [8]], length=5))
    final, first = outputs.last_hidden_state[0, 2, :4], outputs.last_hidden_state[0, 0, 4:]
    torch.testing.assert_close(outputs.pooler_output[0], torch.cat([final, first]))


@pytest.mark.parametrize("settings", SHAPES)
def test_saved_weights_come_back_bit_equal(settings, tmp_path):
    register()
    model = AutoModelForSequenceClassification.from_config(small(**settings, num_labels=3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_()  # nothing here could be mistaken for a fresh initialisation
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    fields = ("cell", "hidden_size", "num_hidden_layers", "bidirectional", "pooling", "dropout", "pad_token_id")
    assert [getattr(again.config, name) for name in fields] == [getattr(model.config, name) for name in fields]
    base = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(base.embeddings.weight, model.backbone.embeddings.weight)


def test_what_a_checkpoint_lacks_is_initialised(tmp_path):
    torch.manual_seed(0)
    base = RecurrentModel(small())
    base.save_pretrained(tmp_path)
    model = RecurrentForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(model.backbone.layers[0].weight_hh_l0, base.layers[0].weight_hh_l0)
    assert 0.005 < float(model.classifier.weight.detach().std()) < 0.05


def test_initialisation():
    torch.manual_seed(0)
    config = RecurrentConfig(vocab_size=500, embedding_size=50, hidden_size=32, num_hidden_layers=2)
    model = RecurrentForSequenceClassification(config)
    embeddings = model.get_input_embeddings()
    assert embeddings is model.backbone.embeddings
    assert model.base_model is model.backbone
    assert not embeddings.weight[0].any()
    assert float(embeddings.weight[1:].detach().std()) == pytest.approx(0.1, rel=0.05)
    for layer in model.backbone.layers:
        for gate in layer.weight_hh_l0_reverse.split(16):
            torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
        bias = (layer.bias_ih_l0 + layer.bias_hh_l0).view(4, 16)
        assert bias.sum(dim=1).tolist() == [0, 16, 0, 0]


def test_names_tell_the_depth():
    model = RecurrentForSequenceClassification(small(num_hidden_layers=2))
    tops = {".".join(name.split(".")[: 3 if ".layers." in name else 2]) for name, _ in model.named_parameters()}
    assert tops == {
        "backbone.embeddings",
        "backbone.layers.0",
        "backbone.layers.1",
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        pytest.param({"num_labels": 3}, torch.tensor([0, 2]), torch.nn.functional.cross_entropy, id="one-class"),
        pytest.param(
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
            torch.nn.functional.binary_cross_entropy_with_logits,
            id="several-labels",
        ),
        pytest.param(
            {"num_labels": 1, "problem_type": "regression"},
            torch.tensor([[0.5], [2.0]]),
            torch.nn.functional.mse_loss,
            id="number",
        ),
    ],
)
def test_loss_follows_the_problem_type(settings, labels, expected):
    model = RecurrentForSequenceClassification(small(**settings)).eval()
    output = model(**batch([[5, 6], [7]], length=3), labels=labels)
    torch.testing.assert_close(output.loss, expected(output.logits, labels))


@pytest.mark.parametrize("settings", SHAPES)
def test_learns_which_word_a_text_holds(settings):
    torch.manual_seed(0)
    model = RecurrentForSequenceClassification(small(**settings)).train()
    ids = torch.randint(5, VOCAB, (64, 6))
    ids[::2, 3], ids[1::2, 3] = 3, 4
    labels = torch.arange(64) % 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    assert (model.eval()(ids).logits.argmax(dim=1) == labels).float().mean() > 0.95
    assert not model.get_input_embeddings().weight[0].any()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"cell": "lsmt"}, ["cell"]),
        ({"pooling": "first", "dropout": 1.5}, ["pooling", "dropout"]),
        ({"hidden_size": 7}, ["hidden_size"]),
        ({"hidden_size": "wide"}, ["hidden_size"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers"]),
        ({"pad_token_id": 20000}, ["pad_token_id"]),
        ({"cell": "mean", "hidden_size": 64, "pooling": "last"}, ["hidden_size", "pooling"]),
    ],
)
def test_a_wrong_config_names_every_mistake(settings, names):
    with pytest.raises(UserError) as error:
        RecurrentConfig(**settings)
    assert [problem.key for problem in error.value.problems] == [f"model.config.{name}" for name in names]


def test_the_mean_cell_says_that_it_has_no_layer():
    register()
    defaults = AutoConfig.for_model("recurrent").to_dict()
    config = RecurrentConfig.from_dict({**defaults, "cell": "mean", "embedding_size": 12})
    assert (config.hidden_size, config.num_hidden_layers) == (12, 0)
    assert (config.bidirectional, config.pooling) == (False, "mean")


def test_pipeline_opens_a_saved_folder(tmp_path):
    register()
    register()
    tokenizer = build_tokenizer(["a good film", "a bad film"], max_size=50, min_count=1, lowercase=True, max_length=32)
    names = {0: "neg", 1: "pos"}
    config = RecurrentConfig(vocab_size=len(tokenizer), embedding_size=6, hidden_size=8, id2label=names)
    model = RecurrentForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    texts = ["A good film", "bad", ""]
    answers = pipeline("text-classification", model=str(tmp_path), device="cpu")(texts, batch_size=3)
    with torch.no_grad():
        best = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(dim=-1).max(dim=-1)
    assert [answer["label"] for answer in answers] == [names[i] for i in best.indices.tolist()]
    assert [answer["score"] for answer in answers] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "recurrent"


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_token_has_its_logits_whatever_the_padding(settings, side):
    torch.manual_seed(0)
    model = RecurrentForTokenClassification(small(num_labels=3, **settings)).eval()
    rows = [[5, 6, 7, 8], [9], [3, 4]]
    together = batch(rows, length=9, side=side)
    with torch.no_grad():
        padded = model(**together).logits
        assert padded.shape == (3, 9, 3)
        for i, row in enumerate(rows):
            alone = model(torch.tensor([row])).logits[0]
            torch.testing.assert_close(padded[i, together["attention_mask"][i].bool()], alone)


def test_a_tagger_has_the_backbone_of_a_classifier_and_is_read_back(tmp_path):
    register()
    classifier, tagger = (
        kind(small(num_labels=3)) for kind in (RecurrentForSequenceClassification, RecurrentForTokenClassification)
    )
    assert {name: value.shape for name, value in tagger.state_dict().items()} == {
        name: value.shape for name, value in classifier.state_dict().items()
    }
    assert tagger.base_model_prefix == classifier.base_model_prefix == "backbone"
    tagger.save_pretrained(tmp_path)
    again = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert type(again) is RecurrentForTokenClassification
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tagger.state_dict().items())
    labels = torch.tensor([[1, -100, 2]])
    outputs = again.eval()(torch.tensor([[5, 6, 7]]), labels=labels)
    expected = torch.nn.functional.cross_entropy(outputs.logits[0, [0, 2]], torch.tensor([1, 2]))
    torch.testing.assert_close(outputs.loss, expected)
