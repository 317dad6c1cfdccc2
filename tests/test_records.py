"""Records on disk: written whole or not at all, found by any of their names, and locked across processes."""

import json
import math
import subprocess
import sys
import time

import pytest

from transfer import records


def record(name="a", stage="finetune", **changes):
    values = dict.fromkeys(records.FIELDS)
    fingerprint = records.fingerprint({"name": name})
    values |= {"fingerprint": fingerprint, "stage": stage, "run_id": records.run_name(stage, fingerprint)}
    return values | {"status": "complete", "time": {"started": records.now()}, "metrics": {}} | changes


def put(outputs, experiment, **changes):
    made = record(**changes)
    folder = outputs / experiment / made["run_id"]
    folder.mkdir(parents=True)
    records.write(folder, made)
    return made


def test_fingerprints_depend_on_content_and_not_on_order():
    assert records.fingerprint({"a": 1, "b": [1.5, None]}) == records.fingerprint({"b": [1.5, None], "a": 1})
    assert records.fingerprint({"a": 1}) != records.fingerprint({"a": "1"})
    assert len(records.fingerprint({})) == 40


def test_what_is_written_is_read_back(tmp_path):
    made = record(metrics={"test/f1": math.nan, "val/loss": 0.5}, model="naïve")
    records.write(tmp_path, made)
    assert records.read(tmp_path) == made | {"metrics": {"test/f1": None, "val/loss": 0.5}, "_folder": str(tmp_path)}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"], "no temporary file is left"


@pytest.mark.parametrize("changes", [{"status": "done"}, {"metrics": ...}])
def test_a_record_that_is_wrong_is_our_own_mistake(tmp_path, changes):
    made = {key: value for key, value in record(**changes).items() if value is not ...}
    with pytest.raises(AssertionError):
        records.write(tmp_path, made)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"text"', "\udcff"])
def test_files_that_are_no_record_are_passed_over(tmp_path, content):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "record.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert records.read(tmp_path / "x" / "y") is None
    assert records.find(tmp_path) == []
    assert records.read(tmp_path / "nowhere") is None


WRITE = """
import sys
from pathlib import Path
from transfer import records
while True:
    for text in ("a" * 200_000, "b" * 300_000):
        records.write_atomically(Path(sys.argv[1]), text)
"""


def test_a_reader_never_sees_half_a_file(tmp_path):
    """A process writes two texts in turn as fast as it can; whatever is read in between is one of them."""
    file = tmp_path / "file.json"
    texts = ["a" * 200_000, "b" * 300_000]
    records.write_atomically(file, texts[0])
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(file)])
    seen, end = set(), time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < end:
        for _ in range(50):
            text = file.read_text()
            assert text in texts
            seen.add(text[0])
    writer.kill()
    writer.wait()
    assert seen == {"a", "b"}
    assert file.read_text() in texts, "also after the writer was killed"


def test_complete_finds_a_shared_source_in_any_experiment(tmp_path):
    source, target = put(tmp_path, "one", name="s", stage="pretrain"), put(tmp_path, "one", name="t")

    def found(made, experiment):
        return records.complete(tmp_path, experiment, made["stage"], made["fingerprint"]) is not None

    assert found(source, "one")
    assert found(source, "another")
    assert found(target, "one")
    assert not found(target, "another"), "a target belongs to its experiment"


@pytest.mark.parametrize("changes", [{"status": "failed"}, {"status": "interrupted"}])
def test_only_complete_records_count(tmp_path, changes):
    made = put(tmp_path, "one", **changes)
    assert records.complete(tmp_path, "one", made["stage"], made["fingerprint"]) is None
    assert len(records.find(tmp_path)) == 1


def test_a_record_of_another_fingerprint_in_the_folder_does_not_count(tmp_path):
    made = put(tmp_path, "one")
    other = made["fingerprint"][:10] + "f" * 30
    assert records.run_name(made["stage"], other) == made["run_id"]
    assert records.complete(tmp_path, "one", made["stage"], other) is None


def test_find_gives_the_newest_first(tmp_path):
    made = [put(tmp_path, f"e{i}", name=str(i), time={"started": f"2025-01-0{i}T00:00:00.000Z"}) for i in (2, 1, 3)]
    assert [found["fingerprint"] for found in records.find(tmp_path)] == [made[i]["fingerprint"] for i in (2, 0, 1)]
    assert len(records.find(tmp_path, "e1")) == 1
    assert records.find(tmp_path / "nowhere") == []


def test_lookup_by_any_name(tmp_path):
    made = put(tmp_path, "one", name="1")
    put(tmp_path, "two", name="2", stage="scratch")
    for reference in (
        made["run_id"],
        made["fingerprint"],
        made["fingerprint"][:4],
        "finetune",
        tmp_path / "one" / made["run_id"],
    ):
        assert [found["run_id"] for found in records.lookup(tmp_path, str(reference))] == [made["run_id"]]
    for reference in ("nothing", "", made["fingerprint"][:3]):
        assert records.lookup(tmp_path, reference) == []


def test_now_is_sortable():
    times = []
    for _ in range(3):
        times.append(records.now())
        time.sleep(0.002)
    assert times == sorted(set(times))
    assert all(len(text) == 24 and text.endswith("Z") for text in times)


HOLD = """
import sys, time
from pathlib import Path
from transfer import records
with records.lock(Path(sys.argv[1]), "f" * 40):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    """(seconds) -> a process that holds the lock for so long."""
    started = []

    def hold(seconds):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), str(seconds)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_process_waits_and_is_told_once(tmp_path, holder):
    process = holder(0.5)
    told = []
    with records.lock(tmp_path, "f" * 40, waiting=lambda: told.append(process.poll())):
        assert process.wait(timeout=5) == 0
    assert told == [None], "while the other one was still at it"


def test_another_fingerprint_does_not_wait(tmp_path, holder):
    holder(30)
    with records.lock(tmp_path, "a" * 40, waiting=lambda: pytest.fail("there is nothing to wait for")):
        pass


def test_a_killed_process_gives_its_lock_back(tmp_path, holder):
    process = holder(60)
    process.kill()
    process.wait()
    begun = time.monotonic()
    with records.lock(tmp_path, "f" * 40):
        assert time.monotonic() - begun < 10


def test_the_users_mistake_leaves_no_lock_behind(tmp_path):
    def mistaken():
        with records.lock(tmp_path, "f" * 40):
            assert list((tmp_path / records.LOCKS).iterdir())
            raise ValueError("mistake")

    with pytest.raises(ValueError, match="mistake"):
        mistaken()
    assert not list((tmp_path / records.LOCKS).iterdir())
    with records.lock(tmp_path, "f" * 40):
        pass
    assert list((tmp_path / records.LOCKS).iterdir())


def test_json_lines_of_a_record_hold_no_nan(tmp_path):
    records.write(tmp_path, record(metrics={"a": math.inf, "b": [math.nan, {"c": -math.inf}]}))
    assert json.loads((tmp_path / "record.json").read_text())["metrics"] == {"a": None, "b": [None, {"c": None}]}
