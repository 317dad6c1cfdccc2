"""Words -> functions. Nothing heavy is imported here: `--help`, `list` and `runs` answer at once."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer import arguments as arguments_of
from transfer import interruption
from transfer.errors import Problem, SweepFailedError, UserError
from transfer.records import without_collector

if TYPE_CHECKING:
    from transfer.config import Config
    from transfer.records import Record
    from transfer.study.results import Comparison

FAILURE = 1
USER_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `transfer` and `python -m transfer`. Exit codes: 0, 1 (a failure), 2 (the user's mistake), 130."""
    # torch's threads spin while they wait for each other, by default so long that beside any other process they spin
    # for a thread that is not running. Steps a second of MiniLM on two cores, alone and beside a busy process: 5.4
    # and 0.25 by default, 5.2 and 1.5 with 10,000 turns, 4.6 and 2.8 with 1,000.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_guarded(lambda: _dispatch(arguments)))


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        return _run(arguments[1:])
    options = arguments_of.parser().parse_args(arguments_of.settings_first(arguments))
    _split_path(options)
    return COMMANDS[options.command](options)


def _split_path(options: argparse.Namespace) -> None:
    """`outputs/NAME`, as a shell completes it, is the experiment NAME in `--output-dir outputs`."""
    given = Path(getattr(options, "experiment", None) or "")
    if "output_dir" in options and len(given.parts) > 1:
        options.output_dir, options.experiment = str(given.parent), given.name


def _guarded(act: Callable[[], int]) -> int:
    try:
        return act()
    except UserError as error:
        print(_message(error), file=sys.stderr)
        return USER_ERROR
    except SweepFailedError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt as stop:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        if isinstance(stop, interruption.Interrupted):
            interruption.requeue(stop.signum)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) went away: nothing more to say, and nothing to complain of at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _message(error: UserError) -> str:
    count = len(error.problems)
    head = "1 problem" if count == 1 else f"{count} problems"
    return f"transfer: {head}\n\n{error}"


def _run(arguments: list[str]) -> int:
    from transfer import compose, nodes, wandb_environment

    _log_to_stderr()
    nodes.require_one_process()
    if "--estimate" in arguments:
        return _estimate([argument for argument in arguments if argument != "--estimate"])
    wandb_environment.require_one_run(arguments)
    with interruption.listen():
        compose.app(arguments, _job)
    return 0


def _estimate(arguments: list[str]) -> int:
    from transfer import compose, estimate_table

    estimate_table.print_table(compose.ahead(arguments))
    return 0


def _job(config: Config, wait: bool) -> float | str | None:
    """One run; its value for a sweeper is the best validation metric."""
    from transfer.listing import one_line
    from transfer.run import BusyError, run
    from transfer.sweep.ledger import BUSY

    _log_to_stderr()  # a launcher may have started this process
    try:
        record = run(config, wait=wait)
    except BusyError:
        return BUSY
    print(one_line(record), flush=True)
    best: float | None = record["monitor"]["best"]
    return best


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("transfer")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _list(options: argparse.Namespace) -> int:
    from transfer.listing import print_experiments

    print_experiments(options.output_dir)
    return 0


def _runs(options: argparse.Namespace) -> int:
    from transfer.listing import print_runs, print_sweep

    if options.sweep:
        print_sweep(options.output_dir, options.sweep)
        return 0
    wanted = {
        name: getattr(options, name) for name in ("stage", "arm", "status", "freezing", "model", "seed", "train_size")
    }
    print_runs(options.output_dir, options.experiment, wanted, limit=options.num, as_json=options.json)
    return 0


def _show(options: argparse.Namespace) -> int:
    from transfer.listing import print_record

    print_record(options.output_dir, options.run, as_json=options.json, reproduce=options.reproduce)
    return 0


def _rerun(options: argparse.Namespace) -> int:
    from transfer.rerun import rerun

    _log_to_stderr()
    return 0 if rerun(options.output_dir, options.run, options.overrides) else FAILURE


