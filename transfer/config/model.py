"""The model, where its weights come from, and which of them train how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional


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
