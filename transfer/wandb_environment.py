"""What the environment tells W&B: whether there is a key, and whether a W&B sweep agent started this process."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from transfer.errors import Problem, UserError

SWEEP_ID = "WANDB_SWEEP_ID"
OF_THE_AGENT = (SWEEP_ID, "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def server() -> str:
    """The address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_key() -> bool:
    """Whether a W&B API key is there: in $WANDB_API_KEY or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = server().split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC") or Path("~/.netrc").expanduser()).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def offline(requested: bool | None) -> bool:
    """Offline where asked for, or where no key is there."""
    if requested is not None:
        return requested
    mode = os.environ.get("WANDB_MODE")
    return mode in ("offline", "disabled") if mode else not has_key()


def link(run: Path, experiment: Path, title: str) -> None:
    """A name that can be read, beside the other runs of an experiment: `wandb leet outputs/NAME/wandb` lists them."""
    name = experiment / "wandb" / f"run-{title}"  # it takes only names that begin like this
    with suppress(OSError):  # a file system without links: the runs can still be looked at one by one
        name.parent.mkdir(parents=True, exist_ok=True)
        name.unlink(missing_ok=True)
        name.symlink_to(os.path.relpath(run.resolve(), name.parent.resolve()), target_is_directory=True)


def in_sweep() -> bool:
    """Whether a W&B sweep agent started this process: its run id and project then come before our own."""
    return bool(os.environ.get(SWEEP_ID))


@contextmanager
def apart_from_sweep() -> Iterator[None]:
    """Hide the agent's variables: a source trained on the way is a run of its own, not the one of the sweep."""
    hidden = {name: os.environ.pop(name) for name in OF_THE_AGENT if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def require_one_run(arguments: Sequence[str]) -> None:
    """Refuse a multirun in the place of one run of a W&B sweep.

    Raises:
        UserError: all its jobs would write into the same W&B run.
    """
    flag = next((word for word in arguments if word in ("-m", "--multirun")), None)
    if flag and in_sweep():
        action = f"leave {flag} out of the sweep's `command`, or unset {SWEEP_ID}"
        raise UserError(Problem("run", f"{flag} under a W&B sweep agent", "one run a command", action))
