"""The architecture and the tokenizer of a run: those of a named model, or built from `model.config` and the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from transfer import image_inputs
from transfer.errors import Problem, UserError, nearest
from transfer.identity import RANDOM, SOURCE, local_folder
from transfer.models import encoder_decoder, subwords, word_vectors
from transfer.plan import Plan
from transfer.tasks.causal_lm import delimiters

ENDS = ("bos_token_id", "eos_token_id")
# What follows from the number of a convolutional network's stages.
STAGES = ("stage_names", "out_features", "out_indices")
# What it gives can be gone through more than once.
Texts = Callable[[], Iterable[str]]


def config_for(plan: Plan, task: Any, tokenizer: Any, num_features: int) -> PreTrainedConfig:
    """The architecture: of the named model, or built from model.config.

    Raises:
        UserError: a setting that the architecture does not have, or a tokenizer with more words than the model.
    """
    own = dict(plan.model.config)
    settings = task.model_settings()
    processor, tokenizer = (tokenizer, None) if task.reads_images else (None, tokenizer)
    if plan.model.name:
        config = named_config(plan)
        unknown = [name for name in own if not hasattr(config, name)]
    else:
        kind = own.pop("model_type")
        if kind not in transformers.CONFIG_MAPPING:
            raise UserError(
                Problem("model.config.model_type", kind, "recurrent, linear, or a model type of transformers", "")
            )
        config = AutoConfig.for_model(kind)
        unknown = [name for name in own if not hasattr(config, name)]
        if num_features:
            own["num_features"] = num_features
        if tokenizer is not None:
            own |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
            own |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
            own |= {name: tokenizer.sep_token_id for name, number in own.items() if name in ENDS and number is None}
        if kind == encoder_decoder.MODEL_TYPE:
            own = encoder_decoder.built(own)
    if unknown:
        allowed = ", ".join(sorted(name for name in config.to_dict() if not name.startswith("_")))
        meant = {name: nearest(name, list(config.to_dict())) for name in unknown}
        raise UserError(
            [
                Problem(f"model.config.{name}", own[name], allowed, f"did you mean {guess}?" if guess else "")
                for name, guess in meant.items()
            ]
        )
    _require_input(config, num_features)
    _require_model(plan, config, task)
    if processor is not None:
        own |= image_inputs.settings(processor, config, named=bool(plan.model.name), options=task.options)
    with configured(plan):
        # A default may follow from other fields (T5's decoder is as deep as its encoder): it is nothing to build upon.
        base = config.to_dict() if plan.model.name else {}
        known = {name: value for name, value in base.items() if name not in STAGES}
        config = type(config).from_dict({**known, **own, **settings})
    if tokenizer is not None and config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if tokenizer is not None and config.is_encoder_decoder:
        encoder_decoder.delimit(config, *delimiters(tokenizer), force=not plan.model.name)
    vocabulary = getattr(config, "vocab_size", None)
    if tokenizer is not None and vocabulary is not None and len(tokenizer) > vocabulary:
        raise UserError(
            Problem(
                "model.tokenizer",
                f"{len(tokenizer):,} tokens",
                f"at most the {vocabulary:,} of the model",
                "use the model's own tokenizer",
            )
        )
    return config


@contextmanager
def configured(plan: Plan) -> Iterator[None]:
    """What a library says of the user's own model.config; without one, what goes wrong is no mistake of the user's."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
        if not plan.model.config:
            raise
        reason = " ".join(str(error).split())[:300]
        allowed = "settings of which this model can be built"
        raise UserError(Problem("model.config", plan.model.config, allowed, reason)) from error


def _require_model(plan: Plan, config: PreTrainedConfig, task: Any) -> None:
    """That this architecture can do this task."""
    if type(config) in getattr(transformers, task.auto_class)._model_mapping:
        return
    key = "model.name" if plan.model.name else "model.config.model_type"
    allowed = f"a model that transformers.{task.auto_class} builds, for {plan.leg}.task={plan.task.name}"
    raise UserError(Problem(key, plan.model.name or config.model_type, allowed, "choose another model or another task"))


def _require_input(config: PreTrainedConfig, num_features: int) -> None:
    if config.model_type == "linear" and not num_features:
        raise UserError(
            Problem(
                "target.data.columns.features",
                "[]",
                "the numeric columns that a linear model reads",
                "'target.data.columns.features=[a,b]'",
            )
        )
    if config.model_type != "linear" and num_features:
        raise UserError(
            Problem(
                "model",
                config.model_type,
                "linear: these data are numeric columns",
                "model=linear, or columns.features=[] and columns.text=COLUMN",
            )
        )


