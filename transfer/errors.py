"""What a user did wrong, said so that the user can mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake in the input of a run.

    Attributes:
        key: the config key as the user types it (``target.data.path``) or the file it is about.
        received: the value that was found there.
        allowed: what would have been accepted.
        action: what to do about it.
    """

    key: str
    received: object
    allowed: str
    action: str

    def __str__(self) -> str:
        lines = [self.key, f"    received: {self.received}", f"    allowed:  {self.allowed}"]
        if self.action:
            lines.append(f"    to do:    {self.action}")
        return "\n".join(lines)


class UserError(ValueError):
    """All problems found in one go. The command line prints them and exits with code 2."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        assert self.problems, "a UserError needs at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[list[Problem]]]:
        # An exception is pickled with its message alone; launchers send it between processes.
        return type(self), (self.problems,)


def nearest(word: str, candidates: Sequence[str]) -> str | None:
    """The candidate that a misspelt ``word`` most likely meant, or None."""
    matches = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return matches[0] if matches else None


class SweepFailedError(Exception):
    """Some jobs of a sweep are not complete. The message is a table of them; the command line exits with code 1."""
