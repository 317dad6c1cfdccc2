"""The same sweep in this process, through joblib, through submitit and on a Ray cluster comes to the same records."""

import importlib.util
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.running import cli, start
from transfer import records
from transfer.checkpoints import LAST
from transfer.sweep import ledger as ledgers

pytestmark = pytest.mark.cluster

LINE = ["run", "-m", "experiment=linear_drift", "trainer=cpu", "trainer.precision=32", "logger=none", "floors=false"]
SHORT = [*LINE, "output_dir=out", "source.budget.max_epochs=2", "target.budget.max_epochs=2", "arm=transfer"]
# Long enough for something to happen in the middle.
LONG = [*SHORT, "target.budget.max_epochs=150", "target.budget.patience=null", "trainer.checkpoint_every_s=0.05"]
PACKAGES = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


def launcher(name):
    """Its overrides; the test is skipped where its packages are missing."""
    package = PACKAGES[name]
    plugin = f"hydra_plugins.hydra_{package}_launcher"
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(plugin) is None:
        pytest.skip(f"hydra-{package}-launcher is not installed")
    small = ["hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.init.include_dashboard=false"]
    return [f"hydra/launcher={name}", *(small if name == "ray" else [])]


def result(folder):
    """All of the records below that must not depend on where they were made."""
    kept = ("status", "fingerprint", "arm", "seed", "metrics", "monitor", "parents", "weights", "data")
    return {Path(r["_folder"]).name: {name: r[name] for name in kept} for r in records.find(folder / "out")}


def failures(text):
    """The table of what failed, at the end."""
    return text[text.index("transfer: ") :].partition("runs these again")[0]


def going(*arguments, **options):
    """A sweep beside this process."""
    return start(*arguments, fresh=True, env={**os.environ, **RAY, "OMP_NUM_THREADS": "1"}, **options)


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def in_training(folder, since=0.0):
    """Targets that have no record, and have left a checkpoint after this moment."""
    return [
        path.parents[1]
        for path in folder.glob(f"out/*/finetune-*/{LAST}")
        if path.exists() and path.stat().st_mtime > since
    ]


