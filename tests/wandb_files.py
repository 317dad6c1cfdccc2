"""What an offline W&B run has written, read back record by record."""

import json
import time
from pathlib import Path

BLOCK = 32768


def wandb_records(file):
    """The messages in a .wandb file, which is laid out as a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    content = file.read_bytes()
    assert content[:4] == b":W&B"
    place, message = 7, b""
    while place + 7 <= len(content):
        room = BLOCK - place % BLOCK
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if room < 7 or kind == 0:
            place += room
            continue
        message += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole message, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def wandb_file(folder):
    """The log of the one offline W&B run in a run's folder."""
    (file,) = Path(folder).glob("wandb/offline-run-*/*.wandb")
    return file


def wandb_run(folder):
    """(run, config, history rows, summary, artifacts, exit code) of the one W&B run in a run's folder."""
    file, deadline = wandb_file(folder), time.monotonic() + 10
    while True:
        found = list(wandb_records(file))
        # W&B's own process writes the file, and may be a moment behind.
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            break
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.01)
    (about,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    history, summary = [], {}
    for record in found:
        if record.WhichOneof("record_type") == "history":
            history.append({name(item): json.loads(item.value_json) for item in record.history.item})
        summary |= {name(item): json.loads(item.value_json) for item in record.summary.update}
    artifacts = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    (code,) = (record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit")
    return about, config, history, summary, artifacts, code


def name(item):
    return item.key or "/".join(item.nested_key)
