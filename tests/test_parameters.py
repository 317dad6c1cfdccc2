import pytest

from transfer import parameters

HEAD = None
# family -> (prefix of the backbone, what a name begins with -> depth); the first that fits counts
TABLES = {
    "bert": (
        "bert.",
        {
            "bert.embeddings.": 0,
            "bert.encoder.layer.0.": 1,
            "bert.encoder.layer.1.": 2,
            "bert.pooler.": 2,
            "classifier.": HEAD,
        },
    ),
    "roberta": (
        "roberta.",
        {"roberta.embeddings.": 0, "roberta.encoder.layer.0.": 1, "roberta.encoder.layer.1.": 2, "classifier.": HEAD},
    ),
    "gpt2": (
        "transformer.",
        {
            "transformer.wte.": 0,
            "transformer.wpe.": 0,
            "transformer.h.0.": 1,
            "transformer.h.1.": 2,
            "transformer.ln_f.": 2,
            "score.": HEAD,
        },
    ),
    "distilbert": (
        "distilbert.",
        {
            "distilbert.embeddings.": 0,
            "distilbert.transformer.layer.0.": 1,
            "distilbert.transformer.layer.1.": 2,
            "pre_classifier.": HEAD,
            "classifier.": HEAD,
        },
    ),
    "lstm": (
        "backbone.",
        {"backbone.embeddings.": 0, "backbone.layers.0.": 1, "backbone.layers.1.": 2, "classifier.": HEAD},
    ),
    "mean": ("backbone.", {"backbone.embeddings.": 0, "classifier.": HEAD}),
    "linear": ("backbone.", {"classifier.": HEAD}),
    # the sublayers of a block are numbered too
    "t5": (
        "transformer.",
        {
            "transformer.shared.": 0,
            "transformer.encoder.block.0.": 1,
            "transformer.encoder.block.1.": 2,
            "transformer.decoder.block.0.": 3,
            "transformer.decoder.block.1.": 4,
            "transformer.encoder.final_layer_norm.": 2,
            "transformer.decoder.final_layer_norm.": 4,
            "classification_head.": HEAD,
        },
    ),
    "resnet": (
        "resnet.",
        {"resnet.embedder.": 0, "resnet.encoder.stages.0.": 1, "resnet.encoder.stages.1.": 2, "classifier.": HEAD},
    ),
}


@pytest.mark.parametrize("family", TABLES)
def test_every_parameter_has_its_depth(tiny_model, family):
    model = tiny_model(family)
    prefix, table = TABLES[family]
    expected = {}
    for name, _ in model.named_parameters():
        fitting = [beginning for beginning in table if name.startswith(beginning)]
        assert len(fitting) == 1, f"{name} stands in no row of the table, or in two"
        expected[name] = table[fitting[0]]
    assert parameters.depths(model) == expected
    assert {beginning for name in expected for beginning in table if name.startswith(beginning)} == set(table)
    assert parameters.backbone_prefix(model) == prefix


@pytest.mark.parametrize("family", TABLES)
def test_the_backbone_is_the_base_model(tiny_model, family):
    model = tiny_model(family)
    in_backbone = parameters.in_backbone(model)
    inside = {id(tensor) for tensor in model.base_model.state_dict(keep_vars=True).values()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert in_backbone(name) == (id(tensor) in inside), name


def test_a_bare_backbone_has_no_head(tiny_model):
    model = tiny_model("bert", auto="AutoModel")
    assert parameters.backbone_prefix(model) == ""
    depths = parameters.depths(model)
    assert set(depths.values()) == {0, 1, 2}
    assert depths["embeddings.word_embeddings.weight"] == 0
    assert depths["pooler.dense.weight"] == 2


def test_depths_follow_the_number_and_not_its_spelling(tiny_model):
    model = tiny_model("bert", num_hidden_layers=12)
    depths = parameters.depths(model)
    assert depths["bert.encoder.layer.11.output.dense.weight"] == 12 == depths["bert.pooler.dense.bias"]
    assert depths["bert.encoder.layer.1.output.dense.weight"] == 2


def test_a_tied_head_has_the_depth_of_the_embeddings(tiny_model):
    model = tiny_model("bert", auto="AutoModelForMaskedLM")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    depths = parameters.depths(model)
    assert depths["bert.embeddings.word_embeddings.weight"] == 0
    assert {name for name, depth in depths.items() if depth is None} == {
        name for name, _ in model.named_parameters() if name.startswith("cls.")
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], 0),
        (["classifier.weight"], 0),
        (["encoder.layer.0.x", "encoder.layer.9.x", "encoder.layer.10.x"], 11),
        (["encoder.layers.2.norm.weight"], 3),
        (["layer_norm.3.weight"], 0),
        (["h.4.attn.weight", "wte.weight"], 5),
    ],
)
def test_number_of_layers(names, expected):
    assert parameters.num_layers(names) == expected


def test_counts_know_what_trains(tiny_model):
    model = tiny_model("linear", num_labels=2)
    assert parameters.counts(model) == {"total": 8, "trainable": 8}
    model.classifier.bias.requires_grad_(False)
    assert parameters.counts(model) == {"total": 8, "trainable": 6}


def test_a_shared_tensor_counts_once(tiny_model):
    model = tiny_model("bert", auto="AutoModelForMaskedLM")
    everything = {
        id(tensor): tensor.numel() for tensor in model.state_dict(keep_vars=True).values() if tensor.requires_grad
    }
    assert parameters.counts(model)["total"] == sum(everything.values())
