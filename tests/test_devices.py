import pytest

from tests.running import modules_after
from tests.test_validation import changed, problems

SHARDED = {"trainer.strategy": "fsdp", "trainer.devices": 2, "trainer.halve_on_out_of_memory": False}


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_strategies_that_are_known_to_work(strategy):
    assert problems(changed(**{"trainer.strategy": strategy, "trainer.devices": 2})) == {}


@pytest.mark.parametrize("strategy", ["deepspeed", "xla", "ddp_spawn", "model_parallel", "luck"])
def test_others_are_refused(strategy):
    found = problems(changed(**{"trainer.strategy": strategy, "trainer.devices": 2}))
    assert found.keys() == {"trainer.strategy"}
    assert "fsdp" in found["trainer.strategy"].allowed


@pytest.mark.parametrize("policy", ["none", "head_only", "gradual"])
@pytest.mark.parametrize("precision", ["auto", "32", "bf16-mixed"])
def test_what_goes_with_a_sharded_model(policy, precision):
    assert problems(changed(**SHARDED, **{"freezing.policy": policy, "trainer.precision": precision})) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.devices", 1),
        ("trainer.halve_on_out_of_memory", True),
        ("trainer.precision", "16-mixed"),
        ("trainer.precision", "bf16-true"),
        ("trainer.precision", "64-true"),
        ("adaptation.name", "lora"),
        ("regularizer.name", "l2_sp"),
        ("regularizer.name", "delta"),
        ("regularizer.name", "mixout"),
        ("averaging.name", "ema"),
        ("optimizer._target_", "torch.optim.Adafactor"),
        ("source.optimizer._target_", "torch.optim.LBFGS"),
    ],
)
def test_what_does_not_is_refused(key, value):
    found = problems(changed(**SHARDED | {key: value}))
    assert found.keys() == {key}
    assert "with trainer.strategy=fsdp" in found[key].allowed
    assert found[key].action


def test_a_strategy_is_refused_before_torch_is_imported(tmp_path):
    code = "import sys\nfrom transfer.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
    code += "    assert stop.code == 2, stop.code"
    data = ["target.data.path=target.csv", "model=tiny_bert", "stage=scratch"]
    assert not modules_after(code, "run", *data, "trainer.strategy=deepspeed", cwd=tmp_path)
