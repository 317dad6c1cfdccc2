"""`transfer export`: a run's model as a folder that Hugging Face's libraries open, with a card that says what it is."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transfer import adapter_export, methods, records
from transfer.errors import Problem, UserError
from transfer.paths import require_writable
from transfer.records import Record

log = logging.getLogger(__name__)

# Texts of the run's own test split by which the exported folder is checked.
CHECKED = 16
ONNX_TOLERANCE = 1e-3
# Architectures that transformers does not know by itself.
OWN = ("recurrent", "linear")


def export(record: Record, folder: Path, output_dir: str, *, onnx: bool, adapter: bool = False) -> list[str]:
    """Write the folder; what was checked of it, a line each.

    Args:
        adapter: the adapter alone, in peft's format, in place of the model that it has become part of.

    Raises:
        UserError: the folder holds something else, the weights are gone, there is no adapter, or the model cannot
            become ONNX.
    """
    weights = Path(record["_folder"]) / "model"
    if not (weights / "config.json").is_file():
        raise UserError(Problem("RUN", str(weights), "a run that still has its weights", "force=true trains it again"))
    if folder.exists() and any(folder.iterdir()) and not (folder / "transfer.json").is_file():
        raise UserError(Problem("FOLDER", str(folder), "an empty folder, or an earlier export", "name another one"))
    if adapter:
        adapter_export.require(record, onnx=onnx)
        return adapter_export.export(record, folder, _card(record, output_dir, adapter=True))
    require_writable(folder, key="FOLDER")
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    (folder / "README.md").write_text(_card(record, output_dir), encoding="utf-8")
    done = _check_pipeline(record, folder)
    if onnx:
        from transfer.onnx_export import export_onnx

        done.append(export_onnx(folder, ONNX_TOLERANCE))
    return done


def pipeline_task(record: Record) -> str | None:
    """The pipeline of transformers that opens this task's models; none reads numbers."""
    from transfer import tasks
    from transfer.config import Task

    leg = record["config"]["source" if record["stage"] in records.SOURCE_STAGES else "target"]
    return None if leg["data"]["columns"].get("features") else tasks.pipeline(Task(**leg["task"]))


def _check_pipeline(record: Record, folder: Path) -> list[str]:
    """The pipeline has to say of the run's own test texts what the run said."""
    import pyarrow.parquet as pq

    kind = pipeline_task(record)
    file = Path(record["_folder"]) / "predictions.parquet"
    if kind != "text-classification" or not file.is_file() or record["task"] != "sequence_classification":
        return []
    rows = pq.read_table(file).slice(0, CHECKED).to_pylist()
    # Long texts are kept cut, and a pair's second text is not kept at all.
    rows = [row for row in rows if isinstance(row["prediction"], str) and len(row.get("text") or "") in range(1, 300)]
    if not rows or record["config"]["target"]["data"]["columns"].get("text_pair"):
        return []
    import transformers
    from transformers.utils import logging as transformers_logging

    from transfer import models

    models.register()
    transformers_logging.disable_progress_bar()
    make: Any = transformers.pipeline
    opened = make(kind, model=str(folder), device="cpu")
    said = opened([row["text"] for row in rows], truncation=True)
    other = [row["id"] for row, answer in zip(rows, said, strict=True) if answer["label"] != row["prediction"]]
    assert not other, f"the pipeline disagrees with the run on {', '.join(other)}"
    return [f"transformers.pipeline({kind!r}) says what the run said of {len(rows)} test texts"]


def _card(record: Record, output_dir: str, *, adapter: bool = False) -> str:
    from transfer.rerun import command

    kind = pipeline_task(record)
    about = record["config"]["source" if record["stage"] in records.SOURCE_STAGES else "target"]
    data = about["data"].get("name") or about["data"].get("path") or "local files"
    metrics = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    overall = {name.removeprefix("test/"): value for name, value in metrics.items() if name.count("/") == 1}
    library = "peft" if adapter else "transformers"
    head: dict[str, Any] = {"library_name": library, "tags": ["transfer-learning", record["arm"] or "source"]}
    head |= {"pipeline_tag": kind} if kind else {}
    base = record["config"]["model"]["name"]
    head |= {"base_model": base} if base and not base.startswith(("/", ".", "package:")) else {}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {record['experiment']}: {record['arm'] or record['stage']}", ""]
    labels = f", {record['data']['num_train']} labelled examples" if record["data"].get("num_train") else ""
    lines += [f"- Task: {record['task'].replace('_', ' ')}", f"- Data: {data}{labels}, seed {record['seed']}"]
    lines += [f"- Starts from: {_origin(record)}", f"- Freezing: {record['freezing']}"]
    lines += [*([f"- Method: {', '.join(methods.chosen(record))}"] if methods.chosen(record) else []), ""]
    lines += ["| metric (test split) | value |", "|---|---|", *(f"| {n} | {v:.4f} |" for n, v in overall.items()), ""]
    lines += [*_gain(record, output_dir), "## Use", "", "```python"]
    lines += [*(adapter_export.use(record) if adapter else _use(kind, record)), "```", ""]
    lines += ["## Reproduce", "", "```", command(record), "```", "", "## Licence", "", *_licences(record)]
    return "\n".join(lines) + "\n"


def _origin(record: Record) -> str:
    base = record["config"]["model"]["name"] or f"a {record['model']} model built from its config"
    if record["arm"] == "scratch":
        return f"random weights of {base}"
    if record["arm"] == "transfer":
        return f"{base}, trained on {record['source']} first"
    return base


def _gain(record: Record, output_dir: str) -> list[str]:
    """What the experiment's comparison says of this run's arm; nothing where there is no twin."""
    from transfer.study.compare import compare

    if record["arm"] in (None, "scratch"):
        return []
    try:
        comparison = compare(records.find(output_dir, record["experiment"]))
    except UserError:
        return ["No from-scratch twin of this run was found: its gain is not known.", ""]
    lines = [f"- {sentence}" for sentence in comparison.sentences]
    return ["## Gain over training from scratch", "", *lines, ""] if lines else []


def _use(kind: str | None, record: Record) -> list[str]:
    own = not record["config"]["model"]["name"]
    register = ["from transfer.models import register", "register()  # this architecture is the project's own"]
    if kind is None:
        return [*(register if own else []), "# transfer predict FOLDER --input my.csv"]
    given = 'f"... {opened.tokenizer.mask_token} ..."' if kind == "fill-mask" else '"..."'
    return [
        *(register if own else []),
        "from transformers import pipeline",
        f'opened = pipeline("{kind}", model="FOLDER")',
        f"opened({given})",
    ]


def _licences(record: Record) -> list[str]:
    found = []
    base = record["config"]["model"]["name"]
    if base:
        found.append(f"- The weights derive from `{base}`: its licence holds for them too.")
    for leg in ("source", "target"):
        name = record[leg]
        if name and (leg == "target" or record["arm"] == "transfer"):
            found.append(f"- They were trained on `{name}`: see the terms of these data.")
    return found or ["- The weights were trained from random values; see the terms of the data."]
