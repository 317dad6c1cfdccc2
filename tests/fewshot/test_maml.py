"""Gradients through adaptation: against finite differences, closed forms and each other, in float64."""

import pytest
import torch

from transfer.fewshot.maml import over_episodes, toward, trajectory

HIDDEN, RATE = 4, 0.1


def loss(weights, rows):
    """Mean squared error of a net with one hidden layer of tanh."""
    x, y = rows
    hidden = torch.tanh(x @ weights["body"])
    return ((hidden @ weights["head"] - y) ** 2).mean()


def episode(seed, rows=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return x, torch.sin(x.sum(dim=1, keepdim=True) + seed)


@pytest.fixture
def start():
    generator = torch.Generator().manual_seed(0)
    shapes = {"body": (2, HIDDEN), "head": (HIDDEN, 1)}
    made = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: weight.requires_grad_() for name, weight in made.items()}


def after(start, rates, steps, **options):
    """The loss on the queries after these steps on the support."""
    return loss(trajectory(loss, start, rates, episode(1), steps, **options)[-1], episode(2))


def gradient(value, of):
    return dict(zip(of, torch.autograd.grad(value, list(of.values())), strict=True))


def differences(function, of, size=1e-6):
    """Central differences of a function without arguments in every number of these tensors."""
    found = {}
    for name, tensor in of.items():
        found[name] = torch.zeros_like(tensor)
        with torch.no_grad():
            for place in range(tensor.numel()):
                flat, before = tensor.view(-1), tensor.view(-1)[place].item()
                values = []
                for sign in (1, -1):
                    flat[place] = before + sign * size
                    values.append(float(function()))
                flat[place] = before
                found[name].view(-1)[place] = (values[0] - values[1]) / (2 * size)
    return found


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_of_maml_is_that_of_finite_differences(start, steps):
    rates = dict.fromkeys(start, RATE)
    ours = gradient(after(start, rates, steps), start)
    theirs = differences(lambda: after(start, rates, steps), start)
    for name in start:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-8)


def test_first_order_leaves_out_the_second_derivatives(start):
    """Its gradient is that of the query loss at the adapted weights, and not that of the whole."""
    rates = dict.fromkeys(start, RATE)
    first = gradient(after(start, rates, 2, first_order=True), start)
    adapted = {n: w.detach().requires_grad_() for n, w in trajectory(loss, start, rates, episode(1), 2)[-1].items()}
    there = gradient(loss(adapted, episode(2)), adapted)
    whole = gradient(after(start, rates, 2), start)
    for name in start:
        torch.testing.assert_close(first[name], there[name])
        assert not torch.allclose(first[name], whole[name], rtol=1e-2)


def test_a_quadratic_loss_in_closed_form():
    """L(w) = (w - t)^2 / 2 on the support, (w - q)^2 / 2 on the queries: the gradient is (1 - a)^2k ... by hand."""
    w, target, query, rate, steps = 2.0, 0.5, -1.0, 0.3, 3
    start = {"w": torch.tensor(w, dtype=torch.float64, requires_grad=True)}

    def half_square(weights, rows):
        return (weights["w"] - rows) ** 2 / 2

    passed = trajectory(half_square, start, {"w": rate}, torch.tensor(target, dtype=torch.float64), steps)
    kept = (1 - rate) ** steps
    adapted = target + kept * (w - target)
    assert passed[-1]["w"].item() == pytest.approx(adapted)
    value = half_square(passed[-1], torch.tensor(query, dtype=torch.float64))
    assert gradient(value, start)["w"].item() == pytest.approx(kept * (adapted - query))


def test_anil_is_maml_with_a_frozen_inner_body(start):
    """Rates for the head alone, and a rate of zero for the body, are the same, in value and gradient."""
    anil, frozen = {"head": RATE}, {"head": RATE, "body": 0.0}
    for weights in (trajectory(loss, start, anil, episode(1), 3), trajectory(loss, start, frozen, episode(1), 3)):
        assert torch.equal(weights[-1]["body"], start["body"])
        assert not torch.equal(weights[-1]["head"], start["head"])
    ours, theirs = (gradient(after(start, rates, 3), start) for rates in (anil, frozen))
    for name in start:
        torch.testing.assert_close(ours[name], theirs[name])
        assert ours[name].abs().sum() > 0, "the body learns too, in the outer loop"


def test_learned_rates_have_the_gradient_of_finite_differences(start):
    rates = {name: torch.tensor(RATE, dtype=torch.float64, requires_grad=True) for name in start}
    ours = gradient(after(start, rates, 2), rates)
    theirs = differences(lambda: after(start, rates, 2), rates)
    for name in rates:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("first_order", [False, True])
def test_vmap_gives_what_a_loop_gives(start, first_order):
    rates = dict.fromkeys(start, RATE)
    several = [torch.stack(parts) for parts in zip(*(episode(seed) for seed in range(5)), strict=True)]

    def objective(x, y):
        adapted = trajectory(loss, start, rates, (x[:3], y[:3]), 2, first_order=first_order)[-1]
        return loss(adapted, (x[3:], y[3:]))

    values = [over_episodes(objective, batched=batched)(*several) for batched in (True, False)]
    torch.testing.assert_close(*values)
    assert values[0].shape == (5,)
    ours, theirs = (gradient(value.mean(), start) for value in values)
    for name in start:
        torch.testing.assert_close(ours[name], theirs[name])


def test_a_step_of_reptile_by_hand(start):
    """Descended at the rate e, its direction brings the start by the part e of the way to the adapted weights."""
    adapted = {
        n: w.detach()
        for n, w in trajectory(loss, start, dict.fromkeys(start, RATE), episode(1), 4, first_order=True)[-1].items()
    }
    before = {name: weight.detach().clone() for name, weight in start.items()}
    optimizer = torch.optim.SGD(start.values(), lr=0.25)
    toward(start, adapted).backward()
    optimizer.step()
    for name, weight in start.items():
        torch.testing.assert_close(weight.detach(), before[name] + 0.25 * (adapted[name] - before[name]))