MIXED = [*LONG, "target.data.train_size=8,16,100000"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(arguments) -> the outcome in this process, and its folder."""
    kept = {}

    def sweep(arguments):
        key = tuple(arguments)
        if key not in kept:
            folder = tmp_path_factory.mktemp("alone")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                kept[key] = cli(*arguments), folder
        return kept[key]

    return sweep


@pytest.mark.parametrize("name", PACKAGES)
def test_the_same_records_the_same_failures_one_source(name, alone, tmp_path):
    """With an output folder that is relative to where the sweep was started. A job of submitit's is warned midway that
    its time runs out, and queued again."""
    chosen = launcher(name)
    expected, expected_folder = alone(MIXED)
    assert expected.code == 1
    sweep = going(*MIXED, *chosen, cwd=tmp_path)
    if name == "submitit_local":
        wait_for(lambda: in_training(tmp_path), sweep)
        for task in psutil.Process(sweep.pid).children(recursive=True):
            if "submitit.core._submit" in task.cmdline():
                task.send_signal(signal.SIGUSR2)
    out, err = sweep.communicate(timeout=400)
    assert sweep.returncode == 1, err
    assert result(tmp_path) == result(expected_folder)
    assert len(result(tmp_path)) == 3  # two targets and their source
    assert failures(err) == failures(expected.err)
    assert "2 of 3 jobs are complete" in failures(err)
    assert "Traceback" not in err
    text = "".join([out, err, *(path.read_text() for path in tmp_path.glob("out/.submitit/*/*.out"))])
    assert text.count("best weights: out/linear_drift/pretrain") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    if name == "submitit_local":
        for part in ("told to stop (SIGUSR2)", "Requeued job", "going on from out/linear_drift/finetune-"):
            assert part in text

    (sweep_name,) = ledgers.names(tmp_path / "out")
    assert ledgers.names(expected_folder / "out") == [sweep_name]
    assert ledgers.read(tmp_path / "out", sweep_name).counts() == {"complete": 2, "failed": 1}


def complete(folder):
    """The complete records below, as they are on disk."""
    names = [name for name, found in result(folder).items() if found["status"] == "complete"]
    return {name: (folder / "out/linear_drift" / name / "record.json").read_bytes() for name in names}


def test_robbed_of_a_worker_and_warned_it_ends_as_if_nothing_had_been(alone, tmp_path):
    arguments = [*LONG, "seed=0,1,2,3,4"]
    command = [*arguments, *launcher("joblib")]
    expected = result(alone(arguments)[1])
    sweep = going(*command, cwd=tmp_path)
    wait_for(lambda: len(complete(tmp_path)) > 1 and in_training(tmp_path), sweep)

    # Memory runs out, and the system kills a worker. joblib gives up all of them; their jobs go on.
    workers = [p for p in psutil.Process(sweep.pid).children() if "LokyProcess" in " ".join(p.cmdline())]
    workers[0].kill()
    psutil.wait_procs(workers, timeout=120)
    killed = time.time()
    wait_for(lambda: in_training(tmp_path, killed), sweep)

    # Its time runs out.
    sweep.send_signal(signal.SIGUSR1)
    _, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 130
    assert "a worker died" in err
    assert err.rstrip().endswith("interrupted; the same command goes on from here")
    # One was in training; of those that went with the killed worker, some have not been begun again.
    statuses = [found["status"] for folder in in_training(tmp_path) if (found := records.read(folder))]
    assert statuses == ["interrupted"]
    # At a batch boundary; or without a word where it had come to the end of its training just then.
    assert err.count("told to stop (SIGUSR1)") <= 1
    before = complete(tmp_path)
    assert 1 < len(before) < len(expected)

    sweep = going(*command, cwd=tmp_path)
    _, err = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, err
    assert f"{len(before) - 1} of 5 jobs are complete" in err  # the source is no job
    assert {name: content for name, content in complete(tmp_path).items() if name in before} == before
    assert result(tmp_path) == expected
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.fixture(scope="module")
def pool():
    """joblib's workers, kept for several sweeps."""
    chosen = launcher("joblib")
    yield chosen
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def test_a_search_with_two_trials_at_once(alone, pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = ["optimizer.lr=tag(log,interval(1e-3,1e-1))", "seed=0", "hydra.sweeper.num_trials=4"]
    settings = ["hydra.sweeper.sampler=random", "hydra.sweeper.pruner=none", "hydra.sweeper.parallel=2"]
    arguments = ["run", "sweep=optuna", *SHORT[2:], *space, *settings]
    expected, expected_folder = alone(arguments)
    assert expected.code == 0, expected.err
    done = cli(*arguments, *pool)
    assert done.code == 0, done.err
    assert result(tmp_path) == result(expected_folder)
    assert len(result(tmp_path)) == 5
    (sweep,) = ledgers.names("out")
    assert ledgers.read("out", sweep).counts() == {"complete": 4}
    tested = [r for r in records.find(tmp_path / "out") if "test/mse" in r["metrics"] and r["arm"]]
    assert len(tested) == 1, "the winner alone"


def test_several_processes_a_job(alone, pool, tmp_path, monkeypatch):
    """In the same workers, now for a sweep that was started in another folder."""
    monkeypatch.chdir(tmp_path)
    arguments = [*SHORT, "arm=scratch", "scratch.max_epochs=2", "seed=0", "target.data.train_size=16"]
    done = cli(*arguments, *pool, "trainer=ddp_cpu")
    assert done.code == 0, done.err
    (found,), (expected,) = result(tmp_path).items(), result(alone(arguments)[1]).items()
    assert found[0] == expected[0]
    for name in ("val/mse", "test/mse"):
        assert found[1]["metrics"][name] == pytest.approx(expected[1]["metrics"][name], rel=1e-4)
    assert [r["hardware"]["num_devices"] for r in records.find("out")] == [2]


def test_a_launcher_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "_ray_" in name else found(name, *rest)
    )
    outcome = cli(*MIXED, "hydra/launcher=ray")
    assert outcome.code == 2
    assert "pip install 'transfer[ray]'" in outcome.err
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = cli(*MIXED, "hydra/launcher=submitit_slurm")
    assert outcome.code == 2
    assert "srun is not on the PATH" in outcome.err or "transfer[slurm]" in outcome.err
    assert not list(tmp_path.iterdir())
