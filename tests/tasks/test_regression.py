from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats
from sklearn.metrics import mean_squared_error

from transfer import tasks
from transfer.checkpoints import BestWeights
from transfer.config import Task
from transfer.errors import UserError


def regression(**settings):
    return tasks.make(
        Task(**{"name": "regression", "monitor": "mse", "mode": "min", **settings}), [], key="target.task"
    )


def measured(task, predicted, labels, batch_size=4):
    collection = task.metrics(per_class=True)
    for start in range(0, len(labels), batch_size):
        task.update(collection, predicted[start : start + batch_size, None], labels[start : start + batch_size])
    return task.named(collection.compute())


CASES = {
    "noisy": ([1.0, 2.0, 3.0, 4.0, 5.0, 7.0], [1.1, 1.9, 3.5, 3.4, 6.0, 6.5]),
    "reversed": ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.5, 1.0]),
    "exact": ([-1.0, 0.5, 2.0, 2.5], [-1.0, 0.5, 2.0, 2.5]),
    "ties": ([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 1.0], [1.0, 2.0, 2.0, 2.0, 2.5, 3.0, 1.0]),
    "large": ([1e4, 1.1e4, 0.9e4, 1.5e4], [1.05e4, 1.0e4, 0.95e4, 1.4e4]),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_scipy_and_scikit_learn(case):
    truth, predicted = CASES[case]
    found = measured(regression(), torch.tensor(predicted), torch.tensor(truth))
    expected = {
        "mse": mean_squared_error(truth, predicted),
        "pearson": stats.pearsonr(truth, predicted).statistic,
        "spearman": stats.spearmanr(truth, predicted).statistic,
    }
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_metrics_do_not_depend_on_the_batches(batch_size):
    generator = torch.Generator().manual_seed(0)
    predicted, labels = torch.randn(2, 40, generator=generator)
    found = measured(regression(), predicted, labels, batch_size)
    assert found["pearson"] == pytest.approx(np.corrcoef(predicted, labels)[0, 1], abs=1e-4)
    assert found["mse"] == pytest.approx(mean_squared_error(labels, predicted), rel=1e-5)


def fit(task, labels):
    task.fit(Dataset.from_dict({"label": labels.tolist()}))


def loss(task, logits, labels):
    return task.loss(SimpleNamespace(logits=logits), {"labels": labels})


def test_mse_is_in_the_units_of_the_label_and_the_loss_in_those_of_its_variance():
    labels = torch.tensor([10.0, 20.0, 30.0, 40.0])
    task = regression()
    fit(task, labels)
    assert (task.mean, task.variance) == (25.0, 125.0)
    predicted = torch.full((4,), 25.0)
    assert measured(task, predicted, labels)["mse"] == pytest.approx(125)
    assert float(loss(task, predicted[:, None], labels)) == pytest.approx(1), "the mean leaves all variance unexplained"


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_gradient_does_not_depend_on_the_unit(unit):
    """A model that answers in the label's unit, its output scaled alike."""
    labels = torch.tensor([1.0, 2.0, 4.0]) * unit
    task = regression()
    fit(task, labels)
    scaled = torch.tensor([0.5, 0.1, -0.3], requires_grad=True)
    loss(task, (scaled * unit)[:, None], labels).backward()
    plain = torch.tensor([0.5, 0.1, -0.3], requires_grad=True)
    (torch.nn.functional.mse_loss(plain, labels / unit) / float((labels / unit).var(unbiased=False))).backward()
    torch.testing.assert_close(scaled.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_labels_that_do_not_vary_keep_the_loss_finite():
    task = regression()
    fit(task, torch.tensor([3.0, 3.0]))
    assert float(loss(task, torch.tensor([[4.0], [3.0]]), torch.tensor([3.0, 3.0]))) == pytest.approx(0.5)


def test_a_new_head_begins_at_the_mean():
    task, layer = regression(), torch.nn.Linear(4, 1)
    fit(task, torch.tensor([10.0, 20.0]))
    weight = layer.weight.clone()
    task.start_head(layer)
    assert layer.bias.item() == 15
    assert torch.equal(layer.weight, weight)
    task.start_head(torch.nn.Linear(4, 1, bias=False))


def test_labels_come_back_as_they_went():
    task = regression()
    labels = task.label_tensor(task.encode_labels([1, 2.5, "-3"]))
    assert labels.dtype == torch.float32
    answers = task.answers(None, SimpleNamespace(logits=labels[:, None].to(torch.bfloat16)), {})
    predicted = task.predict(answers, None, None)
    assert (predicted.values, predicted.scores) == ([1, 2.5, -3], [None, None, None])
    one = task.answers(None, SimpleNamespace(logits=labels[:1, None]), {})
    assert task.predict(one, None, None).values == [1], "one row stays a row"


def test_one_row_has_a_loss():
    assert float(loss(regression(), torch.tensor([[2.0]]), torch.tensor([1.0]))) == 1


@pytest.mark.parametrize("monitor", ["mse", "pearson", "spearman", "loss"])
def test_what_can_be_monitored_is_measured(monitor):
    found = measured(regression(monitor=monitor), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 2.0]))
    assert monitor == "loss" or monitor in found


def test_a_correlation_that_cannot_be_computed_is_never_the_best():
    """A model that answers the same everywhere has none: nan, which compares with nothing."""
    task, labels = regression(monitor="pearson", mode="max"), torch.tensor([1.0, 2.0, 3.0])
    best, layer = BestWeights("pearson", "max"), torch.nn.Linear(1, 1)
    for step, predicted in enumerate([[2.0, 2, 2], [1, 3, 2], [2, 2, 2], [3, 2, 1]], start=1):
        found = measured(task, torch.tensor(predicted), labels)
        metrics = {"val/loss": 1.0, **{f"val/{name}": value for name, value in found.items()}}
        best.take(SimpleNamespace(callback_metrics=metrics, global_step=step), SimpleNamespace(model=layer))
    assert best.step == 2
    assert best.metrics["val/pearson"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"monitor": "accuracy"}, "target.task.monitor", "mse, pearson, spearman, loss"),
        ({"monitor": "pearsson"}, "target.task.monitor", "did you mean pearson"),
        ({"class_weights": "balanced"}, "target.task.class_weights", "no classes"),
    ],
)
def test_settings_that_do_not_fit_are_said(settings, key, words):
    with pytest.raises(UserError, match=words) as caught:
        regression(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_the_model_is_told_that_it_answers_with_one_number():
    assert regression().model_settings() == {
        "num_labels": 1,
        "id2label": {0: "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "problem_type": "regression",
    }
    assert tasks.problem_type(Task(name="regression")) == "regression"
    assert tasks.problem_type(Task(multi_label=True)) == "multi_label"
    assert tasks.problem_type(Task()) == "single_label"
