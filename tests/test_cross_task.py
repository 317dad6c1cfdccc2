"""A source of one task for a target of another: the backbone goes over, the head is new."""

import pytest
import transformers

from transfer import parameters, tasks, weights
from transfer.config import Task, Weights

LABELS = ["a", "b", "c"]
TAGS = ["O", "B-x", "I-x"]
AUTO = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "multiple_choice": "AutoModelForMultipleChoice",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "dialogue": "AutoModelForCausalLM",
}
BERT = [name for name in AUTO if name not in ("causal_lm", "dialogue")]
GPT2 = ["sequence_classification", "token_classification", "causal_lm"]
LSTM = ["sequence_classification", "token_classification", "causal_lm"]
PAIRS = [
    (family, a, b) for family, able in (("bert", BERT), ("gpt2", GPT2), ("lstm", LSTM)) for a in able for b in able
]
MONITOR = {"regression": "mse", "token_classification": "f1", "question_answering": "f1"}


def made(name):
    language = AUTO[name] in ("AutoModelForMaskedLM", "AutoModelForCausalLM")
    monitor = "perplexity" if language else MONITOR.get(name, "accuracy")
    labels = {"sequence_classification": LABELS, "token_classification": TAGS}.get(name, [])
    return tasks.make(Task(name=name, monitor=monitor), labels, key="target.task")


def model_of(tiny_model, family, task, seed):
    settings = dict(task.model_settings())
    if family == "lstm":
        settings |= {"bidirectional": False}
    return tiny_model(family, settings.pop("num_labels", 2), auto=task.auto_class, seed=seed, **settings)


@pytest.mark.parametrize(("family", "source", "target"), PAIRS, ids="-".join)
def test_the_backbone_goes_over_whole(tiny_model, tmp_path, family, source, target):
    first, second = made(source), made(target)
    assert second.auto_class == AUTO[target]
    model_of(tiny_model, family, first, seed=0).save_pretrained(tmp_path)
    model = model_of(tiny_model, family, second, seed=1)
    same = second.same_head(transformers.AutoConfig.from_pretrained(tmp_path))
    assert same == (source == target)
    report = weights.transfer(weights.read_state(tmp_path), model, Weights(), with_head=same)
    inside = parameters.in_backbone(model)
    new = [name for name in report.reinitialised if inside(name)]
    assert all("pooler" in name for name in new), "not every head of BERT's asks for one"
    head = [name for name in model.state_dict() if not inside(name)]
    kept = [name for name in head if name in report.loaded]
    if same:
        assert kept == head
    else:
        assert not [name for name in kept if name in dict(model.named_parameters())], (
            "only what is tied to the backbone"
        )
