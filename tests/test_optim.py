import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from transfer import freezing, optim, parameters
from transfer.config import Freezing, Optimizer, Scheduler
from transfer.errors import UserError
from transfer.paths import shipped

OPTIMIZERS = sorted(Path(shipped("conf"), "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(Path(shipped("conf"), "scheduler").glob("*.yaml"))


def read(file, schema):
    """A shipped file; where it leaves the rate to the model, with one."""
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(file)))
    return replace(settings, lr=settings.lr or 1e-3) if schema is Optimizer else settings


def groups_of(model, settings=None, policy=None):
    return optim.parameter_groups(model, settings or Optimizer(lr=1e-3), freezing.make(model, policy or Freezing()))


@pytest.mark.parametrize("policy", [Freezing(), Freezing("head_only"), Freezing("first_k", k=1), Freezing("gradual")])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "distilbert", "lstm", "linear"])
def test_what_ever_trains_is_in_one_group_and_the_rest_in_none(tiny_model, family, policy):
    if (family, policy.policy) == ("linear", "first_k"):
        policy = Freezing("none")  # no layers to count
    model = tiny_model(family)
    plan = freezing.make(model, policy)
    made = groups_of(model, policy=policy)
    listed = [id(parameter) for group in made for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for name, p in model.named_parameters() if plan[name] is not None}
    assert len({group["name"] for group in made}) == len(made)


def test_equal_parameters_are_not_the_same(tiny_model):
    """All LayerNorms begin with the same values; each has to train."""
    model = tiny_model("bert")
    norms = [p for name, p in model.named_parameters() if name.endswith("LayerNorm.weight")]
    assert torch.equal(norms[0], norms[1])
    listed = {id(p) for group in groups_of(model) for p in group["params"]}
    assert {id(norm) for norm in norms} <= listed


def test_a_tied_tensor_is_in_one_group(tiny_model):
    made = groups_of(tiny_model("bert", auto="AutoModelForMaskedLM"))
    listed = [id(p) for group in made for p in group["params"]]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm"])
def test_rates_fall_with_the_depth(tiny_model, family):
    """Two layers: the rate of the top layer is lr, of the one below lr * 0.5, of the embeddings lr * 0.25."""
    settings = Optimizer(lr=0.8, layer_decay=0.5, head_multiplier=10)
    rates = {group["name"].removesuffix("_no_decay"): group["lr"] for group in groups_of(tiny_model(family), settings)}
    assert rates == pytest.approx({"depth_0": 0.2, "depth_1": 0.4, "depth_2": 0.8, "head": 8.0})


def test_every_parameter_has_the_rate_of_its_depth(tiny_model):
    model = tiny_model("bert", num_hidden_layers=4)
    rates = {
        id(p): group["lr"] for group in groups_of(model, Optimizer(lr=1.0, layer_decay=0.9)) for p in group["params"]
    }
    for name, depth in parameters.depths(model).items():
        expected = 1.0 if depth is None else 0.9 ** (4 - depth)
        assert rates[id(model.get_parameter(name))] == pytest.approx(expected), name


def test_rates_do_not_depend_on_what_is_frozen(tiny_model):
    settings = Optimizer(lr=1.0, layer_decay=0.5)
    free = {group["name"]: group["lr"] for group in groups_of(tiny_model("bert"), settings)}
    frozen = {g["name"]: g["lr"] for g in groups_of(tiny_model("bert"), settings, Freezing("first_k", k=1))}
    assert frozen == {name: rate for name, rate in free.items() if name.startswith(("head", "depth_2"))}


@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm"])
@pytest.mark.parametrize("everything", [False, True])
def test_norms_and_biases_do_not_decay(tiny_model, family, everything):
    model = tiny_model(family)
    made = groups_of(model, Optimizer(lr=1.0, weight_decay=0.3, decay_norms_and_biases=everything))
    decays = {id(p): group["weight_decay"] for group in made for p in group["params"]}
    spared = set()
    for name, parameter in model.named_parameters():
        if not decays[id(parameter)]:
            spared.add(name)
        else:
            assert decays[id(parameter)] == 0.3
    norms_and_biases = {n for n, _ in model.named_parameters() if "norm" in n.lower() or "bias" in n or "ln_" in n}
    assert spared == (set() if everything else norms_and_biases)
    assert norms_and_biases


def step(model, optimizer):
    ids = torch.arange(3, 15).reshape(2, 6)
    torch.nn.functional.cross_entropy(model(input_ids=ids).logits, torch.tensor([0, 2])).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("file", OPTIMIZERS, ids=lambda file: file.stem)
