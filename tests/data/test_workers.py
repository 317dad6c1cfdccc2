"""Processes that load batches and that tokenize: when there are any, and that they change nothing."""

import os
import time

import pytest
from datasets import Dataset

from transfer import tasks
from transfer.config import Task
from transfer.data import encoding, workers
from transfer.data.workers import WARM_UP, WATCHED, Watch


@pytest.mark.parametrize(
    ("loading_ms", "step_ms", "most", "number"),
    [
        (1, 0.1, 8, 0),  # too little to hand over
        (8, 200, 8, 0),  # a small part of a step
        (8, 60, 8, 1),
        (40, 10, 8, 4),
        (40, 10, 2, 2),
        (40, 10, 1, 0),  # no core to spare
        (40, 0, 8, 8),
    ],
)
def test_processes_load_where_that_takes_long(loading_ms, step_ms, most, number):
    watch = Watch(most=most)
    for i in range(WARM_UP + WATCHED):
        assert not watch.decided
        # The first steps take longer, and now and then one does.
        slow = 50 if i < WARM_UP or i % 7 == 0 else 1
        decided = watch.saw(loading_ms * 1e-3, step_ms * slow * 1e-3)
        assert decided == 0 or i == WARM_UP + WATCHED - 1
    assert decided == number


class Slow:
    """A collate function that a step waits for; says in which process it was called."""

    def __init__(self, collate, seconds):
        self.collate, self.seconds = collate, seconds

    def __call__(self, rows):
        time.sleep(self.seconds)
        return self.collate(rows) | {"process": os.getpid()}


@pytest.mark.parametrize("num_rows", [WARM_UP + WATCHED, WARM_UP + WATCHED + 5])
def test_a_loader_that_takes_processes_in_mid_epoch_gives_the_same(text_data, num_rows, monkeypatch):
    monkeypatch.setattr(workers, "LEAST_S", 0.001)
    data = text_data(num_rows=num_rows, batch_size=1)
    alone = text_data(num_rows=num_rows, batch_size=1)
    data.num_workers, alone.num_workers = None, 0
    own = alone.train_dataloader()
    data.collate = Slow(data.collate, 0.002)
    loader = data.train_dataloader()
    loader.watch = Watch(most=2)
    for epoch in range(2):
        for each in (own, loader):
            each.batch_sampler.set_epoch(epoch)
        found, expected = list(loader), list(own)
        assert [batch["index"].tolist() for batch in found] == [batch["index"].tolist() for batch in expected]
        assert loader.state_dict() == {"epoch": epoch, "given": num_rows}
        others = [i for i, batch in enumerate(found) if batch["process"] != os.getpid()]
        assert others == list(range(0 if epoch else WARM_UP + WATCHED, num_rows))
    assert loader.num_workers == 2


@pytest.mark.parametrize(
    ("num_rows", "cores", "expected"), [(49_999, 4, None), (50_000, 4, 4), (50_000, 64, 8), (50_000, 1, None)]
)
def test_many_texts_are_tokenized_by_several(num_rows, cores, expected, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: cores)
    assert workers.tokenizing(num_rows) == expected


def test_ranks_share_the_cores(monkeypatch):
    monkeypatch.setattr(workers.hardware, "num_cpus", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers.cores() == 2


def test_several_processes_tokenize_to_the_same(tokenizer, tmp_path, monkeypatch):
    """And what one has kept is found by a run that would take several."""
    task = tasks.make(Task(), ["a", "b"], key="target.task")
    texts = [" ".join(f"w{(i * k) % 40}" for k in range(i % 7 + 1)) for i in range(50)]
    rows = Dataset.from_dict({"text": texts, "label": [["a", "b"][i % 2] for i in range(50)]})
    alone = encoding.encode(rows, task, tokenizer, 16, str(tmp_path / "one"))
    monkeypatch.setattr(workers, "TOKENIZED_BY_SEVERAL", 50)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    environment, before = os.environ, dict(os.environ)
    for _ in range(2):
        several = encoding.encode(rows, task, tokenizer, 16, str(tmp_path / "two"))
        assert several[:] == alone[:]
    assert len(list((tmp_path / "two" / "tokens").glob("*.arrow"))) == 2
    again = encoding.encode(rows, task, tokenizer, 16, str(tmp_path / "one"))
    assert again[:] == alone[:]
    assert len(list((tmp_path / "one" / "tokens").glob("*.arrow"))) == 1
    assert os.environ is environment
    assert dict(environment) == before


def test_texts_that_are_joined_are_tokenized_by_one(tokenizer, tmp_path, monkeypatch):
    """Where the texts are cut for each process, blocks would be cut as well, and differ with the number of cores."""
    monkeypatch.setattr(workers, "TOKENIZED_BY_SEVERAL", 1)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    settings = Task(name="causal_lm", monitor="perplexity", mode="min", options={"block_size": 4})
    task = tasks.make(settings, [], key="target.task")
    rows = Dataset.from_dict({"text": ["w1 w2 w3"] * 5, "label": [""] * 5})
    made = encoding.encode(rows, task, tokenizer, 16, str(tmp_path), training=True)
    assert made["length"][:] == [4] * 6, "25 tokens in blocks of 4"
    assert len(list((tmp_path / "tokens").glob("*.arrow"))) == 1
