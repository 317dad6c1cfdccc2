"""The words of the command line, and what each takes. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from transfer import __version__

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Does transfer help here, from which source, and how sure is that?

  transfer list                                    the named experiments and the question each asks
  transfer run experiment=NAME arm=transfer        one run: a source, then its target
  transfer run -m experiment=NAME arm=transfer,direct,scratch seed=0,1
                                                   all combinations: each transfer with its from-scratch twin
  transfer compare NAME                            the answer, with its uncertainty, as table, picture and page
  transfer rank NAME --sources A B C               which source to start from, before any is trained from
"""


RANK = """\
Scores candidates for the target of an experiment without fine-tuning from any of them, says how well each score has
predicted the gains that are measured so far, and recommends only by a score that has been right.

  transfer rank movies_to_products --sources movies tweets editorials
"""


AUTO = """\
Successive halving: a linear probe drops half of the starts, then a few parameters train from the others, then all of
them from the better half, then more seeds of the best. Only the validation split chooses. The winner and its
from-scratch twin then train with seeds that chose nothing, and only these runs are tested. Training from scratch can
win, and so can starting from published weights without any source. Each decision is said with its numbers; the same
command goes on where it was interrupted.

  transfer auto movies_to_products --sources movies tweets editorials --budget 30m
"""


PREDICT = """\
Every row of the input comes out in its place, with a prediction and, where there is one, its score.
A pipe whose first line begins with { is read as JSON lines, any other as one text a line.
"""


def parser() -> argparse.ArgumentParser:
    """Of every command but `run`, whose arguments are Hydra's."""
    made = argparse.ArgumentParser(
        prog="transfer", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--version", action="version", version=f"transfer {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # `run` never gets here: its arguments are Hydra's. It is listed so that it is seen.
    commands.add_parser("run", help="train one run or, with -m, a sweep (a Hydra app: `transfer run --help`)")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--output-dir", default="outputs", metavar="FOLDER", help="where the records are (default: outputs)"
    )
    commands.add_parser("list", parents=[output], help="named experiments, the question each asks, its records")
    for add in (_records, _compare, _choose, _predict, _export, _network):
        add(commands, output)
    commands.add_parser("doctor", parents=[output], help="device, fast precision, W&B, local data, writable output")
    completion = commands.add_parser(
        "completion", help="a script that completes commands, groups and keys in your shell"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return made


def settings_first(arguments: list[str]) -> list[str]:
    """KEY=VALUE before the options: behind `--sources A B` the parser would take it for one more source."""
    if arguments[:1] not in (["rank"], ["auto"]):
        return arguments
    settings = [word for word in arguments if "=" in word and not word.startswith("-")]
    first = [word for word in arguments if word not in settings]
    return [*first[:2], *settings, *first[2:]]


def _records(commands: Commands, output: argparse.ArgumentParser) -> None:
    runs = commands.add_parser("runs", parents=[output], help="records, newest first")
    runs.add_argument("experiment", nargs="?", help="only of this experiment")
    for name in ("stage", "arm", "status", "freezing", "model"):
        runs.add_argument(f"--{name}", help=f"only with this {name}")
    runs.add_argument("--seed", type=int, help="only with this seed")
    runs.add_argument("--train-size", type=int, help="only with this label budget")
    runs.add_argument("--sweep", metavar="NAME", help="the jobs of a sweep, with what became of each")
    runs.add_argument("-n", "--num", type=int, default=30, help="at most so many (default: 30; 0: all)")
    runs.add_argument("--json", action="store_true", help="the records as JSON lines, for other programs")
    show = commands.add_parser("show", parents=[output], help="one record: metrics, weights, data, config")
    show.add_argument("run", metavar="RUN", help="a run id, the start of a fingerprint, or a run's folder")
    show.add_argument("--json", action="store_true", help="the whole record as JSON")
    show.add_argument("--reproduce", action="store_true", help="the command that gives this record")
    rerun = commands.add_parser(
        "rerun", parents=[output], help="the same config again: what changed since, do the numbers hold"
    )
    rerun.add_argument("run", metavar="NAME_OR_RUN", help="a run id, the start of a fingerprint, or an experiment")
    rerun.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recorded config")


def _compare(commands: Commands, output: argparse.ArgumentParser) -> None:
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


def _choose(commands: Commands, output: argparse.ArgumentParser) -> None:
    rank = commands.add_parser(
        "rank",
        parents=[output],
        help="which source to start from: scores from one forward pass each, and how right they have been",
        description=RANK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rank.add_argument("experiment", metavar="EXPERIMENT")
    rank.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as they will be given to `transfer run`")
    rank.add_argument(
        "--sources",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="data sets of conf/data, runs, model folders, weight files (default: every source that is trained)",
    )
    rank.add_argument(
        "--models", nargs="+", default=[], metavar="MODEL", help="published weights: files of conf/model, hub ids"
    )
    auto = commands.add_parser(
        "auto",
        parents=[output],
        help="choose source, freezing and learning rate within a budget; then the winner beside its from-scratch twin",
        description=AUTO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    auto.add_argument("experiment", metavar="EXPERIMENT")
    auto.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as they will be given to `transfer run`")
    auto.add_argument(
        "--sources",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="as of `transfer rank`; data sets that nothing is trained on yet are trained on first",
    )
    auto.add_argument("--budget", metavar="TIME", help="such as 90s, 30m or 2h of training (default: no limit)")
    auto.add_argument("--runs", type=int, metavar="N", help="at most so many runs, sources and the last ones included")
    auto.add_argument("--seeds", type=int, default=3, metavar="N", help="of the winner and its twin (default: 3)")


def _predict(commands: Commands, output: argparse.ArgumentParser) -> None:
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


def _export(commands: Commands, output: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export", parents=[output], help="a run's model as a Hugging Face folder with a model card"
    )
    export.add_argument("run", metavar="RUN", help="a run id, or the start of a fingerprint")
    export.add_argument("folder", metavar="FOLDER", help="where it goes")
    export.add_argument("--onnx", action="store_true", help="also model.onnx, checked against the model")
    export.add_argument("--adapter", action="store_true", help="the adapter alone, not merged, for peft")


def _network(commands: Commands, output: argparse.ArgumentParser) -> None:
    prefetch = commands.add_parser(
        "prefetch", help="download the data and the model of an experiment, for a machine without a network"
    )
    prefetch.add_argument("experiment", metavar="EXPERIMENT")
    prefetch.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as they will be given to `transfer run`")
    sync = commands.add_parser("sync", parents=[output], help="upload the W&B runs that were kept offline")
    sync.add_argument("names", nargs="*", metavar="EXPERIMENT_OR_RUN", help="only these (default: all)")
    sync.add_argument("--dry-run", action="store_true", help="only list them")
    workspace = commands.add_parser(
        "workspace", parents=[output], help="save a W&B workspace: the answer and the curves of an experiment by arm"
    )
    workspace.add_argument("experiment", metavar="EXPERIMENT")
