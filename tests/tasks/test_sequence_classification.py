from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn import metrics as sk

from transfer import tasks
from transfer.config import Task
from transfer.errors import UserError

LABELS = ["bad", "fair", "good"]


def single(**settings):
    return tasks.make(Task(**settings), LABELS, key="target.task")


def several(**settings):
    return tasks.make(Task(multi_label=True, **settings), LABELS, key="target.task")


def measured(task, logits, labels, *, batch_size=4, per_class=True):
    """The metrics as a run has them: over batches."""
    collection = task.metrics(per_class=per_class)
    for start in range(0, len(labels), batch_size):
        task.update(collection, logits[start : start + batch_size], labels[start : start + batch_size])
    return task.named(collection.compute())


def expected_single(truth, predicted):
    """What scikit-learn says; macro averages over the classes that are there or were predicted, as its own default."""
    macro = sk.precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    by_class = sk.precision_recall_fscore_support(truth, predicted, labels=range(3), zero_division=0)
    found = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        **dict(zip(("precision", "recall", "f1"), macro[:3], strict=True)),
    }
    for name, row in zip(("precision", "recall", "f1"), by_class[:3], strict=True):
        found |= {f"{name}/{label}": value for label, value in zip(LABELS, row, strict=True)}
    return found


HAND_MADE = {
    "mixed": ([0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2, 2, 2, 0, 1]),
    "perfect": ([0, 1, 2, 0, 1], [0, 1, 2, 0, 1]),
    "always the majority": ([0, 1, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2]),
    "all wrong": ([0, 1, 2, 0], [1, 2, 0, 2]),
    "a class that does not occur": ([0, 1, 1, 0, 1], [0, 1, 0, 0, 1]),
    "a class predicted that does not occur": ([0, 1, 1, 0], [0, 2, 1, 0]),
    "one row": ([1], [1]),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_metrics_are_scikit_learns(case):
    truth, predicted = map(np.array, HAND_MADE[case])
    logits = torch.eye(3)[predicted] * 2 - 0.5
    found = measured(single(), logits, torch.tensor(truth))
    assert found == pytest.approx(expected_single(truth, predicted), abs=1e-6)


def loss(task, logits, labels):
    return task.loss(SimpleNamespace(logits=logits), {"labels": labels})


def test_metrics_by_hand():
    """bad: 2 of 3 found, 2 of 3 right; fair: 1 of 2, 1 of 3; good: 3 of 5, 3 of 4."""
    truth, predicted = HAND_MADE["mixed"]
    found = measured(single(), torch.eye(3)[predicted], torch.tensor(truth))
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["recall/bad"] == found["precision/bad"] == pytest.approx(2 / 3)
    assert found["recall/fair"] == pytest.approx(1 / 2)
    assert found["precision/good"] == pytest.approx(3 / 4)
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 5 + 2 / 3) / 3)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_metrics_do_not_depend_on_the_batches(batch_size):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 3, generator=generator), torch.randint(3, (60,), generator=generator)
    expected = expected_single(labels.numpy(), logits.argmax(1).numpy())
    assert measured(single(), logits, labels, batch_size=batch_size) == pytest.approx(expected, abs=1e-6)


def test_one_answer_to_everything_correlates_with_nothing():
    task = tasks.make(Task(), ["a", "b"], key="target.task")
    metrics = task.metrics(per_class=False)
    task.update(metrics, torch.tensor([[0.0, 1.0]] * 5), torch.tensor([1, 1, 1, 0, 0]))
    assert task.named(metrics.compute())["mcc"] == 0


def test_without_per_class_there_are_averages_only():
    found = measured(single(), torch.eye(3), torch.arange(3), per_class=False)
    assert set(found) == {"accuracy", "precision", "recall", "f1", "mcc"}


def expected_several(truth, predicted):
    macro = sk.precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    by_class = sk.precision_recall_fscore_support(truth, predicted, average=None, zero_division=0)
    found = {
        "accuracy": sk.accuracy_score(truth, predicted),
        **dict(zip(("precision", "recall", "f1"), macro[:3], strict=True)),
    }
    for name, row in zip(("precision", "recall", "f1"), by_class[:3], strict=True):
        found |= {f"{name}/{label}": value for label, value in zip(LABELS, row, strict=True)}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_several_labels_are_scikit_learns(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 3, generator=generator)
    labels = (torch.rand(40, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.8])).float()
    expected = expected_several(labels.int().numpy(), (logits > 0).int().numpy())
    assert measured(several(), logits, labels) == pytest.approx(expected, abs=1e-6)


def test_every_class_of_a_row_has_to_be_right_for_accuracy():
    logits = torch.tensor([[9.0, -9, 9], [9, -9, -9], [-9, -9, -9], [9, 9, 9]])
    labels = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert measured(several(), logits, labels)["accuracy"] == 0.75


