import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from transfer import parameters, weights
from transfer.config import Weights
from transfer.errors import UserError
from transfer.models import register
from transfer.models.recurrent import RecurrentConfig
from transfer.models.recurrent_seq2seq import RecurrentForSeq2SeqLM

ENDS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}


def small(**settings) -> RecurrentForSeq2SeqLM:
    shape = {"vocab_size": 20, "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 2, **ENDS}
    torch.manual_seed(0)
    return RecurrentForSeq2SeqLM(RecurrentConfig(**(shape | settings))).eval()


SOURCE = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
LABELS = torch.tensor([[5, 6, 7, 2], [9, 2, -100, -100]])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_all_steps_at_once_are_the_steps_one_after_another(cell):
    model = small(cell=cell)
    mask = (SOURCE != 0).long()
    whole = model(SOURCE, mask, labels=LABELS)
    given = model.prepare_decoder_input_ids_from_labels(LABELS)
    assert given.tolist() == [[2, 5, 6, 7], [2, 9, 2, 0]]
    states, logits = None, []
    for step in range(4):
        encoded = model.get_encoder()(SOURCE, mask)
        one = model(None, mask, given[:, step : step + 1], encoded, states, use_cache=True)
        states = one.past_key_values
        logits.append(one.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits)
    chosen = LABELS != -100
    torch.testing.assert_close(whole.loss, torch.nn.functional.cross_entropy(whole.logits[chosen], LABELS[chosen]))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_states_that_are_kept_change_nothing_in_what_is_written(cell, num_beams):
    model = small(cell=cell)
    settings = {"attention_mask": (SOURCE != 0).long(), "num_beams": num_beams, "max_new_tokens": 6, "do_sample": False}
    kept, anew = (model.generate(SOURCE, use_cache=cached, **settings) for cached in (True, False))
    assert kept.tolist() == anew.tolist()
    alone = model.generate(SOURCE[1:, :2], **{**settings, "attention_mask": None})
    length = min(alone.shape[1], kept.shape[1])
    assert alone[0, :length].tolist() == kept[1, :length].tolist(), "padding changes nothing"


def test_one_embedding_serves_both_sides_and_comes_back(tmp_path):
    register()
    model = small()
    assert model.lm_head.weight is model.backbone.embeddings.weight
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is again.backbone.embeddings.weight
    torch.testing.assert_close(again(SOURCE, labels=LABELS).logits, model(SOURCE, labels=LABELS).logits, rtol=0, atol=0)
    assert again.generation_config.eos_token_id == 2


def test_the_encoder_is_that_of_a_classifier():
    register()
    shape = {"vocab_size": 20, "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 2}
    classifier = AutoModelForSequenceClassification.from_config(RecurrentConfig(**shape))
    model = small()
    report = weights.transfer(classifier.state_dict(), model, Weights(), with_head=False)
    assert report.fraction_loaded == 1.0
    assert all(name.startswith("backbone.") or name == "lm_head.weight" for name in report.loaded)
    assert torch.equal(model.backbone.layers[1].weight_hh_l0, classifier.backbone.layers[1].weight_hh_l0)
    depths = parameters.depths(model)
    assert {name.split(".")[0] for name, depth in depths.items() if depth is None} == {
        *("bridge", "decoder", "score", "combine", "lm_head"),
    }


def test_a_text_without_words_is_read():
    model = small()
    outputs = model(torch.tensor([[0, 0], [3, 4]]), torch.tensor([[0, 0], [1, 1]]), labels=LABELS[:, :2])
    outputs.loss.backward()
    assert torch.isfinite(outputs.logits).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_an_average_cannot_write():
    with pytest.raises(UserError, match="lstm or gru"):
        RecurrentForSeq2SeqLM(RecurrentConfig(vocab_size=20, embedding_size=6, cell="mean", **ENDS))
