import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from transformers import AutoModelForSequenceClassification

from transfer.errors import UserError
from transfer.models import register
from transfer.models.linear import LinearConfig, LinearForSequenceClassification

torch.set_num_threads(1)


def table(num_examples: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Three columns of very different units, one of them constant, and a noisy linear label."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num_examples, 3, generator=generator)
    features = torch.stack([1e-3 * z[:, 0], 2000 + 3 * z[:, 1], torch.full((num_examples,), 7.0)], dim=1)
    labels = 5e3 * features[:, 0] - 2 * features[:, 1] + z[:, 2]
    return features, labels


def regressor() -> LinearForSequenceClassification:
    return LinearForSequenceClassification(LinearConfig(num_features=3, problem_type="regression", num_labels=1))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_reaches_least_squares_whatever_the_unit_of_the_label(unit):
    features, labels = table()
    labels = labels * unit
    model = regressor()
    model.fit_scaling(features, labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        model(features, labels=labels).loss.backward()
        optimizer.step()
    best = LinearRegression().fit(features[:, :2].double().numpy(), labels.double().numpy())
    w, b = model.coefficients()
    np.testing.assert_allclose(w[0, :2].numpy(), best.coef_, rtol=1e-3)
    expected = features.double() @ w.T + b
    torch.testing.assert_close(model(features).logits.double(), expected, rtol=1e-4, atol=1e-3 * float(labels.std()))


def test_starts_at_the_mean_with_all_variance_unexplained():
    features, labels = table()
    model = regressor()
    model.fit_scaling(features, labels)
    output = model(features, labels=labels)
    torch.testing.assert_close(output.logits, labels.mean().expand(200, 1))
    assert float(output.loss.detach()) == pytest.approx(1.0, rel=1e-4)


def test_a_column_that_does_not_vary_keeps_scale_one():
    features, labels = table()
    model = regressor()
    model.fit_scaling(features, torch.full_like(labels, 3.3))
    assert float(model.backbone.scale[2]) == 1.0
    assert float(model.label_scale) == 1.0
    deviation = model.backbone(features).pooler_output.std(dim=0, correction=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1.0, 0.0]), rtol=1e-3, atol=1e-6)


def test_classification_leaves_the_logits_unscaled():
    features, labels = table()
    classes = (labels > labels.mean()).long()
    model = LinearForSequenceClassification(LinearConfig(num_features=3, num_labels=2))
    model.fit_scaling(features, classes)
    assert model.label_mean.tolist() == [0, 0]
    assert model.label_scale.tolist() == [1, 1]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(features, labels=classes).loss
        loss.backward()
        optimizer.step()
    logits = model(features).logits
    torch.testing.assert_close(model(features, labels=classes).loss, torch.nn.functional.cross_entropy(logits, classes))
    assert (logits.argmax(dim=1) == classes).float().mean() > 0.9


def test_a_saved_model_reads_the_same_units(tmp_path):
    register()
    features, labels = table()
    model = regressor()
    model.fit_scaling(features, labels)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert isinstance(again, LinearForSequenceClassification)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(features).logits, again(features).logits)


def test_a_checkpoint_of_the_base_gives_a_head_that_changes_nothing(tmp_path):
    features, labels = table()
    model = regressor()
    model.fit_scaling(features, labels)
    model.backbone.save_pretrained(tmp_path)
    fresh = LinearForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert torch.equal(fresh.backbone.mean, model.backbone.mean)
    assert fresh.label_mean.tolist() == [0]
    assert fresh.label_scale.tolist() == [1]
    assert not fresh.classifier.weight.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_missing_values_are_named_by_column(value):
    features, labels = table()
    features[3, 1] = value
    with pytest.raises(UserError, match=r"columns \[1\]"):
        regressor().fit_scaling(features, labels)


def test_without_features_there_is_no_model():
    with pytest.raises(UserError, match="num_features"):
        LinearConfig(num_features=0)


def test_hidden_layers_make_a_perceptron(tmp_path):
    """They belong to the backbone, differ from each other at the start, and come back from a saved model."""
    register()
    config = LinearConfig(num_features=2, hidden_sizes=[5, 3], num_labels=1, standardise=False)
    model = AutoModelForSequenceClassification.from_config(config)
    x = torch.tensor([[1.0, -2.0], [30.0, 4.0]])
    model.fit_scaling(x, torch.tensor([1.0, 200.0]))
    first, second = model.backbone.layers
    assert (first.weight.shape, second.weight.shape, model.classifier.weight.shape) == ((5, 2), (3, 5), (1, 3))
    expected = model.classifier(second(first(x).relu()).relu())
    torch.testing.assert_close(model(features=x).logits, expected, msg="nothing was scaled")
    assert len({*first.weight.flatten().tolist()}) == 10
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(features=x).logits, expected)


def test_hidden_layers_have_units():
    with pytest.raises(UserError, match="hidden_sizes"):
        LinearConfig(num_features=2, hidden_sizes=[4, 0])
