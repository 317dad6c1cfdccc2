"""A sweep of 24 small runs, killed with `kill -9` at 10 random moments; then two identical sweeps at the same time.

    python benchmarks/kill_sweep.py [--kills 10] [--seed 0] [--folder FOLDER]

It ends with exit code 0 if every claim holds: 24 complete records and that of their source, metrics equal to those of
an undisturbed sweep, no complete record written a second time, nothing left behind; about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AXES = ["-m", "arm=transfer,scratch", "seed=0,1,2", "target.data.train_size=8,16,24,32"]
QUICK = ["trainer=cpu", "trainer.precision=32", "logger=none", "floors=false", "trainer.checkpoint_every_s=0.05"]
SHORT = ["scratch.max_epochs=40", "scratch.patience=40", "source.budget.max_epochs=20"]
TARGETS, SOURCES = 24, 1


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "transfer", "run", "experiment=linear_drift", *QUICK, *SHORT, *AXES]
    with open(log, "ab") as file:
        return subprocess.Popen([*command, f"output_dir={folder}"], stdout=subprocess.DEVNULL, stderr=file)


def complete(folder: Path) -> dict[str, str]:
    """Run folder -> the text of its complete record."""
    texts = {path.parent.name: path.read_text() for path in folder.glob("*/*/record.json")}
    return {name: text for name, text in texts.items() if json.loads(text)["status"] == "complete"}


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    return {name: json.loads(text)["metrics"] for name, text in complete(folder).items()}


def contents(folder: Path) -> set[str]:
    """Every file and folder, but the locks."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if not name.startswith(".locks")}


def trained(log: Path) -> list[str]:
    """The runs that came to the end of a training, in their order."""
    return [Path(line).parent.name for line in re.findall(r"^best weights: (.*)$", log.read_text(), re.MULTILINE)]


def undisturbed(folder: Path) -> float:
    clock = time.monotonic()
    code = start(folder, folder.with_suffix(".log")).wait()
    assert code == 0, folder.with_suffix(".log").read_text()[-2000:]
    return time.monotonic() - clock


def killed(folder: Path, calm: Path, kills: int, chance: random.Random, whole_s: float) -> None:
    log, seen = folder.with_suffix(".log"), {}
    for number in range(kills):
        process, clock = start(folder, log), time.monotonic()
        had = len(complete(folder))
        # Half of the kills come at any moment from the first import on, half soon after a run has been finished.
        moment = chance.uniform(0, whole_s / 2) if number % 2 else None
        while process.poll() is None:
            if moment is not None and time.monotonic() - clock >= moment:
                break
            if moment is None and len(complete(folder)) >= had + 1:
                time.sleep(chance.uniform(0, 1.0))
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        now = complete(folder)
        assert all(now[name] == text for name, text in seen.items()), "a complete record was written again"
        seen = now
        print(f"  kill {number + 1:2}: after {time.monotonic() - clock:4.1f} s, exit {code}, {len(now)} complete")
    seconds = undisturbed(folder)
    print(f"  left alone, it ends after {seconds:.1f} s")
    now = complete(folder)
    assert all(now[name] == text for name, text in seen.items()), "a complete record was written again"
    check(folder, calm)
    again = [name for name in trained(log) if name.startswith("pretrain")]
    print(f"  sources trained to completion: {len(again)}; all trainings that were completed: {len(trained(log))}")
    assert len(again) == SOURCES


def check(folder: Path, calm: Path) -> None:
    """The same records, metrics and files as those of the undisturbed sweep."""
    names = [name.partition("-")[0] for name in metrics(folder)]
    assert len(names) - names.count("pretrain") == TARGETS, names
    assert names.count("pretrain") == SOURCES, names
    assert metrics(folder) == metrics(calm), "the metrics differ"
    assert contents(folder) == contents(calm), contents(folder) ^ contents(calm)
    print(f"  {TARGETS} complete records and {SOURCES} source, metrics and files equal to the undisturbed sweep's")


def two_at_once(folder: Path, calm: Path) -> None:
    logs = [folder.with_suffix(f".{number}.log") for number in range(2)]
    both = [start(folder, log) for log in logs]
    codes = [process.wait() for process in both]
    assert codes == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)
    runs = [trained(log) for log in logs]
    print(f"  trained by the first {len(runs[0])}, by the second {len(runs[1])}")
    assert len(runs[0]) + len(runs[1]) == TARGETS + SOURCES == len({*runs[0], *runs[1]}), runs
    check(folder, calm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a new temporary folder)")
    options = parser.parse_args()
    root = options.folder or Path(tempfile.mkdtemp(prefix="kill-sweep-"))
    root.mkdir(parents=True, exist_ok=True)
    print(f"in {root}\nundisturbed:")
    seconds = undisturbed(root / "calm")
    print(f"  {len(trained(root / 'calm.log'))} runs in {seconds:.1f} s")
    print(f"killed {options.kills} times:")
    killed(root / "killed", root / "calm", options.kills, random.Random(options.seed), seconds)
    print("two at once:")
    two_at_once(root / "two", root / "calm")


if __name__ == "__main__":
    main()
