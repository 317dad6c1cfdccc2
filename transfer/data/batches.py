"""Which rows stand together in a batch: so many rows, or as many as fit into so many tokens; of similar length."""

from __future__ import annotations

import numpy as np

# Rows are sorted by length inside pools of this many batches: little padding, and still a random order.
POOL = 50
# Where batches have so many tokens, rows count as equally long up to this ratio, and those are drawn at random.
SPREAD = 1.05


class ByRows:
    """Batches of `size` rows; the last one has the rest."""

    def __init__(self, lengths: np.ndarray, size: int) -> None:
        self.lengths = lengths
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.size)

    def draw(self, random: np.random.Generator) -> list[np.ndarray]:
        """The row numbers of each batch, every row once."""
        order = random.permutation(len(self.lengths))
        pool = self.size * POOL
        chunks: list[np.ndarray] = []
        for begin in range(0, len(order), pool):
            part = order[begin : begin + pool]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            chunks += [part[i : i + self.size] for i in range(0, len(part), self.size)]
        whole = [chunk for chunk in chunks if len(chunk) == self.size]
        short = [chunk for chunk in chunks if len(chunk) < self.size]
        return [whole[i] for i in random.permutation(len(whole))] + short


class ByTokens:
    """Batches of at most `tokens` tokens, padding included: rows times the longest. A longer row is a batch alone.

    Every row counts as long as the longest of those that are about as long as it. By that they are sorted and cut, so
    that where the cuts are, and how many, depends on the lengths alone: all epochs have the same number of batches.
    Which of the equally long rows go into which batch is drawn.
    """

    def __init__(self, lengths: np.ndarray, tokens: int) -> None:
        self.counted = rounded_up(lengths)
        self.cuts = cuts(-np.sort(-self.counted), tokens)

    def __len__(self) -> int:
        return len(self.cuts)

    def draw(self, random: np.random.Generator) -> list[np.ndarray]:
        """The row numbers of each batch, every row once."""
        order = random.permutation(len(self.counted))
        order = order[np.argsort(-self.counted[order], kind="stable")]
        return [order[self.cuts[i]] for i in random.permutation(len(self.cuts))]


def rounded_up(lengths: np.ndarray) -> np.ndarray:
    """For each length the largest one that is at most `SPREAD` times as long, counted down from the longest [rows]."""
    values, place = np.unique(lengths, return_inverse=True)
    counted = values.copy()
    for i in range(len(values) - 2, -1, -1):
        above = counted[i + 1]
        counted[i] = above if above <= SPREAD * values[i] else values[i]
    rounded: np.ndarray = counted[place]
    return rounded


def cuts(longest_first: np.ndarray, tokens: int, *, least: int = 1) -> list[slice]:
    """Where to cut rows that are sorted by length, so that the first of each part, times its rows, is within `tokens`.

    Args:
        least: so many rows each part has in any case, but for the last.
    """
    found = []
    begin = 0
    while begin < len(longest_first):
        size = max(least, tokens // max(1, int(longest_first[begin])))
        found.append(slice(begin, min(begin + size, len(longest_first))))
        begin += size
    return found