def tokenizer_for(plan: Plan, task: Any, texts: Texts, weights_from: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the weights, else the model's, else a word vocabulary of the texts."""
    if plan.init == SOURCE and weights_from is not None:
        return AutoTokenizer.from_pretrained(weights_from)
    if plan.model.tokenizer or plan.model.name:
        name = str(local_folder(plan.model.tokenizer) or plan.model.tokenizer or source_name(plan))
        key = "model.tokenizer" if plan.model.tokenizer else "model.name"
        tokenizer = from_hub(lambda: AutoTokenizer.from_pretrained(name, revision=plan.model.revision), plan, key)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if plan.model.tokenizer and plan.init != RANDOM and not plan.weights.exclude:
            _require_same_words(tokenizer, plan, weights_from)
        return tokenizer
    if weights_from is not None and (weights_from / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(weights_from)
    vocabulary = plan.model.vocabulary
    own = plan.model.config
    shapes = [own, *(own[part] for part in ("encoder", "decoder") if isinstance(own.get(part), dict))]
    build = {"words": word_vectors, "subwords": subwords}[vocabulary.kind].build_tokenizer
    built = build(
        texts(),
        max_size=vocabulary.max_size,
        min_count=vocabulary.min_count,
        lowercase=vocabulary.lowercase,
        max_length=min(int(shape.get("max_position_embeddings", 10**6)) for shape in shapes),
        special_tokens=task.special_tokens,
    )
    return encoder_decoder.with_end(built) if encoder_decoder.reads_end(own.get("model_type")) else built


def _require_same_words(tokenizer: PreTrainedTokenizerBase, plan: Plan, weights_from: Path | None) -> None:
    """Trained embeddings know tokens by their numbers: under another vocabulary each would stand for another word.

    Raises:
        UserError: the weights come with a tokenizer that numbers the tokens differently.
    """
    beside = weights_from is not None and (weights_from / "tokenizer_config.json").is_file()
    if not (beside or plan.model.name):
        return
    try:
        own = AutoTokenizer.from_pretrained(weights_from if beside else source_name(plan), revision=plan.model.revision)
    except (OSError, ValueError, KeyError):
        return  # they come without one
    known = own.get_vocab()
    # Words that were added behind the known ones move none of those.
    moved = [word for word, number in tokenizer.get_vocab().items() if number < len(own) and known.get(word) != number]
    if moved:
        some = ", ".join(sorted(moved)[:3])
        received = f"{plan.model.tokenizer}: {len(moved):,} tokens have another number than the weights know ({some})"
        allowed = "the tokenizer of the weights, or one with more tokens behind its own"
        action = "leave model.tokenizer out; with weights.exclude the embeddings can be left behind"
        raise UserError(Problem("model.tokenizer", received, allowed, action))


def input_limit(config: PreTrainedConfig, tokenizer: Any) -> int | None:
    """The most tokens that model and tokenizer take, or None where nothing limits them."""
    limits = [getattr(part, "max_position_embeddings", None) for part in encoder_decoder.parts(config)]
    limits += [getattr(tokenizer, "model_max_length", None)]
    # RoBERTa numbers its positions from padding_idx + 1, so two of its position embeddings are never reached.
    if config.model_type in ("roberta", "xlm-roberta", "camembert") and limits[0]:
        limits[0] -= 2
    real = [int(limit) for limit in limits if limit and limit < 1e6]
    return min(real) if real else None


def named_config(plan: Plan) -> PreTrainedConfig:
    """The config of the named model, or of the two that are named."""
    revision, decoder = plan.model.revision, plan.model.decoder
    config = from_hub(lambda: AutoConfig.from_pretrained(source_name(plan), revision=revision), plan)
    if not decoder:
        return config
    name = source_name(plan, decoder)
    own = from_hub(lambda: AutoConfig.from_pretrained(name, revision=revision), plan, "model.decoder")
    return encoder_decoder.compose(config, own)


def source_name(plan: Plan, name: str | None = None) -> str:
    name = name or str(plan.model.name)
    return str(local_folder(name) or name)


def from_hub(load: Callable[[], Any], plan: Plan, key: str = "model.name") -> Any:
    """What transformers and the hub raise, as a message to the user."""
    received = getattr(plan.model, key.removeprefix("model."))
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        allowed = "a hub id (with a network, or in the cache), a model folder, or package:NAME/PATH"
        raise UserError(Problem(key, received, allowed, reason)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in (
            "safetensors_rust",
            "safetensors",
            "huggingface_hub",
            "pickle",
            "_pickle",
        ):
            raise UserError(
                Problem(key, received, "weights that can be read", f"{error}; the file may be cut off")
            ) from error
        raise
