"""Models sharded over two real processes (FSDP over gloo): the numbers, weights and checkpoints of one process."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.running import NO_DROPOUT, QUICK, TINY_BERT, cli, record_of, reviews, run, start, write_csv
from transfer import memory, sharding
from transfer.checkpoints import LAST
from transfer.errors import UserError

FSDP = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.num_workers=0", "trainer.precision=32"]
# In three parts each, a process has 4 and 3 rows of the last batch, and one of them no row of the last to be tested.
SMALL = ["target.budget.batch_size=8", "target.data.test_size=9", "target.data.validation_size=9"]
SMALL += ["trainer.log_every_n_steps=1", "target.budget.patience=null"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A target that starts from a source's weights."""
    folder = tmp_path_factory.mktemp("sharding")
    source, target = reviews(folder / "source.csv", num=100, seed=1), reviews(folder / "target.csv", num=67, seed=2)
    data = ["data@source.data=csv", f"source.data.path={source}", f"target.data.path={target}"]
    parent = run(*TINY_BERT, *data, "stage=pretrain", "source.budget.max_epochs=2", f"output_dir={folder}")
    return [*QUICK, *TINY_BERT, *NO_DROPOUT, *data, *SMALL, f"init={parent['_folder']}", "target.budget.max_epochs=3"]


WORDS = {"one": "eins", "two": "zwei", "three": "drei", "house": "Haus", "tree": "Baum", "big": "gross"}


def done(*words):
    outcome = cli("run", *words)
    assert outcome.code == 0, outcome.err
    return record_of(outcome.out)


def column(record, name):
    return pd.read_csv(Path(record["_folder"]) / "metrics.csv")[name].dropna().tolist()


def assert_alike(ours, theirs, *, weights=True):
    """The same metrics, predictions and folder of weights, to float tolerance.

    The biases of BERT's keys have a gradient of nothing, whose rounding Adam makes a whole step of.
    """
    assert ours["fingerprint"] == theirs["fingerprint"], "where a run trains is no part of what it is"
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-3, abs=1e-5)
    assert ours["parameters"] == theirs["parameters"]
    folders = [Path(record["_folder"]) for record in (ours, theirs)]
    tables = [pd.read_parquet(folder / "predictions.parquet").sort_values("id") for folder in folders]
    assert tables[0]["id"].nunique() == len(tables[0]) == theirs["data"]["num_test"]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables), rtol=1e-3, atol=1e-5)
    kept = [load_file(folder / "model" / "model.safetensors") for folder in folders]
    assert kept[0].keys() == kept[1].keys()
    for name, tensor in kept[0].items() if weights else ():
        torch.testing.assert_close(tensor, kept[1][name], rtol=1e-3, atol=1e-5)
    assert (folders[0] / "model/config.json").read_text() == (folders[1] / "model/config.json").read_text()


@pytest.mark.cluster
@pytest.mark.parametrize(
    "settings",
    [
        ["freezing=none", "trainer.accumulate_grad_batches=3"],
        ["freezing=head_only"],
        ["freezing=bitfit"],
        ["freezing=gradual"],
    ],
    ids=lambda settings: settings[0],
)
def test_two_sharded_processes_come_to_what_one_comes_to(arguments, tmp_path, settings):
    words = [*arguments, *settings]
    together = done(*words, *FSDP, f"output_dir={tmp_path / 'two'}")
    alone = done(*words, f"output_dir={tmp_path / 'one'}")
    assert_alike(together, alone)
    for name in ("train/loss", "gradient_norm/total"):
        assert column(together, name) == pytest.approx(column(alone, name), rel=1e-3), name
    checksums = together["hardware"]["rank_checksums"]
    assert len(checksums) == 2
    assert len(set(checksums)) == 1