@without_collector()
def _compare(options: argparse.Namespace) -> int:
    # Before numpy is imported: its threads share out products so small that they mostly wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from rich.console import Console

    from transfer.listing import require_records
    from transfer.paths import require_writable
    from transfer.study import report
    from transfer.study.compare import compare
    from transfer.study.predictions import keep

    found = require_records(options.output_dir, options.experiment)
    comparison = compare(found, baseline=options.baseline, metric=options.metric)
    folder = Path(options.to) if options.to else Path(options.output_dir) / options.experiment
    require_writable(folder, key="--to")
    written = report.write_all(comparison, folder)
    keep(comparison.predictions())
    report.print_table(comparison, Console() if sys.stdout.isatty() else Console(width=110))
    print(f"\nPage     {written[0]}\nText     {written[1]}\nand {len(written) - 2} pictures and tables beside them")
    if options.wandb is not False:
        _log_study(options, comparison, found, written)
    return 0


def _log_study(options: argparse.Namespace, comparison: Comparison, found: list[Record], written: list[Path]) -> None:
    from transfer import tracking_study
    from transfer.config import Logger

    settings = tracking_study.logger_of(found) or (Logger() if options.wandb else None)
    if settings is not None:
        folder = Path(options.output_dir) / options.experiment
        print(f"W&B      {tracking_study.log_study(comparison, options.experiment, written, folder, settings)}")


def _rank(options: argparse.Namespace) -> int:
    from transfer.choose import rank_table
    from transfer.choose.rank import rank

    _log_to_stderr()
    ranking = rank(options.experiment, options.overrides, options.sources, options.models, options.output_dir)
    rank_table.print_ranking(ranking, options.overrides)
    return 0


def _auto(options: argparse.Namespace) -> int:
    from transfer.choose import auto_table
    from transfer.choose.auto import auto
    from transfer.progress import quiet

    _log_to_stderr()
    budget = auto_table.budget_of(options.budget, options.runs)
    quiet()
    with interruption.listen():
        search = auto(options.experiment, options.overrides, options.sources, budget, options.output_dir, options.seeds)
    auto_table.print_search(search)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from transfer.predict import predict
    from transfer.records import model_folder

    wrong = [given for given in options.column if "=" not in given]
    if wrong:
        raise UserError(Problem("--column", ", ".join(wrong), "FIELD=NAME, such as text=review", ""))
    _log_to_stderr()
    renamed = dict(given.split("=", 1) for given in options.column)
    folder = model_folder(options.output_dir, options.run)
    formats = {"read_as": options.input_format, "write_as": options.output_format}
    predict(folder, options.input, options.output, renamed=renamed, **formats)
    return 0


def _export(options: argparse.Namespace) -> int:
    from transfer.export import export
    from transfer.records import one_run

    _log_to_stderr()
    record = one_run(options.output_dir, options.run)
    for line in export(record, Path(options.folder), options.output_dir, onnx=options.onnx, adapter=options.adapter):
        print(line)
    print(f"Folder   {options.folder}\nCard     {Path(options.folder) / 'README.md'}")
    return 0


def _prefetch(options: argparse.Namespace) -> int:
    from transfer import compose
    from transfer.prefetch import prefetch

    config = compose.compose([f"experiment={options.experiment}", *options.overrides])
    prefetch(config, lambda line: print(line, flush=True))
    return 0


def _sync(options: argparse.Namespace) -> int:
    from transfer import uploads

    return 0 if uploads.sync(options.output_dir, options.names, dry_run=options.dry_run) else FAILURE


def _workspace(options: argparse.Namespace) -> int:
    from transfer import tracking_workspace
    from transfer.listing import require_records

    found = require_records(options.output_dir, options.experiment)
    folder = Path(options.output_dir) / options.experiment
    print(tracking_workspace.save(found, options.experiment, folder))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from transfer.doctor import print_findings

    return print_findings(options.output_dir)


def _completion(options: argparse.Namespace) -> int:
    from transfer.completion import script

    print(script(options.shell))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "runs": _runs,
    "show": _show,
    "rerun": _rerun,
    "compare": _compare,
    "rank": _rank,
    "auto": _auto,
    "predict": _predict,
    "export": _export,
    "prefetch": _prefetch,
    "sync": _sync,
    "workspace": _workspace,
    "doctor": _doctor,
    "completion": _completion,
}