def test_a_shipped_optimizer_moves_all_that_trains(tiny_model, file, fused):
    settings = read(file, Optimizer)
    model = tiny_model("bert")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    policy = Freezing("first_k", k=1)
    plan = freezing.make(model, policy)
    frozen = freezing.FreezingCallback(model, plan)
    frozen.prepare(distributed=False)
    optimizer = optim.build(groups_of(model, settings, policy), settings, fused=fused)
    assert f"{type(optimizer).__module__}.{type(optimizer).__name__}".endswith(settings._target_.rsplit(".", 1)[1])
    for _ in range(2):
        step(model, optimizer)
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, before[name])
        # the gradient of a key's bias is zero: softmax does not see what is added to all its inputs
        if plan[name] is None:
            assert same, f"{name} is frozen"
        elif not name.endswith("key.bias"):
            assert not same, f"{name} did not move"
        assert parameter.isfinite().all()


@pytest.mark.parametrize("file", OPTIMIZERS, ids=lambda file: file.stem)
def test_fused_and_plain_step_alike(tiny_model, file):
    settings = read(file, Optimizer)
    results = []
    for fused in (True, False):
        model = tiny_model("lstm").eval()
        optimizer = optim.build(groups_of(model, settings), settings, fused=fused)
        assert bool(optimizer.defaults.get("fused")) == (fused and "fused" in optimizer.defaults)
        for _ in range(3):
            step(model, optimizer)
        results.append(model.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-4, atol=1e-5)


def test_groups_keep_their_own_rate_and_decay_in_the_optimizer(tiny_model):
    settings = Optimizer(lr=1.0, weight_decay=0.1, layer_decay=0.5, head_multiplier=3)
    optimizer = optim.build(groups_of(tiny_model("bert"), settings), settings)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found["depth_0"] == (0.25, 0.1)
    assert found["depth_0_no_decay"] == (0.25, 0.0)
    assert found["head"] == (3.0, 0.1)


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        (Optimizer("torch.optim.AdamX"), "o._target_", "AdamX"),
        (Optimizer("torch.optimizers.Adam"), "o._target_", "torch.optimizers"),
        (Optimizer("torch.nn.Linear"), "o._target_", "torch.nn.Linear"),
        (Optimizer("torch.optim"), "o._target_", "torch.optim"),
        (Optimizer("AdamW"), "o._target_", "AdamW"),
        (Optimizer("torch.optim.SGD", options={"momentun": 0.9}), "o.options", "momentun"),
        (Optimizer("torch.optim.SGD", options={"momentum": 0.9, "lr": 1}), "o.options", "lr"),
        (Optimizer("torch.optim.SGD", options={"momentum": -1}), "o", "Invalid momentum value"),
        (Optimizer("torch.optim.SGD", options={"nesterov": True}), "o", "Nesterov momentum requires a momentum"),
        (Optimizer("torch.optim.AdamW", options={"betas": [0.9]}), "o", "out of range"),
        (Optimizer("torch.optim.LBFGS"), "o", "weight_decay"),
    ],
)
def test_what_is_no_optimizer_is_said(tiny_model, settings, key, words):
    with pytest.raises(UserError, match=words) as caught:
        optim.build(groups_of(tiny_model("linear")), replace(settings, lr=1e-3), key="o")
    assert [problem.key for problem in caught.value.problems] == [key]


def test_unknown_options_are_answered_with_the_known_ones(tiny_model):
    settings = Optimizer("torch.optim.SGD", lr=1e-3, options={"betas": 1})
    with pytest.raises(UserError) as caught:
        optim.build(groups_of(tiny_model("linear")), settings)
    allowed = caught.value.problems[0].allowed.split(", ")
    assert {"momentum", "nesterov"} <= set(allowed)
    assert not {"params", "lr", "weight_decay"} & set(allowed)


