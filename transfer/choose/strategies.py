"""Ways to train from a start, the cheap ones first; one of them from one start is a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.choose.candidates import Candidate

SCRATCH = "scratch"


@dataclass(frozen=True)
class Way:
    """How much of the model trains.

    Attributes:
        words: what `transfer run` is told.
        times_lr: of the experiment's own learning rate.
    """

    name: str
    words: tuple[str, ...]
    times_lr: float = 1.0


# Of a head alone a large rate moves nothing that was learned before.
HEAD = Way("head", ("freezing=head_only", "adaptation=none"), 10.0)
LORA = Way("LoRA", ("freezing=none", "adaptation=lora"))
FULL = Way("all", ("freezing=none", "adaptation=none"))
RATES = (1.0, 3.0)


def upper_half(num_layers: int) -> Way:
    """The upper half of the layers and the head."""
    return Way("upper half", ("freezing=first_k", f"freezing.k={num_layers // 2}", "adaptation=none"))


def partial(num_layers: int) -> list[Way]:
    """All but the head, or the lower half, stays as it is; of a model with a single layer there is no half."""
    return [HEAD, LORA, *([upper_half(num_layers)] if num_layers > 1 else [])]


@dataclass(frozen=True)
class Strategy:
    """One start trained in one way; without a start from scratch."""

    start: Candidate | None
    way: Way | None = None
    times_lr: float = 1.0

    @property
    def name(self) -> str:
        if self.start is None or self.way is None:
            return SCRATCH
        rate = f", lr x {self.times_lr:g}" if self.times_lr != self.way.times_lr else ""
        return f"{self.start.name}, {self.way.name}{rate}"

    @property
    def key(self) -> tuple[str, str, float]:
        """Equal of equal ones."""
        return (self.start.key if self.start else "", self.way.name if self.way else "", self.times_lr)

    def words(self, lr: float) -> list[str]:
        """What `transfer run` is told.

        Args:
            lr: the experiment's own learning rate.
        """
        if self.start is None or self.way is None:
            return ["arm=scratch"]
        of_start = [word for word in self.start.words if not word.startswith("arm=")]
        arm = "direct" if self.start.key.startswith("direct:") else "transfer"
        return [*of_start, f"arm={arm}", *self.way.words, f"optimizer.lr={lr * self.times_lr:g}"]


def of(starts: Sequence[Candidate], ways: Sequence[Way], rates: Sequence[float] = (1.0,)) -> list[Strategy]:
    """All ways from all starts, with the ways' own rates times these; cheap ways first."""
    return [Strategy(start, way, way.times_lr * rate) for way in ways for rate in rates for start in starts]
