"""How a source run learns to learn from few rows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Meta:
    """With an `algorithm`, a source run is of `stage=meta`: its steps are on episodes, small tasks of their own.

    An episode has `ways` classes, each with `shots` labelled rows and `queries` rows to answer; for a regression it is
    one domain (`columns.group`), and `ways` is not used. Rows of all splits take part: it is the classes, or domains,
    that are divided, `validation_fraction` and `test_fraction` of them unseen in training. `tasks_per_step` episodes
    are a step (not `budget.batch_size` rows), and `steps_per_epoch` steps an epoch, after which validation episodes
    choose the best weights.

    `inner_steps` gradient steps at the rate `inner_lr` (with `learn_inner_lr` learned for each tensor) adapt to an
    episode. After training, `num_test_episodes` are tested after each of `test_steps` such steps, and by `baselines`.
    """

    algorithm: str = "none"
    ways: int = 5
    shots: int = 1
    queries: int = 15
    validation_fraction: float = 0.2
    test_fraction: float = 0.2
    inner_steps: int = 1
    inner_lr: float = 0.01
    learn_inner_lr: bool = False
    tasks_per_step: int = 4
    steps_per_epoch: int = 100
    num_validation_episodes: int = 40
    num_test_episodes: int = 600
    test_steps: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 5, 10])
    baselines: list[str] = field(default_factory=lambda: ["finetuning", "linear_probe", "prototypes", "matching"])
