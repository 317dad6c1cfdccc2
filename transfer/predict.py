"""`transfer predict`: a run's answers to the rows of a file or a pipe, in their order and with constant memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset

from transfer import models, tasks
from transfer.config import Columns, Task
from transfer.data import columns, images, sources
from transfer.data.formats import Table
from transfer.errors import Problem, UserError
from transfer.module import gather
from transfer.progress import bar, quiet
from transfer.row_files import Writer, read_rows

log = logging.getLogger(__name__)

# Beside the weights: what they answer, and to what.
ABOUT = "transfer.json"
# Rows that are read, sorted by length, answered and written together.
CHUNK = 1024
BATCH = 32
ADDED = ("prediction", "score")


@dataclass
class Predictor:
    """A trained model with its task, as a run or an export leaves it in a folder."""

    model: Any
    tokenizer: Any
    task: Any
    columns: Columns
    max_length: int

    def __post_init__(self) -> None:
        self.task.tokenizer = self.tokenizer

    @torch.inference_mode()
    def predict(self, rows: Dataset) -> tuple[list[Any], list[float | None]]:
        """Predictions and scores for rows with the canonical columns, in their order."""
        encoded_columns = self.task.encode({**rows[:], "row": list(range(len(rows)))}, self.tokenizer, self.max_length)
        encoded = Dataset.from_dict(encoded_columns)
        order = sorted(range(len(encoded)), key=lambda i: -encoded_columns["length"][i])
        answers = []
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            batch = self.task.collate([{**encoded[i], "index": i} for i in chosen], self.tokenizer)
            batch = _moved(batch, self.model.device)
            outputs = self.model(**batch["inputs"])
            answers.append((batch["index"].cpu(), self.task.answers(self.model, outputs, batch)))
        predicted = self.task.predict(gather(answers, 1)[1], encoded, rows)
        return predicted.values, predicted.scores


def describe(folder: Path, task: Any, about: Columns, max_length: int) -> None:
    """Leave beside the weights what a prediction needs to know."""
    known = {
        "task": asdict(task.task),
        "labels": task.labels,
        "columns": asdict(about),
        "max_length": max_length,
    }
    (folder / ABOUT).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def has_answers(folder: Path) -> bool:
    """Whether there is a model with answers of its own; a start that was learned from episodes has none."""
    return (folder / ABOUT).is_file() and "meta" not in json.loads((folder / ABOUT).read_text(encoding="utf-8"))


def load(folder: Path) -> Predictor:
    """The predictor in a model folder.

    Raises:
        UserError: it holds no model of this project, or its weights cannot be read.
    """
    if not (folder / ABOUT).is_file():
        allowed = f"a run with its weights, or an exported folder ({ABOUT} beside the weights)"
        raise UserError(Problem("RUN", str(folder), allowed, "`transfer runs` lists the runs"))
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if "meta" in about:
        allowed = "a run that was trained on classes of its own: this is a start, learned from episodes"
        raise UserError(Problem("RUN", f"{folder} ({about['meta']})", allowed, "fine-tune it: stage=finetune"))
    task = tasks.make(Task(**about["task"]), about["labels"], key="task")
    named = Columns(**about["columns"])
    models.register()
    try:
        model = getattr(transformers, task.auto_class).from_pretrained(folder, dtype=torch.float32)
        tokenizer = None if named.features else task.load_tokenizer(folder)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(Problem("RUN", str(folder), "weights that can be read", reason)) from error
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Predictor(model, tokenizer, task, named, about["max_length"])


def predict(
    folder: Path, source: str, target: str, *, renamed: dict[str, str], read_as: str | None, write_as: str | None
) -> int:
    """Answer every row of `source` (a file, or - for the standard input) into `target`; how many there were.

    Args:
        renamed: canonical field -> the column that has it in this file, where it is not called as in training.
        read_as: the format of the input, where its name does not say it; `write_as` that of the output.

    Raises:
        UserError: files or columns that are not there, rows that cannot be read. What was written before stays.
    """
    quiet()
    predictor = load(folder)
    named = _renamed(predictor.columns, renamed)
    folder = Path() if source == "-" else Path(source).parent
    total = 0
    with Writer(target, write_as) as writer, bar("predicting") as advance:
        for table in read_rows(source, read_as, CHUNK):
            size = len(next(iter(table.values())))
            taken = [name for name in ADDED if name in table]
            if taken:
                action = f"rename {', '.join(taken)} in the input: these columns are added"
                raise UserError(Problem("--input", ", ".join(table), f"no column called {' or '.join(ADDED)}", action))
            name = f"{source} (from row {total + 1} on)"
            if named.image in table:
                # Names of files are those beside the input; encoded images fit into no line of text.
                files = table[named.image]
                table[named.image] = list(images.encoded(files, named.image, name, "--input", folder=folder))
            rows = _rows(table, named, predictor.task, name)
            if named.image in table:
                table = _without_bytes(table, named.image, files)
            values, scores = predictor.predict(rows)
            added: Table = {"prediction": list(values)}
            if any(score is not None for score in scores):
                added["score"] = list(scores)
            writer.write({**table, **added})
            total += size
            advance(size)
    return total


def _without_bytes(table: Table, column: str, given: Sequence[Any]) -> Table:
    """The rows as they go into the output: with the names of the image files, or without images."""
    if all(isinstance(value, str) for value in given):
        return {**table, column: given}
    return {name: values for name, values in table.items() if name != column}


def _renamed(named: Columns, renamed: dict[str, str]) -> Columns:
    fields = [
        name for name, value in asdict(named).items() if isinstance(value, str) and name not in ("label", "group")
    ]
    unknown = [name for name in renamed if name not in fields]
    if unknown:
        raise UserError([Problem("--column", f"{name}={renamed[name]}", ", ".join(fields), "") for name in unknown])
    changes: dict[str, Any] = {"label": None, "id": None, "group": None, **renamed}
    return replace(named, **changes)


def _rows(table: Table, named: Columns, task: Any, name: str) -> Dataset:
    found = columns.canonical({"train": table}, named, {"train": name}, key="--input", local=False, notes=[])["train"]
    found.labels = [_blank(task, found.inputs, i) for i in range(len(found))]
    return sources.dataset_of(found, task.problem_type)


def _blank(task: Any, inputs: dict[str, Sequence[Any]], row: int) -> Any:
    """A label of the right kind, which nothing of a prediction depends on."""
    if task.problem_type == "tags":
        return [task.labels[0]] * len(inputs["tokens"][row])
    blanks = {"multi_label": [], "regression": 0.0, "spans": [], "none": "", "text": " "}
    return blanks[task.problem_type] if task.problem_type in blanks else task.labels[0]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value
