"""Words -> functions. Nothing heavy is imported here: `--help`, `list` and `runs` answer at once."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer import __version__, interruption
from transfer.errors import Problem, SweepFailedError, UserError
from transfer.records import without_collector

if TYPE_CHECKING:
    from transfer.config import Config
    from transfer.records import Record
    from transfer.study.results import Comparison

FAILURE = 1
USER_ERROR = 2
INTERRUPTED = 130

DESCRIPTION = """\
Does transfer help here, from which source, and how sure is that?

  transfer list                                    the named experiments and the question each asks
  transfer run experiment=NAME arm=transfer        one run: a source, then its target
  transfer run -m experiment=NAME arm=transfer,direct,scratch seed=0,1
                                                   all combinations: each transfer with its from-scratch twin
  transfer compare NAME                            the answer, with its uncertainty, as table, picture and page
"""


PREDICT = """\
Every row of the input comes out in its place, with a prediction and, where there is one, its score.
A pipe whose first line begins with { is read as JSON lines, any other as one text a line.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="transfer", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"transfer {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # `run` never gets here: its arguments are Hydra's. It is listed so that it is seen.
    commands.add_parser("run", help="train one run or, with -m, a sweep (a Hydra app: `transfer run --help`)")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--output-dir", default="outputs", metavar="FOLDER", help="where the records are (default: outputs)"
    )

    listing = commands.add_parser(
        "list", parents=[output], help="named experiments, the question each asks, its records"
    )
    listing.set_defaults(do=_list)
    runs = commands.add_parser("runs", parents=[output], help="records, newest first")
    runs.add_argument("experiment", nargs="?", help="only of this experiment")
    for name in ("stage", "arm", "status", "freezing", "model"):
        runs.add_argument(f"--{name}", help=f"only with this {name}")
    runs.add_argument("--seed", type=int, help="only with this seed")
    runs.add_argument("--train-size", type=int, help="only with this label budget")
    runs.add_argument("--sweep", metavar="NAME", help="the jobs of a sweep, with what became of each")
    runs.add_argument("-n", "--num", type=int, default=30, help="at most so many (default: 30; 0: all)")
    runs.add_argument("--json", action="store_true", help="the records as JSON lines, for other programs")
    runs.set_defaults(do=_runs)
    show = commands.add_parser("show", parents=[output], help="one record: metrics, weights, data, config")
    show.add_argument("run", metavar="RUN", help="a run id, the start of a fingerprint, or a run's folder")
    show.add_argument("--json", action="store_true", help="the whole record as JSON")
    show.add_argument("--reproduce", action="store_true", help="the command that gives this record")
    show.set_defaults(do=_show)
    rerun = commands.add_parser(
        "rerun", parents=[output], help="the same config again: what changed since, do the numbers hold"
    )
    rerun.add_argument("run", metavar="NAME_OR_RUN", help="a run id, the start of a fingerprint, or an experiment")
    rerun.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recorded config")
    rerun.set_defaults(do=_rerun)
    compare = commands.add_parser(
        "compare", parents=[output], help="the arms of an experiment: gain, interval, verdict"
    )
    compare.add_argument("experiment", metavar="EXPERIMENT")
    compare.add_argument(
        "--baseline",
        choices=("converged", "equal_steps"),
        default="converged",
        help="which from-scratch numbers a gain is against (default: converged)",
    )
    compare.add_argument("--metric", help="a test metric, such as f1 (default: the one that chose the best weights)")
    compare.add_argument(
        "--to",
        metavar="FOLDER",
        help="where report.html, its pictures and tables go (default: the experiment's folder)",
    )
    compare.add_argument(
        "--wandb",
        action=argparse.BooleanOptionalAction,
        help="log the answer as a W&B run of its own (default: where W&B tracked the runs)",
    )
    compare.set_defaults(do=_compare)
    predict = commands.add_parser(
        "predict", parents=[output], help="a run's answers to the rows of a file or a pipe", description=PREDICT
    )
    predict.add_argument("run", metavar="RUN", help="a run id, the start of a fingerprint, or a folder with a model")
    predict.add_argument(
        "--input", default="-", metavar="FILE", help="csv, tsv, jsonl, parquet, txt, conll; - is stdin"
    )
    predict.add_argument("--output", default="-", metavar="FILE", help="csv, tsv, jsonl or parquet; - is stdout")
    predict.add_argument("--input-format", metavar="FORMAT", help="where the name does not say it")
    predict.add_argument("--output-format", metavar="FORMAT", help="where the name does not say it")
    predict.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="a column that has another name here than in training, such as text=review",
    )
    predict.set_defaults(do=_predict)
    export = commands.add_parser(
        "export", parents=[output], help="a run's model as a Hugging Face folder with a model card"
    )
    export.add_argument("run", metavar="RUN", help="a run id, or the start of a fingerprint")
    export.add_argument("folder", metavar="FOLDER", help="where it goes")
    export.add_argument("--onnx", action="store_true", help="also model.onnx, checked against the model")
    export.set_defaults(do=_export)
    prefetch = commands.add_parser(
        "prefetch", help="download the data and the model of an experiment, for a machine without a network"
    )
    prefetch.add_argument("experiment", metavar="EXPERIMENT")
    prefetch.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as they will be given to `transfer run`")
    prefetch.set_defaults(do=_prefetch)
    sync = commands.add_parser("sync", parents=[output], help="upload the W&B runs that were kept offline")
    sync.add_argument("names", nargs="*", metavar="EXPERIMENT_OR_RUN", help="only these (default: all)")
    sync.add_argument("--dry-run", action="store_true", help="only list them")
    sync.set_defaults(do=_sync)
    workspace = commands.add_parser(
        "workspace", parents=[output], help="save a W&B workspace: the answer and the curves of an experiment by arm"
    )
    workspace.add_argument("experiment", metavar="EXPERIMENT")
    workspace.set_defaults(do=_workspace)
    doctor = commands.add_parser(
        "doctor", parents=[output], help="device, fast precision, W&B, local data, writable output"
    )
    doctor.set_defaults(do=_doctor)
    completion = commands.add_parser(
        "completion", help="a script that completes commands, groups and keys in your shell"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(do=_completion)
    return parser


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
    options = _parser().parse_args(arguments)
    do: Callable[[argparse.Namespace], int] = options.do
    return do(options)


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
    from transfer import compose, wandb_environment

    _log_to_stderr()
    wandb_environment.require_one_run(arguments)
    with interruption.listen():
        compose.app(arguments, _job)
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
    from rich.console import Console

    from transfer.listing import require_records
    from transfer.paths import require_writable
    from transfer.study import report
    from transfer.study.compare import compare

    found = require_records(options.output_dir, options.experiment)
    comparison = compare(found, baseline=options.baseline, metric=options.metric)
    folder = Path(options.to) if options.to else Path(options.output_dir) / options.experiment
    require_writable(folder, key="--to")
    written = report.write_all(comparison, folder)
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
    for line in export(record, Path(options.folder), options.output_dir, onnx=options.onnx):
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