def curve(scheduler, num_steps, steps):
    """The rate of a group of lr 2 after so many steps, as the optimizer has it."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 2.0}])
    schedule = optim.schedule(optimizer, scheduler, num_steps)
    rates = []
    for _ in range(max(steps) + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [rates[step] / 2 for step in steps]


@pytest.mark.parametrize(
    ("scheduler", "points"),
    [
        (Scheduler("constant"), {0: 1, 50: 1, 99: 1}),
        (Scheduler("constant", warmup_steps=10), {0: 0, 5: 0.5, 10: 1, 99: 1}),
        (Scheduler("linear"), {0: 1, 25: 0.75, 50: 0.5, 99: 0.01}),
        (Scheduler("linear", warmup_fraction=0.2), {0: 0, 10: 0.5, 20: 1, 60: 0.5, 98: 0.025}),
        (Scheduler("linear", warmup_steps=20), {0: 0, 10: 0.5, 20: 1, 60: 0.5}),
        (
            Scheduler("cosine"),
            {0: 1, 25: (1 + math.cos(math.pi / 4)) / 2, 50: 0.5, 75: (1 - math.cos(math.pi / 4)) / 2},
        ),
        (Scheduler("cosine", warmup_fraction=0.1), {0: 0, 5: 0.5, 10: 1, 55: 0.5}),
        (Scheduler("cosine", options={"num_cycles": 1}), {0: 1, 50: 0, 75: 0.5}),
        # equation 3 with T = 100 and cut = 10: p = t / 10 up to the cut, then 1 - (t - 10) / 90; (1 + 31 p) / 32
        (
            Scheduler("slanted_triangular"),
            {0: 1 / 32, 5: 16.5 / 32, 10: 1, 55: 16.5 / 32, 37: 22.7 / 32, 99: (1 + 31 / 90) / 32},
        ),
        # cut = 25: p = 1 - (t - 25) / 75; (1 + 9 p) / 10
        (
            Scheduler("slanted_triangular", options={"cut_fraction": 0.25, "ratio": 10}),
            {0: 0.1, 5: 0.28, 25: 1, 40: 0.82, 70: 0.46},
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Scheduler) else "",
)
def test_a_schedule_is_where_it_should_be(scheduler, points):
    assert curve(scheduler, 100, list(points)) == pytest.approx(list(points.values()), abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 6, 19, 28, 100])
def test_slanted_triangular_comes_down_with_the_end_of_the_run(num_steps):
    """Also where a tenth of the steps is no whole number."""
    rate = optim.factor(Scheduler("slanted_triangular"), 0, num_steps)
    assert rate(max(1, num_steps // 10)) == 1
    rates = [rate(step) for step in range(max(1, num_steps // 10), num_steps + 1)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == len(rates)
    assert num_steps == 1 or rates[-1] == pytest.approx(1 / 32)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 9])
@pytest.mark.parametrize("file", [file for file in SCHEDULERS if file.stem != "plateau"], ids=lambda file: file.stem)
def test_a_shipped_schedule_keeps_to_its_bounds_in_a_short_run(file, num_steps):
    rates = curve(read(file, Scheduler), num_steps, range(num_steps))
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates) > 0, "a run at rate zero learns nothing"


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_reduces_when_the_metric_stops_improving(mode):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.schedule(optimizer, Scheduler("plateau", options={"factor": 0.5, "patience": 1}), 100, mode=mode)
    rates = []
    for value in (0.5, 0.6, 0.6, 0.6, 0.7, 0.1, 0.1):
        schedule.step(value if mode == "max" else 1 - value)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_the_shipped_plateau_is_what_its_file_says():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    file = next(file for file in SCHEDULERS if file.stem == "plateau")
    schedule = optim.schedule(optimizer, read(file, Scheduler), 10)
    assert (schedule.factor, schedule.patience, schedule.mode) == (0.5, 2, "max")


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (Scheduler("linear", options={"num_cycles": 1}), "num_cycles"),
        (Scheduler("cosine", options={"cycles": 1}), "num_cycles"),
        (Scheduler("slanted_triangular", options={"cut": 0.1}), "cut_fraction"),
        (Scheduler("slanted_triangular", options={"cut_fraction": 0}), "between 0 and 1"),
        (Scheduler("slanted_triangular", options={"cut_fraction": 1.0}), "between 0 and 1"),
        (Scheduler("slanted_triangular", options={"ratio": 0.5}), "at least 1"),
        (Scheduler("plateau", options={"patients": 1}), "patience"),
        (Scheduler("plateau", options={"mode": "min"}), "patience"),
        (Scheduler("plateau", options={"factor": 1.5}), "Factor should be < 1.0"),
    ],
    ids=lambda value: str(value.options) if isinstance(value, Scheduler) else "",
)
def test_what_a_schedule_does_not_take_is_said(scheduler, words):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=words) as caught:
        optim.schedule(optimizer, scheduler, 100, key="source.scheduler")
    assert [problem.key for problem in caught.value.problems] == ["source.scheduler.options"]


@pytest.mark.parametrize("file", SCHEDULERS, ids=lambda file: file.stem)
def test_a_shipped_schedule_trains(tiny_model, fit, file):
    """Through Lightning: stepped by step, or by epoch with the validation metric."""
    model = tiny_model("mean")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    module = fit(model, Freezing(), scheduler=read(file, Scheduler))
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert module.trainer.global_step == 6
    rate = module.trainer.optimizers[0].param_groups[0]["lr"]
    expected = {"constant": 1e-2, "plateau": 1e-2, "linear": 0, "cosine": 0, "slanted_triangular": 1e-2 / 32}
    assert rate == pytest.approx(expected[file.stem], abs=1e-9)
