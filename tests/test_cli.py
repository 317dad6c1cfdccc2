"""The words of the command line, on real small records."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import CALLS, QUICK, TINY_BERT, cli, modules_after, reviews
from transfer import __version__
from transfer.arguments import parser
from transfer.completion import COMMANDS

EXPERIMENT = "source_to_target"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A source, and two seeds each of transfer and scratch, as `transfer run -m` leaves them."""
    folder = tmp_path_factory.mktemp("cli")
    data = ["data@source.data=csv", f"source.data.path={reviews(folder / 'source.csv', 120, seed=1)}"]
    data += [f"target.data.path={reviews(folder / 'target.csv', 90, seed=2)}", "target.budget.max_epochs=2"]
    outcome = cli(
        *["run", "-m", *QUICK, *TINY_BERT, *data, "floors=true", f"output_dir={folder / 'outputs'}"],
        *["arm=transfer,scratch", "seed=0,1", "target.data.train_size=20"],
    )
    assert outcome.code == 0, outcome.err
    return folder / "outputs"


def listed(outputs, *options):
    outcome = cli("runs", "--output-dir", outputs, "--json", *options)
    assert outcome.code == 0
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_help_says_what_there_is():
    outcome = cli("--help")
    assert outcome.code == 0
    told = {line.split()[0] for line in outcome.out.splitlines() if line.startswith("    ")}
    assert told >= {*COMMANDS.split()}


def test_version():
    assert cli("--version").out == f"transfer {__version__}\n"


def test_completion_knows_every_command():
    actions = [action for action in parser()._actions if action.choices]
    assert sorted(COMMANDS.split()) == sorted(actions[0].choices)


@pytest.mark.parametrize(
    "arguments", [[], ["bogus"], ["list", "more"], ["show"], ["completion", "ksh"], ["run", "--no"]]
)
def test_wrong_words_end_with_the_usage(arguments):
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("usage: transfer")


def test_list_names_each_experiment_with_its_question(outputs):
    outcome = cli("list", "--output-dir", outputs)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    line = next(line for line in lines if line.startswith("movies_to_products "))
    assert "Does sentiment learned on movie reviews help with product reviews" in line
    assert "none yet" in line
    own = next(line for line in lines if line.startswith(EXPERIMENT))
    assert "2 finetune, 1 pretrain, 2 scratch" in own


def test_runs_newest_first(outputs):
    records = listed(outputs)
    assert len(records) == 5
    started = [record["time"]["started"] for record in records]
    assert started == sorted(started, reverse=True)
    assert records[-1]["stage"] == "pretrain"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--arm", "scratch"], 2),
        (["--arm", "scratch", "--seed", "1"], 1),
        (["--seed", "1"], 2),
        (["--stage", "pretrain"], 1),
        (["--status", "complete"], 5),
        (["--status", "failed"], 0),
        (["--freezing", "none"], 5),
        (["--freezing", "all"], 0),
        (["--model", "bert"], 5),
        (["--train-size", "20"], 4),
        (["-n", "3"], 3),
        (["-n", "0"], 5),
        ([EXPERIMENT], 5),
    ],
)
def test_runs_filters(outputs, options, count):
    assert len(listed(outputs, *options)) == count


def test_runs_as_a_table(outputs):
    outcome = cli("runs", "--output-dir", outputs, "--arm", "transfer", "-n", "1")
    header, row, note = outcome.out.splitlines()
    assert " ".join(header.split()) == "run experiment arm status seed n freezing metric test time started"
    assert row.split()[1:8] == [EXPERIMENT, "transfer", "complete", "1", "20", "none", "accuracy"]
    assert note == "1 of 2 records; -n 0 shows all"


def test_show_by_any_name(outputs):
    record = listed(outputs, "--stage", "pretrain")[0]
    folder = Path(record["_folder"])
    for reference in (folder.name, record["fingerprint"][:6], str(folder), record["run_id"]):
        outcome = cli("show", reference, "--output-dir", outputs)
        assert outcome.code == 0
        assert folder.name in outcome.out
        assert "test/accuracy" in outcome.out
    shown = json.loads(cli("show", folder.name, "--output-dir", outputs, "--json").out)
    assert shown == record


@pytest.mark.parametrize(("reference", "count"), [("finetune", 2), ("nothing", 0), ("f", 0)])
def test_show_of_no_single_run(outputs, reference, count):
    outcome = cli("show", reference, "--output-dir", outputs)
    assert outcome.code == 2
    assert f"received: {reference} ({count} records)" in outcome.err
    assert "`transfer runs` lists them" in outcome.err


@pytest.mark.parametrize("command", [["runs"], ["compare"]])
def test_records_of_an_unknown_experiment(outputs, command):
    outcome = cli(*command, "source_to_targt", "--output-dir", outputs)
    assert outcome.code == 2
    assert f"allowed:  {EXPERIMENT}" in outcome.err