@pytest.mark.parametrize("monitor", ["accuracy", "precision", "recall", "f1", "mcc", "loss"])
def test_what_can_be_monitored_is_measured(monitor):
    task = single(monitor=monitor)
    assert monitor == "loss" or monitor in measured(task, torch.eye(3), torch.arange(3))
    if monitor != "mcc":
        task = several(monitor=monitor)
        assert monitor == "loss" or monitor in measured(task, torch.eye(3), torch.eye(3))


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"monitor": "acuracy"}, "source.task.monitor", "did you mean accuracy"),
        ({"monitor": "xyz"}, "source.task.monitor", "accuracy, precision, recall, f1, mcc, loss"),
        ({"monitor": "mse"}, "source.task.monitor", "accuracy"),
        ({"monitor": "mcc", "multi_label": True}, "source.task.monitor", "accuracy"),
        ({"class_weights": "balance"}, "source.task.class_weights", "balanced"),
        ({"class_weights": [1.0, 2.0]}, "source.task.class_weights", r"3 numbers .* \['bad', 'fair', 'good'\]"),
        ({"class_weights": [1.0, 2.0, "x"]}, "source.task.class_weights", "3 numbers"),
        ({"class_weights": [1.0, 2.0, -1.0]}, "source.task.class_weights", "at least 0"),
        ({"class_weights": [0, 0, 0]}, "source.task.class_weights", "3 numbers"),
        ({"class_weights": [1.0, 2.0, float("nan")]}, "source.task.class_weights", "3 numbers"),
        ({"class_weights": "abc"}, "source.task.class_weights", "3 numbers"),
        ({"class_weights": 2.0}, "source.task.class_weights", "3 numbers"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, key, words):
    with pytest.raises(UserError, match=words) as caught:
        tasks.make(Task(**settings), LABELS, key="source.task")
    assert [problem.key for problem in caught.value.problems] == [key]


def test_the_score_is_the_probability():
    names, scores = single().decode(torch.tensor([[1.0, 2.0, 3.0]]).log())
    assert (names, scores) == (["good"], [pytest.approx(0.5)])
    names, scores = several().decode(torch.tensor([[0.9, 0.4, 0.8]]).logit())
    assert (names, scores) == ([["bad", "good"]], [pytest.approx(0.6)]), "the least sure of its three decisions"


def test_half_precision_logits_are_read_in_float32():
    task, logits = single(), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert loss(task, logits, torch.tensor([0])).dtype == torch.float32
    assert measured(task, logits, torch.tensor([2]))["accuracy"] == 1
    assert task.decode(logits)[0] == ["good"]


def test_the_model_is_told_its_labels():
    settings = single().model_settings()
    assert settings["id2label"] == {0: "bad", 1: "fair", 2: "good"}
    assert settings["label2id"] == {"bad": 0, "fair": 1, "good": 2}
    assert (settings["num_labels"], settings["problem_type"]) == (3, "single_label_classification")
    assert several().model_settings()["problem_type"] == "multi_label_classification"


LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 2.0, 1.0], [-1.0, 0.0, 0.0]])


def test_balanced_weights_are_scikit_learns():
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    task = single(class_weights="balanced")
    task.balance(labels)
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(task.class_weights.numpy(), expected, rtol=1e-6)
    assert task.class_weights[labels].mean() == pytest.approx(1), "mean 1 over the examples"


def test_the_weighted_loss_by_hand():
    """Classes 2, 1, 1 of four rows: weights 4 / (3 * count); the mean is over the weights, as in torch."""
    labels = torch.tensor([0, 0, 1, 2])
    task = single(class_weights="balanced")
    task.balance(labels)
    weights = np.array([2 / 3, 2 / 3, 4 / 3, 4 / 3])
    log_probabilities = LOGITS.numpy() - np.log(np.exp(LOGITS.numpy()).sum(1, keepdims=True))
    losses = -log_probabilities[range(4), labels.numpy()]
    assert float(loss(task, LOGITS, labels)) == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-6)
    assert float(loss(single(), LOGITS, labels)) == pytest.approx(losses.mean(), rel=1e-6)


def test_listed_weights_are_taken_as_they_are():
    task = single(class_weights=[1, 2.0, 0.5])
    task.fit(Dataset.from_dict({"label": task.labels[:1] * 4}))
    assert task.class_weights.tolist() == [1, 2, 0.5]
    plain = single()
    plain.fit(Dataset.from_dict({"label": plain.labels[:1] * 4}))
    assert plain.class_weights is None


def test_a_class_without_examples_breaks_nothing():
    for task, labels in ((single, torch.tensor([0, 0, 1])), (several, torch.tensor([[1.0, 0, 0], [1, 0, 1]]))):
        made = task(class_weights="balanced")
        made.balance(labels)
        assert made.class_weights.isfinite().all()
        assert (made.class_weights > 0).all()
        assert loss(made, LOGITS[: len(labels)], labels).isfinite()


def test_balanced_weights_of_several_labels_by_hand():
    """Positives 1, 2, 3 of four rows: together they weigh as much as the negatives: 3, 1, 1/3."""
    labels = torch.tensor([[1.0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    task = several(class_weights="balanced")
    task.balance(labels)
    assert task.class_weights.tolist() == pytest.approx([3, 1, 1 / 3])
    p = 1 / (1 + np.exp(-LOGITS.numpy()))
    y = labels.numpy()
    expected = -(np.array([3, 1, 1 / 3]) * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert float(loss(task, LOGITS, labels)) == pytest.approx(expected, rel=1e-5)
