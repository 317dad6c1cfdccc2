"""What a run trains on and how: the data, task, budget and optimizer of the source or the target."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Optional

from transfer.config.meta import Meta


class Stage(Enum):
    """The kinds of runs; those of the source are `pretrain` and, where `source.meta` has an algorithm, `meta`."""

    pretrain = "pretrain"
    meta = "meta"
    finetune = "finetune"
    scratch = "scratch"

    @property
    def is_source(self) -> bool:
        return self in (Stage.pretrain, Stage.meta)


class Arm(Enum):
    """How a target run was initialised: from the source, from published weights, at random."""

    transfer = "transfer"
    direct = "direct"
    scratch = "scratch"


@dataclass
class Columns:
    """Names of the columns in the user's file.

    `features` (numeric columns), `tokens` (lists of words) or `image` replaces `text`; `choices` are the columns of the
    answers to choose from. Without a label column there is text alone, for a language model.
    """

    text: Optional[str] = "text"
    text_pair: Optional[str] = None
    tokens: Optional[str] = None
    image: Optional[str] = None
    choices: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    label: Optional[str] = "label"
    id: Optional[str] = None
    group: Optional[str] = None


@dataclass
class Files:
    """One file a split. With `train` alone, validation and test are drawn from it."""

    train: Optional[str] = None
    validation: Optional[str] = None
    test: Optional[str] = None


@dataclass
class Data:
    """One labelled data set. `path`: embedded:NAME, a hub id, a file or a folder; or `files`, one a split.

    With `folds` the rows of all splits are cut anew for a cross-validation; number `fold`, from 0, is the test split.

    With `streaming`, for a source, the training rows are read as they are trained on, and not converted before; of
    `shuffle_buffer` rows that are held, half are drawn at random and replaced. Validation and test rows are those of
    their files, or the first `validation_size` and `test_size` rows.
    """

    name: Optional[str] = None
    path: Optional[str] = None
    config_name: Optional[str] = None
    revision: Optional[str] = None
    local: Optional[str] = None
    files: Files = field(default_factory=Files)
    format: Optional[str] = None
    columns: Columns = field(default_factory=Columns)
    labels: list[str] = field(default_factory=list)
    label_map: dict[str, str] = field(default_factory=dict)
    label_separator: Optional[str] = None
    drop_invalid: bool = False
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    train_size: Optional[int] = None
    validation_size: Optional[int] = None
    test_size: Optional[int] = None
    folds: Optional[int] = None
    fold: Optional[int] = None
    streaming: bool = False
    shuffle_buffer: int = 10_000


@dataclass
class Task:
    """What is predicted from the data, and the validation metric that chooses the best weights."""

    name: str = "sequence_classification"
    max_length: int = 128
    multi_label: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    class_weights: Any = None
    monitor: str = "accuracy"
    mode: str = "max"


@dataclass
class Optimizer:
    """A torch optimizer, and the rules that give each parameter its rate and decay. `lr: null` is the model's own."""

    _target_: str = "torch.optim.AdamW"
    lr: Optional[float] = None
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    head_multiplier: float = 1.0
    decay_norms_and_biases: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Scheduler:
    """The learning rate over the steps of a run."""

    name: str = "linear"
    warmup_steps: int = 0
    warmup_fraction: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Budget:
    """How long a leg trains. `batch_size` is the global one, over all devices and accumulation steps.

    With `tokens_per_batch`, in place of it, a batch has as many rows of similar length as fit into so many tokens,
    padding included (rows times the longest); its gradient is the mean over its rows, however many they are.
    """

    max_epochs: int = 4
    max_steps: Optional[int] = None
    min_steps: int = 0
    batch_size: int = 16
    patience: Optional[int] = None
    tokens_per_batch: Optional[int] = None


@dataclass
class Also:
    """One more data set of a source, with a task of its own. `task.monitor` is logged, and chooses no weights."""

    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)


@dataclass
class Source:
    """The source leg: trained once, shared by every target run that starts from it.

    With `before`, another source, it starts from that one, and so on: a chain, the first of which starts from `init`.

    With `also`, NAME: {data, task}, it is trained on further data sets at the same time: one backbone, a head for each
    set. A batch is of one set, drawn with a probability proportional to size ** (1 / temperature): 1 is in proportion
    to the sizes (training rows as they are batched), more is flatter. An epoch is as many batches as all sets have.
    `data` and `task` are those of the first set: its monitor chooses the best weights, and its head is the saved
    model's own.
    """

    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    budget: Budget = field(default_factory=Budget)
    optimizer: Optimizer = field(default_factory=Optimizer)
    scheduler: Scheduler = field(default_factory=Scheduler)
    init: str = "pretrained"
    seed: int = 0
    before: Optional[Source] = None
    also: dict[str, Also] = field(default_factory=dict)
    temperature: float = 1.0
    meta: Meta = field(default_factory=Meta)

    @property
    def stage(self) -> Stage:
        """Of its run."""
        return Stage.pretrain if self.meta.algorithm == "none" else Stage.meta


@dataclass
class Target:
    """The target leg."""

    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    budget: Budget = field(default_factory=Budget)


@dataclass
class Scratch:
    """What the scratch arm has of its own, so that it is no crippled baseline.

    It trains with its own learning rate, at least `min_steps` and then until its validation metric has not improved for
    `patience` epochs. `lr: null` is that of the model for scratch, or `optimizer.lr` in the same proportion.
    """

    lr: Optional[float] = None
    head_multiplier: float = 1.0
    weight_decay: float = 0.01
    scheduler: str = "constant"
    warmup_fraction: float = 0.0
    warmup_steps: int = 30
    min_steps: int = 150
    max_epochs: int = 60
    patience: int = 8
