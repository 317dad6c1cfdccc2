"""Training rows that are read as they are trained on: the same batches, whoever reads them and wherever one begins."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset

from tests.running import QUICK, TINY_BERT, cli, record_of, run, start
from transfer import config, tasks
from transfer.checkpoints import LAST
from transfer.compose import compose
from transfer.data import files, streaming
from transfer.data.streamed_batches import NumberedBatches, StreamedBatches, StreamedData
from transfer.data.streaming import Stream
from transfer.errors import UserError
from transfer.models.word_vectors import build_tokenizer
from transfer.validation import validate

KEY = "source.data"
ROWS: list[dict[str, Any]] = [
    {"text": f"number {n} " + "word " * (n % 9), "label": ["yes", "no", "no", None][n % 16 % 5 % 4]} for n in range(300)
]
LABELLED = [number for number, row in enumerate(ROWS, start=1) if row["label"] is not None]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, kind: str = "single_label", **settings: Any) -> streaming.Splits:
    settings = {"validation_size": 20, "test_size": 30, "shuffle_buffer": 40, "streaming": True} | settings
    data = config.Data(files=config.Files(train=str(path)), **settings)
    return streaming.load(data, key=KEY, data_seed=0, problem_type=kind, folder=path.parent / "rows")


@pytest.fixture
def stream(tmp_path: Path) -> Any:
    return load(jsonl(tmp_path / "my.jsonl", ROWS)).train


def test_the_first_rows_are_validation_and_test(tmp_path: Path) -> None:
    splits = load(jsonl(tmp_path / "my.jsonl", ROWS))
    assert splits.validation["text"][:] == [ROWS[number - 1]["text"] for number in LABELLED if number <= 20]
    assert splits.test["text"][:] == [ROWS[number - 1]["text"] for number in LABELLED if 20 < number <= 50]
    assert splits.labels == ["no", "yes"]
    others = jsonl(tmp_path / "other.jsonl", ROWS[:16])
    data = config.Data(files=config.Files(str(tmp_path / "my.jsonl"), str(others), str(others)), streaming=True)
    given = streaming.load(data, key=KEY, data_seed=0, problem_type="single_label", folder=tmp_path)
    assert given.validation["text"][:] == [row["text"] for row in ROWS[:16] if row["label"]]
    assert any("rows of validation (100 %) are also in train" in note for note in given.notes)


def test_every_time_all_rows_in_another_order(stream: Stream) -> None:
    expected = [number for number in LABELLED if number > 50]
    times = [[row["number"] for row in stream.shuffled(7, time)] for time in (0, 1, 2, 0)]
    assert all(sorted(numbers) == expected for numbers in times)
    assert times[0] == times[3]
    assert expected not in times
    assert len({tuple(numbers) for numbers in times}) == 3
    assert [row["number"] for row in stream.shuffled(8, 0)] != times[0], "another seed"


def loader(stream: Stream, *, rank: int = 0, ranks: int = 1, workers: int = 0, options: Any = None) -> Any:
    """Of `StreamedData`, in epochs of 10 batches of 8 rows."""
    name = "masked_lm" if options is not None else "sequence_classification"
    monitor = ("perplexity", "min") if options is not None else ("accuracy", "max")
    settings = config.Task(name=name, options=options or {}, monitor=monitor[0], mode=monitor[1])
    task = tasks.make(settings, ["no", "yes"] if options is None else [], key="source.task")
    texts = [row["text"] for row in ROWS]
    tokenizer = build_tokenizer(
        texts, max_size=999, min_count=1, lowercase=True, max_length=64, special_tokens={"mask_token": "[MASK]"}
    )
    data = StreamedData(stream, 10, {}, {}, task, tokenizer, batch_size=8, seed=1, max_length=64, num_workers=workers)
    data._ranks = lambda: (rank, ranks)  # type: ignore[method-assign]
    return data.train_dataloader()


def read(loader: Any, epochs: list[int]) -> list[Any]:
    found = []
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        found += [(batch["inputs"]["input_ids"], batch["index"], batch["share"]) for batch in loader]
    return found


def equal(ours: list[Any], theirs: list[Any]) -> bool:
    """Some batches, and the same ones."""
    assert len(ours) == len(theirs) > 0
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(mine, yours) for pair in pairs for mine, yours in zip(*pair, strict=True))


def test_epochs_go_on_in_the_stream(stream: Stream) -> None:
    """Of 30 batches the first 26 are all rows once (201 are labelled and left), the next begin anew."""
    batches = read(loader(stream), [0, 1, 2])
    size = sum(number > 50 for number in LABELLED)
    per_time = -(-size // 8)
    assert 20 < per_time < 30
    seen = [int(number) for _, index, _ in batches[:per_time] for number in index]
    assert sorted(seen) == [number for number in LABELLED if number > 50]
    again = [int(number) for _, index, _ in batches[per_time:] for number in index]
    assert max(Counter(again).values()) == 1
    assert again != seen[: len(again)]
    assert all(len(index) == 8 for place, (_, index, _) in enumerate(batches) if place != per_time - 1)


def test_rows_of_similar_length_stand_together(stream: Stream) -> None:
    batches = read(loader(stream), [0, 1])
    spread = [int(ids.shape[1] - (ids != 0).sum(1).min()) for ids, _, _ in batches]
    assert sum(spread) / len(spread) < 3, "of lengths from 2 to 10"


@pytest.mark.parametrize("options", [None, {}, {"block_size": 16}], ids=["classes", "masked", "blocks"])
def test_ranks_share_the_batches_of_one(stream: Stream, options: Any) -> None:
    whole = read(loader(stream, options=options), [0, 1])
    parts = [read(loader(stream, rank=rank, ranks=3, options=options), [0, 1]) for rank in range(3)]
    for place, (ids, index, share) in enumerate(whole):
        own = [part[place] for part in parts]
        joined = torch.zeros(len(index), dtype=index.dtype)
        for rank, (_, numbers, _) in enumerate(own):
            joined[rank::3] = numbers[: len(joined[rank::3])]
        assert torch.equal(joined, index)
        assert sum(float(shares.sum()) for _, _, shares in own) == pytest.approx(3 * float(share.sum()))
        for rank, (theirs, _, shares) in enumerate(own):
            if float(shares.sum()):
                width = min(theirs.shape[1], ids.shape[1])
                assert torch.equal(theirs[:, :width], ids[rank::3, :width]), "the same tokens are hidden"


def test_several_workers_give_the_batches_of_none(stream: Stream) -> None:
    assert equal(read(loader(stream, workers=2), [0, 1]), read(loader(stream), [0, 1]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [3, 10])
def test_resumed_at_the_very_batch(stream: Stream, given: int, workers: int) -> None:
    whole = read(loader(stream), [0, 1, 2])
    first = loader(stream, workers=workers)
    first.batch_sampler.set_epoch(1)
    batches = iter(first)
    for _ in range(given):
        next(batches)
    later = loader(stream, workers=workers)
    later.load_state_dict(first.state_dict())
    if given < 10:
        rest = [(batch["inputs"]["input_ids"], batch["index"], batch["share"]) for batch in later]
        assert equal(rest, whole[10 + given : 20])
    assert equal(read(later, [2]), whole[20:])


def test_a_process_that_was_forked_reads_for_itself(stream: Stream) -> None:
    batches: Any = loader(stream).dataset
    assert isinstance(batches, StreamedBatches)
    expected = [[row["index"] for row in batches[number]] for number in range(6)]
    batches.process = -1  # as after a fork: the place in the file is not its own
    assert [row["index"] for row in batches[4]] == expected[4]
    assert [row["index"] for row in batches[2]] == expected[2], "back to an earlier one"
    assert list(NumberedBatches(3)) == [[0], [1], [2]]


def test_a_hub_set_streams_with_its_class_names(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": [f"t{n}" for n in range(40)], "label": [n % 2 for n in range(40)]}, features)
    loaded: Any = {"train": rows.to_iterable_dataset(num_shards=2), "dev": rows.to_iterable_dataset()}
    data = config.Data(path="owner/name", streaming=True, shuffle_buffer=10)
    tables, first = streaming._tables_of_hub(loaded, {"validation": 5, "test": 3})
    assert {name: len(table["text"]) for name, table in tables.items()} == {"validation": 5}
    assert first["label"][:3] == ["no", "yes", "no"]
    stream = Stream(streaming._of_hub(loaded, data), data, 3, "single_label", name="owner/name", key=KEY)
    seen = [(row["number"], row["text"], row["label"]) for row in stream.shuffled(0, 1)]
    assert sorted(seen) == [(n + 1, f"t{n}", ["no", "yes"][n % 2]) for n in range(3, 40)]


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ([*ROWS, *ROWS, {"text": 3, "label": "no"}], {}, "row 601 has a text that is no string"),
        ([*ROWS[:60], {"text": 3, "label": "no"}], {}, "row 11 of my.jsonl, after its first 50 rows"),
        ([*ROWS, {"text": "a", "label": "maybe"}], {"labels": ["no", "yes"]}, "row 301 has the label maybe"),
        (ROWS[:40], {}, "not more than 40 rows"),
        (ROWS, {"columns": config.Columns(text="txt")}, "txt, not in my.jsonl"),
        ([{"text": "a", "label": "b"}] * 100, {}, "only b in my.jsonl"),
        ([{"text": "a", "label": "c"}, *ROWS], {"labels": ["no", "yes"]}, "c: in my.jsonl (validation)"),
    ],
)
def test_what_is_wrong_with_the_rows(tmp_path: Path, rows: Any, settings: Any, said: str) -> None:
    with pytest.raises(UserError) as raised:
        list(load(jsonl(tmp_path / "my.jsonl", rows), **settings).train.shuffled(0, 0))  # type: ignore[attr-defined]
    assert said in str(raised.value)


def arguments(path: Path, outputs: Path, steps: int = 24) -> list[str]:
    source = [f"source.data.files.train={path}", "source.data.path=null", "source.data.streaming=true"]
    sizes = ["source.data.validation_size=20", "source.data.test_size=30", "source.data.shuffle_buffer=50"]
    budget = [f"source.budget.max_steps={steps}", "source.budget.max_epochs=3", "source.budget.batch_size=8"]
    return [*QUICK, *TINY_BERT, "data@source.data=csv", *source, *sizes, *budget, f"output_dir={outputs}"]


def test_a_run_on_a_stream_and_one_from_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "my.jsonl", ROWS)
    common = arguments(path, tmp_path / "outputs")
    record = run("stage=pretrain", "task@source.task=masked_lm", *common)
    assert record["data"]["num_train"] is None
    assert record["metrics"]["num_steps"] in (8, 16, 24), "validated after each of three epochs"
    target = [row for row in ROWS if row["label"]][-60:]
    jsonl(tmp_path / "target.jsonl", target)
    settings = ["task@source.task=masked_lm", "data@target.data=csv", f"target.data.path={tmp_path / 'target.jsonl'}"]
    outcome = cli("run", *settings, *common)
    assert outcome.code == 0, outcome.err
    assert "(100 %) are also in the source's training split" in outcome.err
    assert record_of(outcome.out)["parents"][0]["fingerprint"] == record["fingerprint"], "trained once"


@pytest.mark.cluster
def test_killed_it_goes_on_at_the_very_example(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "my.jsonl", ROWS)
    steady = ["stage=pretrain", "trainer.checkpoint_every_s=0", "trainer.num_workers=0"]
    whole = run(*steady, *arguments(path, tmp_path / "whole", steps=90))
    command = [*steady, *arguments(path, tmp_path / "killed", steps=90)]
    process = start("run", *command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (found := list((tmp_path / "killed").glob(f"*/*/{LAST}"))) or not _step(found[0]) > 35:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert _step(found[0]) < 90
    outcome = cli("run", *command)
    assert "going on from" in outcome.err
    resumed = record_of(outcome.out)
    assert resumed["metrics"] == whole["metrics"]
    ours, theirs = (Path(record["_folder"]) / "model" / "model.safetensors" for record in (resumed, whole))
    assert ours.read_bytes() == theirs.read_bytes()


def _step(path: Path) -> int:
    try:
        return int(torch.load(path, weights_only=False)["global_step"])
    except (OSError, EOFError, RuntimeError):  # just replaced
        return 0


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("source.budget.max_steps=null", "source.budget.max_steps"),
        ("source.data.train_size=10", "source.data.train_size"),
        ("task@source.task=regression", "source.task.name"),
        ("source.task.class_weights=balanced", "source.task.class_weights"),
        ("source.data.columns.tokens=words", "source.data.columns.tokens"),
        ("source.data.shuffle_buffer=0", "source.data.shuffle_buffer"),
        ("source.budget.tokens_per_batch=4096", "source.budget.tokens_per_batch"),
        ("target.data.streaming=true", "target.data.streaming"),
    ],
)
def test_what_does_not_go_with_a_stream(tmp_path: Path, setting: str, key: str) -> None:
    settings = compose(["stage=pretrain", *arguments(tmp_path / "my.jsonl", tmp_path), setting])
    with pytest.raises(UserError) as raised:
        validate(settings)
    assert [problem.key for problem in raised.value.problems] == [key]


def test_an_identity_has_the_buffer_of_a_stream_alone(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "my.jsonl", ROWS)
    data = config.Data(path=str(path))
    plain = files.fingerprint(data, key=KEY)
    assert files.fingerprint(replace(data, shuffle_buffer=5), key=KEY) == plain
    streamed = {files.fingerprint(replace(data, streaming=True, shuffle_buffer=size), key=KEY) for size in (5, 6)}
    assert len(streamed | {plain}) == 3
