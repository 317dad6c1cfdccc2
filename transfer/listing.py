"""What `list`, `runs` and `show` print: named experiments and records, as they lie on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transfer import methods, records
from transfer.errors import Problem, UserError
from transfer.paths import search_folders
from transfer.records import Record


def experiments() -> dict[str, Path]:
    """Name -> file of every named experiment; the user's own come before the shipped ones."""
    found: dict[str, Path] = {}
    for folder in search_folders("experiments"):
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def question(file: Path) -> str:
    """The question an experiment asks: the first line of its header."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("#").strip()
        if line.startswith("#") and text and not text.startswith("@package"):
            return text
    return ""


def primary(record: Record) -> tuple[str, float | None]:
    """The test metric by which a run is spoken of."""
    name = record["monitor"]["name"].replace("val/", "test/", 1)
    return name, record["metrics"].get(name)


def one_line(record: Record) -> str:
    """A finished run in one line."""
    name, value = primary(record)
    if not records.tested(record):
        name, value = record["monitor"]["name"], record["monitor"]["best"]
    what = record["arm"] or record["stage"]
    size = f" n={record['train_size']}" if record["train_size"] else ""
    if record["data"].get("fold") is not None:
        size = f" fold={record['data']['fold']}{size}"
    number = "none" if value is None else f"{value:.4f}"
    return (
        f"{what:9} seed={record['seed']}{size}  {name} {number}  {record['time']['wall_s']:.0f} s  {record['_folder']}"
    )


def console() -> Any:
    from rich.console import Console

    # In a pipe there is no width to fit: cut columns would be lost to the program that reads them.
    return Console() if sys.stdout.isatty() else Console(width=200)


def print_experiments(output_dir: str) -> None:
    """A table of the named experiments with how many records each has."""
    from rich.table import Table

    counts: dict[str, dict[str, int]] = {}
    for path in Path(output_dir).glob(f"*/*/{records.RECORD}"):
        kind = path.parent.name.partition("-")[0]
        counts.setdefault(path.parent.parent.name, {}).setdefault(kind, 0)
        counts[path.parent.parent.name][kind] += 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("experiment", "question", "records"):
        table.add_column(column, no_wrap=column == "experiment")
    named = experiments()
    for name, file in named.items():
        table.add_row(name, question(file), _counted(counts.pop(name, {})))
    for name, found in sorted(counts.items()):
        table.add_row(name, "(not a named experiment)", _counted(found))
    out = console()
    out.print(table)
    if sys.stdout.isatty():
        out.print(f"\nNext: [bold]transfer run experiment={next(iter(named), 'NAME')}[/bold]", highlight=False)


def _counted(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in sorted(found.items())) or "none yet"


def require_records(output_dir: str, experiment: str) -> list[Record]:
    """The records of one experiment.

    Raises:
        UserError: there are none.
    """
    found = records.find(output_dir, experiment)
    if not found:
        have = sorted({path.parent.parent.name for path in Path(output_dir).glob(f"*/*/{records.RECORD}")})
        allowed = ", ".join(have) or f"no records in {output_dir} yet"
        action = f"transfer run -m experiment={experiment} arm=transfer,direct,scratch seed=0,1,2"
        raise UserError(Problem("experiment", experiment, allowed, action))
    return found


def print_runs(output_dir: str, experiment: str | None, wanted: dict[str, Any], *, limit: int, as_json: bool) -> None:
    """Records as a table, newest first, filtered by equal fields.

    Raises:
        UserError: no records of this experiment.
    """
    found = require_records(output_dir, experiment) if experiment else records.find(output_dir)
    chosen = [
        record for record in found if all(value is None or record[name] == value for name, value in wanted.items())
    ]
    shown = chosen[:limit] if limit else chosen
    if as_json:
        for record in shown:
            print(json.dumps(record))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    folded = any(record["data"].get("fold") is not None for record in shown)
    head = ["run", "experiment", "arm", "status", "seed", *["fold"] * folded, "n", "freezing", "metric", "test", "time"]
    for column in (*head, "started"):
        table.add_column(
            column,
            no_wrap=column in ("run", "started"),
            justify="right" if column in ("seed", "fold", "n", "test", "time") else "left",
        )
    for record in shown:
        name, value = primary(record)
        table.add_row(
            Path(record["_folder"]).name,
            record["experiment"],
            record["arm"] or "(source)",
            record["status"],
            str(record["seed"]),
            *[str(record["data"].get("fold", ""))] * folded,
            str(record["data"].get("num_train") or ""),
            ", ".join([record["freezing"], *methods.chosen(record)]),
            name.removeprefix("test/"),
            "" if value is None else f"{value:.4f}",
            f"{record['time']['wall_s']:.0f} s",
            record["time"]["started"][:16].replace("T", " "),
        )
    console().print(table)
    if len(shown) < len(chosen):
        print(f"{len(shown)} of {len(chosen)} records; -n 0 shows all")


def print_record(output_dir: str, reference: str, *, as_json: bool, reproduce: bool) -> None:
    """One record.

    Raises:
        UserError: no record, or several, go by this name.
    """
    found = records.lookup(output_dir, reference)
    if len(found) != 1:
        received = f"{reference} ({len(found)} records)"
        raise UserError(
            Problem(
                "RUN",
                received,
                "a run id, at least 4 characters of it, or a run's folder",
                "`transfer runs` lists them",
            )
        )
    record = found[0]
    if reproduce:
        from transfer.rerun import command

        print(command(record))
        return
    if as_json:
        print(json.dumps(record, indent=1))
        return
    from rich.table import Table

    out = console()
    out.print(f"[bold]{Path(record['_folder']).name}[/bold]  {record['status']}  {record['_folder']}", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(record).items():
        table.add_row(f"[dim]{name}[/dim]", value)
    out.print(table, highlight=False)
    metrics = Table(box=None, pad_edge=False, header_style="bold")
    metrics.add_column("metric")
    metrics.add_column("value", justify="right")
    for name, value in sorted(record["metrics"].items()):
        metrics.add_row(name, "none" if value is None else f"{value:.4f}")
    out.print()
    out.print(metrics)


def _facts(record: Record) -> dict[str, str]:
    weights, parameters, data, time = record["weights"], record["parameters"], record["data"], record["time"]
    arm = record["arm"] or "none"
    counted = {name: len(weights[name]) for name in ("loaded", "reinitialised", "dropped")}
    tensors = ", ".join(f"{count} {name}" for name, count in counted.items())
    splits = f"train {data['num_train'] or 'a stream'}, validation {data['num_val']}, test {data['num_test']}"
    speed = f"{record['throughput']['examples_per_s']:.0f} examples/s"
    if padding := record["throughput"].get("padding_fraction"):
        speed += f", {padding:.1%} of the tokens are padding"
    changes = ", with changes" if record["git"]["dirty"] else ""
    fold = f", fold {data['fold']} of folds={data['folds']}" if "fold" in data else ""
    further = [
        f"{name}: {about['data']} ({about['task']}), train {about['num_train']}, validation {about['num_val']}, "
        f"test {about['num_test']}; {about['share_of_batches']:.0%} of the batches; {about['head']}"
        for name, about in record.get("also", {}).items()
    ]
    return {
        "experiment": f"{record['experiment']}, stage {record['stage']}, arm {arm}, seed {record['seed']}{fold}",
        "model": f"{record['model']}, {parameters['trainable']:,} of {parameters['total']:,} parameters train",
        "freezing": ", ".join([record["freezing"], *methods.chosen(record)]),
        "data": f"{record['source'] or 'no source'} -> {record['target']}; {splits}; subset {data['subset_hash']}",
        **({"also": "\n".join(further)} if further else {}),
        "weights": f"{tensors}; {weights['fraction_loaded']:.1%} of the backbone",
        "parents": ", ".join(parent["run_id"] for parent in record["parents"]) or "none",
        "time": f"{time['wall_s']:.1f} s in all, {time['train_s']:.1f} s of training, {speed}",
        "computed": _computed(record["throughput"], record.get("memory") or {}),
        "hardware": f"{record['hardware'].get('device')}, {record['hardware'].get('precision')}",
        "code": f"commit {record['git']['commit']}{changes}",
    }


def _computed(throughput: dict[str, Any], memory: dict[str, Any]) -> str:
    """Operations and memory; what a record from before they were counted has not is left out."""
    said = []
    if throughput.get("train_flops"):
        said.append(f"{throughput['train_flops'] / 1e12:,.3g} TFLOP in training steps")
        said.append(f"{throughput['flops_per_s'] / 1e9:,.3g} GFLOP/s")
    if throughput.get("model_flops_utilisation"):
        peak = throughput["matrix_peak_flops_per_s"] / 1e9
        said[-1] += f", {throughput['model_flops_utilisation']:.1%} of the {peak:,.4g} of the matrix peak"
    parts = {"peak_rss_bytes": "of main memory", "peak_gpu_bytes": "on a GPU"}
    said += [f"at most {memory[name] / 1e9:,.2f} GB {where}" for name, where in parts.items() if memory.get(name)]
    return "; ".join(said) or "not counted"


def print_sweep(output_dir: str, name: str) -> None:
    """The ledger of a sweep: each job, its overrides, its state, its test metric; then what else begins like its name.

    Raises:
        UserError: no sweep of this name.
    """
    from rich.table import Table

    from transfer.sweep import ledger as ledgers

    ledger = ledgers.read(output_dir, name)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "status", "overrides", "run", "test", "error"):
        table.add_column(column, no_wrap=column in ("job", "status", "run"))
    for job in ledger.jobs:
        record = ledger.record(job)
        value = primary(record)[1] if record else None
        run = records.run_name(job.stage, job.fingerprint) if job.fingerprint else ""
        error = "" if ledger.status(job) == "complete" else " ".join(ledger.error(job).split())[:200]
        shown = "" if value is None else f"{value:.4f}"
        table.add_row(str(job.number), ledger.status(job), " ".join(job.overrides), run, shown, error)
    out = console()
    command = " ".join(ledger.overrides)
    out.print(f"[bold]{ledger.name}[/bold]  started {ledger.started}  {command}", highlight=False)
    out.print(table)
    out.print(", ".join(f"{count} {status}" for status, count in sorted(ledger.counts().items())))
    others = [each for each in ledgers.names(output_dir) if each.startswith(name) and each != ledger.name]
    if others and name != ledger.name:
        out.print(f"Earlier: {', '.join(others)}", highlight=False)
