"""A whole run: its legs, its model, where and with what it trains, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from transfer.config.leg import Arm, Optimizer, Scheduler, Scratch, Source, Stage, Target
from transfer.config.model import Adaptation, Averaging, Freezing, Model, Regularizer, Weights


@dataclass
class Trainer:
    """What goes to Lightning's Trainer, in its own words, and how a run makes use of the machine.

    `compile`: always, never, or auto, which is where a run on a GPU is long enough for it.

    `num_workers: null` is none, or as many as the first steps show to be worth it, where loading takes long.

    With `feature_cache` the frozen part of a model is computed once for each row and kept on disk, in the cache folder,
    of which it takes at most `feature_cache_gb` (10^9 bytes); what was not used for longest is thrown away first.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    gradient_clip_val: Optional[float] = 1.0
    accumulate_grad_batches: int = 1
    halve_on_out_of_memory: bool = True
    num_workers: Optional[int] = None
    feature_cache: bool = True
    feature_cache_gb: float = 10.0
    log_every_n_steps: int = 10
    checkpoint_every_s: float = 60.0
    deterministic: bool = False
    limit_train_batches: Optional[int] = None
    limit_eval_batches: Optional[int] = None
    detect_anomaly: bool = False


@dataclass
class Logger:
    """Where the curves go. `offline: null` means offline unless a key is there."""

    name: str = "wandb"
    project: str = "transfer"
    entity: Optional[str] = None
    offline: Optional[bool] = None
    log_model: bool = True


OF_THE_CALL = ("test", "force", "folder", "sweep_name", "search", "job", "wait", "overrides")


@dataclass
class Search:
    """The trial of a search that a run reports to: the sweep's folder, the study and the trial's number in it."""

    folder: str = ""
    study: str = ""
    trial: int = 0
    pruner: str = "none"
    pruner_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The whole config of a run.

    The last fields are about this call and not about the run (`OF_THE_CALL`): `job` and `wait` are set by a sweep, to
    run a frozen config in place of this one; `folder` by a rerun; `search` by a search; `overrides` is what was typed.
    With `test: false` a run leaves its test split alone; the same run asked for again with `test: true` is tested then.
    """

    experiment_name: Optional[str] = None
    stage: Stage = Stage.finetune
    arm: Optional[Arm] = None
    init: str = "source"
    seed: int = 0
    data_seed: int = 0
    subset_seed: int = "${seed}"  # type: ignore[assignment]
    init_seed: int = "${seed}"  # type: ignore[assignment]
    order_seed: int = "${seed}"  # type: ignore[assignment]
    source: Source = field(default_factory=Source)
    target: Target = field(default_factory=Target)
    scratch: Scratch = field(default_factory=Scratch)
    model: Model = field(default_factory=Model)
    weights: Weights = field(default_factory=Weights)
    freezing: Freezing = field(default_factory=Freezing)
    adaptation: Adaptation = field(default_factory=Adaptation)
    regularizer: Regularizer = field(default_factory=Regularizer)
    averaging: Averaging = field(default_factory=Averaging)
    optimizer: Optimizer = field(default_factory=Optimizer)
    scheduler: Scheduler = field(default_factory=Scheduler)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    floors: bool = True
    test: bool = True
    output_dir: str = "outputs"
    cache_dir: Optional[str] = None
    force: bool = False
    folder: Optional[str] = None
    sweep_name: Optional[str] = None
    search: Optional[Search] = None
    job: Optional[str] = None
    wait: bool = True
    overrides: list[str] = field(default_factory=list)