@pytest.mark.cluster
def test_an_interrupted_run_goes_on_sharded_or_not(arguments, tmp_path):
    """The optimizer's state and the best weights are in the checkpoint as one process would have written them."""
    words = [*arguments, "trainer.checkpoint_every_s=0", "target.budget.max_epochs=4", "freezing=gradual"]
    out = tmp_path / "two"
    process = start("run", *words, *FSDP, f"output_dir={out}", env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (found := [f for f in out.glob("*/*/metrics.csv") if f.read_text().count("\n") > 12]):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    last = found[0].parent / LAST
    step = torch.load(last, weights_only=False)["global_step"]
    table = pd.read_csv(found[0])
    table.loc[table["train/loss"].first_valid_index(), "train/loss"] = 123.0
    table.to_csv(found[0], index=False)
    shutil.copytree(out, tmp_path / "moved")
    alone = done(*words, f"output_dir={tmp_path / 'one'}")
    assert 0 < step < 4 * 6, step
    for outputs, trainer in ((out, FSDP), (tmp_path / "moved", [])):
        assert_alike(again := done(*words, *trainer, f"output_dir={outputs}"), alone)
        losses = column(again, "train/loss")
        assert losses[0] == 123.0, "the first step was not done again"
        assert losses[1:] == pytest.approx(column(alone, "train/loss")[1:], rel=1e-3)


@pytest.mark.cluster
def test_in_bfloat16_and_with_tied_weights(arguments, tmp_path):
    words = [*arguments, "task@target.task=masked_lm", "stage=scratch", "trainer.gradient_clip_val=0.1"]
    record = done(*words, *FSDP, "trainer.precision=bf16-mixed", f"output_dir={tmp_path / 'two'}")
    assert record["hardware"]["precision"] == "bf16-mixed"
    kept = load_file(Path(record["_folder"]) / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert "cls.predictions.decoder.weight" not in kept, "it is the embeddings"


@pytest.mark.cluster
def test_what_is_written_is_the_same(tmp_path):
    """Generation goes on until the last process is done, and one of them has a batch less than the other."""
    chance = random.Random(0)
    said = [chance.choices(list(WORDS), k=chance.randint(1, 5)) for _ in range(60)]
    rows = [{"text": " ".join(words), "label": " ".join(WORDS[word] for word in words)} for words in said]
    dropout = [f"model.config.encoder.{name}_dropout_prob=0.0" for name in ("hidden", "attention_probs")]
    words = [*QUICK, "model=tiny_seq2seq", *dropout, "task@target.task=translation", "stage=scratch", *SMALL]
    words += [f"target.data.path={write_csv(tmp_path / 'pairs.csv', rows)}", "trainer.accumulate_grad_batches=4"]
    words += ["scratch.max_epochs=12", "scratch.lr=1e-2"]
    together = done(*words, *FSDP, f"output_dir={tmp_path / 'two'}")
    alone = done(*words, f"output_dir={tmp_path / 'one'}")
    assert_alike(together, alone, weights=False)
    assert together["metrics"]["test/chrf"] > 20, "something was written"


def test_the_blocks_of_a_model(tiny_model):
    model = tiny_model("bert")
    assert sharding.blocks(model) == list(model.bert.encoder.layer)
    t5 = tiny_model("t5")
    assert sharding.blocks(t5) == [*t5.transformer.encoder.block, *t5.transformer.decoder.block]


@pytest.mark.parametrize(
    ("family", "says"),
    [("lstm", "with recurrent layers"), ("mean", "without repeated layers"), ("resnet", "with batch norms")],
)
def test_models_that_cannot_be_sharded_are_refused(tiny_model, family, says):
    with pytest.raises(UserError, match=says):
        sharding.blocks(tiny_model(family))


@pytest.mark.parametrize(("rows", "number"), [(5, 4), (4, 4), (3, 4), (1, 2), (6, 1)])
def test_each_process_has_as_many_parts(rows, number):
    batch = {"index": torch.arange(rows), "inputs": {"x": torch.ones(rows, 2)}, "share": torch.ones(rows)}
    parts = memory.equally_many(batch, number)
    assert len(parts) == number
    counted = torch.cat([part["index"][part["share"] > 0] for part in parts])
    assert counted.tolist() == list(range(rows)), "every row counts once"
