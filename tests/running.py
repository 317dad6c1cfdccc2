"""Ways to run the program in the tests: in this process, which is cheap, or in one of its own."""

import contextlib
import csv
import io
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.forked import Forked
from transfer import records
from transfer.cli import main
from transfer.compose import compose
from transfer.run import run as execute

GOOD = ["good", "fine", "great", "lovely", "superb"]
BAD = ["bad", "poor", "awful", "dull", "weak"]
FILLER = ["film", "plot", "actor", "scene", "story", "music", "it", "was", "the", "a"]
# In float32 without a tracker: what every run here has in common.
QUICK = ["trainer=cpu", "trainer.precision=32", "logger=none", "floors=false", "scratch.max_epochs=2"]
TINY_BERT = ["model=tiny_bert", "model.config.hidden_size=16", "model.config.intermediate_size=16"]
# Dropout draws other numbers on each rank: without it several processes come to the numbers of one.
NO_DROPOUT = ["model.config.hidden_dropout_prob=0.0", "model.config.attention_probs_dropout_prob=0.0"]
LSTM = ["model=lstm", "model.config.hidden_size=16", "model.config.embedding_size=8"]


@dataclass
class Outcome:
    """What a call of the program came to."""

    code: int
    out: str
    err: str


def cli(*arguments: object) -> Outcome:
    """`transfer ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            return Outcome(int(stop.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main() always exits")


def run(*overrides: object) -> dict:
    """The record of `transfer run OVERRIDES`, quick, without what the command line puts around it."""
    return execute(compose([str(override) for override in (*QUICK, *overrides)]))


def record_of(out: str) -> dict:
    """The record whose folder the last line of a run names."""
    record = records.read(Path(out.split()[-1]))
    assert record is not None, out
    return record


def process(*arguments: object, **options) -> subprocess.CompletedProcess:
    """`transfer ARGUMENTS` in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "transfer", *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


def start(*arguments: object, fresh: bool = False, **options) -> "subprocess.Popen | Forked":
    """`transfer ARGUMENTS` beside this process: forked, or at six times the cost in a fresh interpreter."""
    if not fresh:
        return Forked(arguments, **options)
    command = [sys.executable, "-u", "-m", "transfer", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def write_csv(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def reviews(path: Path, num: int = 60, seed: int = 0) -> Path:
    """Half of the texts have a good word in them, half a bad one."""
    chance = random.Random(seed)
    rows = []
    for i in range(num):
        words = [*chance.choices(FILLER, k=chance.randint(3, 8)), chance.choice(GOOD if i % 2 else BAD)]
        chance.shuffle(words)
        rows.append({"text": " ".join(words), "label": "pos" if i % 2 else "neg"})
    return write_csv(path, rows)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def modules_after(code: str, *arguments: object, **options) -> set[str]:
    """Which of the heavy packages are imported after this code, in a fresh interpreter."""
    ending = "\nimport sys\nprint('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", code + ending, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ}, **options)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert "transfer" in loaded
    return loaded & {"torch", "lightning", "transformers", "datasets", "sklearn", "matplotlib", "wandb", "pandas"}


# Several calls of the program, one an argument, that must end with the exit code given first.
CALLS = """
import sys
from transfer.cli import main
from transfer.compose import compose
from transfer.run import run as execute
for call in sys.argv[2:]:
    try:
        main(call.split())
    except SystemExit as stop:
        assert (stop.code or 0) == int(sys.argv[1]), (call, stop.code)
"""
