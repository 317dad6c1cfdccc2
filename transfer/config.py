"""The typed schema of the whole config.

Hydra composes YAML into these dataclasses, so a typo or a wrong type fails at composition, with its full key.
The checks between fields are in `transfer.validation`; what one run needs of all this is cut out by `transfer.plan`.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Optional

from transfer import records


class Stage(Enum):
    """The three kinds of runs."""

    pretrain = "pretrain"
    finetune = "finetune"
    scratch = "scratch"


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


@dataclass
class Vocabulary:
    """The vocabulary of the models that have no tokenizer of their own: `words`, or `subwords` to write any text.

    It is built from the training texts of the `source`, of the `target` or of `both`.
    """

    texts: str = "source"
    kind: str = "words"
    max_size: int = 20000
    min_count: int = 1
    lowercase: bool = True


@dataclass
class Vectors:
    """Word vectors for the embedding of a `recurrent` model: a file, or word2vec trained on the leg's own texts."""

    path: Optional[str] = None
    words: Optional[str] = None
    train: bool = False


@dataclass
class Model:
    """`name`: hub id, folder or package:PATH. Without one the model is built from `config` (`model_type` + fields).

    With a `decoder`, named likewise, the model of `name` is an encoder that this one reads and continues as text.
    `lr` and `scratch_lr` are what suits this family under Adam, from trained and from random weights.
    """

    name: Optional[str] = None
    decoder: Optional[str] = None
    revision: Optional[str] = None
    tokenizer: Optional[str] = None
    lr: float = 5e-5
    scratch_lr: float = 1e-4
    config: dict[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    vectors: Vectors = field(default_factory=Vectors)


@dataclass
class Weights:
    """Which tensors go from the initial weights into the model. Patterns are full-match regexes over names."""

    include: list[str] = field(default_factory=lambda: [".*"])
    exclude: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    min_fraction_loaded: float = 0.5
    reinit_top_k: int = 0


@dataclass
class Freezing:
    """A freezing policy and its settings; only those of the chosen policy are read."""

    policy: str = "none"
    k: int = 0
    epochs_per_layer: float = 1.0
    patterns: list[str] = field(default_factory=list)


@dataclass
class Adaptation:
    """Parameter-efficient fine-tuning: small new parameters train, the backbone's own do not.

    `r` is the rank of LoRA or the width of an adapter, `alpha` LoRA's alpha or the factor of an adapter, `options` are
    further settings of peft's config. `target_modules: null` means those that are usual for the architecture.
    """

    name: str = "none"
    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: Optional[list[str]] = None
    lr_multiplier: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Regularizer:
    """What holds the target's training near its initial weights; only the settings of the chosen one are read."""

    name: str = "none"
    alpha: float = 0.1
    beta: float = 0.01
    p: float = 0.7


@dataclass
class Averaging:
    """The mean of the weights over the last steps, as one more candidate for the best ones."""

    name: str = "none"
    start_fraction: float = 0.75
    decay: float = 0.99


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


def to_plain(config: Config) -> dict[str, Any]:
    """The config as plain nested dicts, as it goes into config.yaml, the record and the loggers."""
    plain: dict[str, Any] = asdict(config, dict_factory=_plain)
    return plain


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, Enum) else value for name, value in items}


def from_plain(plain: dict[str, Any]) -> Config:
    """The config back from `to_plain`, checked against the schema."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    assert isinstance(config, Config)
    return config


def save(config: Config, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    records.write_atomically(path, as_yaml(to_plain(config)))


# Text that OmegaConf, which reads more numbers than YAML 1.1 has, would not read as text.
_QUOTED = re.compile(r"[-+.]?[0-9].*|true|false|yes|no|on|off|null|~|[-+.]*(inf|nan)|", re.IGNORECASE)


def as_yaml(plain: dict[str, Any]) -> str:
    """As OmegaConf would write it, with libyaml 20 times faster: a sweep writes a config for each of its jobs."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        pass

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, "'" if _QUOTED.fullmatch(value) else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def load(path: Path) -> Config:
    """Read a config that `save` wrote."""
    import yaml

    plain = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert isinstance(plain, dict)
    return from_plain(plain)