def test_compare_gives_table_picture_and_page(outputs, tmp_path):
    outcome = cli("compare", EXPERIMENT, "--output-dir", outputs, "--to", tmp_path / "report", "--metric", "f1")
    assert outcome.code == 0, outcome.err
    assert "transfer" in outcome.out
    assert "scratch" in outcome.out
    assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize("ending", ["", "/"])
def test_an_experiment_may_be_named_by_its_folder(outputs, ending):
    by_folder, by_name = (
        cli("runs", *words) for words in ([f"{outputs / EXPERIMENT}{ending}"], [EXPERIMENT, "--output-dir", outputs])
    )
    assert by_folder.code == 0, by_folder.err
    assert by_folder.out == by_name.out
    unknown = cli("compare", outputs / "nothing")
    assert unknown.code == 2
    assert "received: nothing" in unknown.err


def test_compare_where_nothing_can_be_written(outputs, tmp_path):
    (tmp_path / "file").touch()
    outcome = cli("compare", EXPERIMENT, "--output-dir", outputs, "--to", tmp_path / "file" / "x")
    assert outcome.code == 2
    assert "\n--to\n" in outcome.err


def test_doctor_looks_at_the_machine(tmp_path):
    outcome = cli("doctor", "--output-dir", tmp_path / "outputs")
    assert outcome.code == 0, outcome.out
    for name in ("device", "precision", "wandb", "local data", "offline model", "hub", "cache", "output"):
        assert f"ok   {name} " in outcome.out


def test_doctor_says_what_to_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_DATA", str(tmp_path / "nowhere"))
    outcome = cli("doctor", "--output-dir", "/dev/null/x")
    assert outcome.code == 1
    assert "fix  local data" in outcome.out
    assert "fix  output_dir" in outcome.out


def test_run_help_lists_groups_and_keys():
    outcome = cli("run", "--help")
    assert outcome.code == 0, outcome.err
    assert "\nfreezing: all, bitfit, first_k, gradual, head_only, none, regex\n" in outcome.out
    listed = next(line for line in outcome.out.splitlines() if line.startswith("experiment: "))
    assert {"imdb_to_medical", "linear_drift", "movies_to_products"} <= {
        *listed.removeprefix("experiment: ").split(", ")
    }
    assert 'eval "$(transfer completion bash)"' in outcome.out
    assert "$" not in outcome.out.partition("== Config ==")[0]


def test_run_cfg_prints_the_config_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = cli("run", "--cfg", "job", "experiment=linear_drift", "seed=7")
    assert outcome.code == 0
    assert outcome.out.startswith("experiment_name: linear_drift\n")
    assert "\nseed: 7\n" in outcome.out
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bash(tmp_path, monkeypatch):
    """(words) -> what bash offers after them, by the script that `transfer completion bash` prints."""
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    (tmp_path / "transfer").write_text(f'#!/bin/sh\nexec {sys.executable} -m transfer "$@"\n')
    (tmp_path / "transfer").chmod(0o755)
    (tmp_path / "script.sh").write_text(cli("completion", "bash").out)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def complete(line):
        words = line.split(" ")
        given = " ".join(f"'{word}'" for word in words)
        code = f"source {tmp_path}/script.sh; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; "
        code += 'COMP_POINT=${#COMP_LINE}; _transfer_complete; printf "%s\\n" "${COMPREPLY[@]}"; complete -p transfer'
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        *offered, registered = done.stdout.split("\n")[:-1]
        assert registered.endswith("-F _transfer_complete transfer")
        return offered

    return complete


def test_bash_completes_commands_groups_and_keys(bash):
    assert bash("transfer ru") == ["run", "runs"]
    assert bash("transfer com") == ["compare", "completion"]
    assert "model=minilm" in bash("transfer run model=")
    assert bash("transfer run seed=1 experiment=movies_to_p") == ["experiment=movies_to_products"]
    assert bash("transfer run optimizer.weight") == ["optimizer.weight_decay="]


@pytest.mark.parametrize(("shell", "says"), [("zsh", "bashcompinit"), ("fish", "complete -c transfer")])
def test_the_other_shells_get_scripts(shell, says):
    assert says in cli("completion", shell).out


def test_what_only_reads_imports_nothing_heavy(outputs):
    name = listed(outputs, "--stage", "pretrain")[0]["run_id"]
    there = f"--output-dir {outputs}"
    calls = ["--help", "--version", f"list {there}", f"runs {there}", f"runs {there} --json", f"show {name} {there}"]
    calls += ["completion bash", "run --help", "run --cfg job experiment=movies_to_products"]
    assert modules_after(CALLS, 0, *calls) == set()


def test_a_reader_that_goes_away_is_no_error(outputs):
    command = f"{sys.executable} -m transfer runs --json --output-dir {outputs} | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
