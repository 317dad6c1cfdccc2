"""The model of a run, with its tokenizer, and where its weights come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from transfer import image_inputs, models, parallel_adapter, parameters, weights
from transfer.config import Weights
from transfer.errors import Problem, UserError, nearest
from transfer.identity import PRETRAINED, RANDOM, SOURCE, local_folder
from transfer.models import encoder_decoder, subwords, word_vectors
from transfer.models.linear import LinearForSequenceClassification
from transfer.plan import Plan
from transfer.tasks.causal_lm import delimiters
from transfer.weights import WeightReport

log = logging.getLogger(__name__)
ENDS = ("bos_token_id", "eos_token_id")
# What follows from the number of a convolutional network's stages.
STAGES = ("stage_names", "out_features", "out_indices")
Texts = Callable[[], list[str]]


def initial(
    plan: Plan, task: Any, train: Any, texts: Texts, parent: Path | None
) -> tuple[PreTrainedModel, Any, WeightReport]:
    """Model, tokenizer (image processor for images, None for numeric features) and the account of its weights.

    The model is built at random from `seeds.init` first, so that a head without weights starts the same in every arm.

    Args:
        train: the training rows, for the scaling of a linear model.
        texts: gives the texts to build a word vocabulary from, or the images to make a processor for; called only
            where one is needed.
        parent: the model folder of the run it starts from.

    Raises:
        UserError: the model, its tokenizer or the weights cannot be had or do not fit.
    """
    models.register()
    weights_from = parent or plan.weights_from
    numeric = "features" in train.column_names
    image_inputs.require_kind(plan, task, images="image" in train.column_names)
    make = image_inputs.processor_for if task.reads_images else tokenizer_for
    tokenizer = None if numeric else make(plan, task, texts, weights_from)
    config = config_for(plan, task, tokenizer, len(train[0]["features"]) if numeric else 0)
    parallel_adapter.adopt(config, weights_from)
    torch.manual_seed(plan.seeds.init)
    auto = getattr(transformers, task.auto_class)
    with configured(plan):
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    if isinstance(model, LinearForSequenceClassification):
        labels = torch.tensor(train["label"][:]) if plan.task.name == "regression" else None
        model.fit_scaling(torch.tensor(train["features"][:]), labels)
    report = _load(plan, model, task, tokenizer, texts, weights_from)
    inside = parameters.in_backbone(model)
    if not report.loaded or not all(inside(name) for name in report.reinitialised):
        _start_head(model, task)
    return model, tokenizer, report


def _load(
    plan: Plan, model: PreTrainedModel, task: Any, tokenizer: Any, texts: Texts, weights_from: Path | None
) -> WeightReport:
    if weights_from is not None:
        state = weights.read_state(weights_from)
        same = _same_head(weights_from, task)
        if plan.init == SOURCE:
            state = {**_left_out(plan, task, model, state), **state}
        return weights.transfer(state, model, plan.weights, with_head=same)
    if plan.init == RANDOM:
        return WeightReport(reinitialised=list(model.state_dict()))
    assert plan.init == PRETRAINED, plan.init
    if plan.model.name:
        state, same = _published(plan, task)
        rules = Weights(min_fraction_loaded=0.5, reinit_top_k=plan.weights.reinit_top_k)
        return weights.transfer(state, model, rules, with_head=same, key="model.name")
    if plan.weights.reinit_top_k:
        allowed = "0: word vectors are all that this model starts from, its layers are new"
        raise UserError(Problem("weights.reinit_top_k", plan.weights.reinit_top_k, allowed, ""))
    return _vectors(plan, model, tokenizer, texts)


def _published(plan: Plan, task: Any) -> tuple[dict[str, torch.Tensor], bool]:
    """The library's published weights; with their head only where it predicts the same labels."""
    name = _source_name(plan)
    if plan.model.decoder:
        decoder = _source_name(plan, plan.model.decoder)
        whole = _named_config(plan)
        return _hub(lambda: encoder_decoder.published(name, decoder, plan.model.revision, whole), plan), True
    config = _named_config(plan)
    same = task.same_head(config)
    auto = getattr(transformers, task.auto_class) if same else AutoModel
    model, info = _hub(
        lambda: auto.from_pretrained(name, revision=plan.model.revision, dtype=torch.float32, output_loading_info=True),
        plan,
    )
    absent = set(info["missing_keys"])
    return {key: tensor for key, tensor in model.state_dict().items() if key not in absent}, same


def _left_out(plan: Plan, task: Any, model: PreTrainedModel, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published weights of the backbone that the source's model has not got, since its task has no use for them.

    BERT's pooler, for one, is not part of a masked language model. Training on the source would have left it as it was.
    """
    prefix, inside = parameters.backbone_prefix(model), parameters.in_backbone(model)
    absent = [name for name in model.state_dict() if inside(name) and name not in state]
    first = plan.parent
    while first is not None and first.parent is not None:
        first = first.parent
    if not absent or first is None or first.init != PRETRAINED or not plan.model.name or plan.weights.rename:
        return {}
    published, _ = _published(plan, task)
    found = {name: published.get(name, published.get(name.removeprefix(prefix))) for name in absent}
    filled = {name: tensor for name, tensor in found.items() if tensor is not None}
    if filled:
        log.info("as published, since the source's model is without them: %s", ", ".join(filled))
    return filled


def _vectors(plan: Plan, model: PreTrainedModel, tokenizer: Any, texts: Texts) -> WeightReport:
    """Word vectors are what a recurrent model has for published weights."""
    vectors = plan.model.vectors
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    if vectors.path:
        words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        matrix, found = word_vectors.load_vectors(vectors.path, words, vectors.words)
        word_vectors.set_embeddings(model, matrix, found)
        log.info("word vectors for %d of %d words", int(found.sum()), len(words))
    else:
        assert vectors.train, "validation asks for vectors where there is no name"
        matrix = word_vectors.train_word2vec(texts(), tokenizer, embeddings.shape[1], seed=plan.seeds.init)
        word_vectors.set_embeddings(model, matrix)
    name = next(name for name, parameter in model.named_parameters() if parameter is embeddings)
    state = model.state_dict()
    backbone = [key for key in state if parameters.in_backbone(model)(key)]
    fraction = embeddings.numel() / sum(state[key].numel() for key in backbone)
    return WeightReport([name], [key for key in state if key != name], [], fraction)


def _same_head(folder: Path, task: Any) -> bool:
    """Whether the weights' own config says that their head predicts what this task predicts."""
    return (folder / "config.json").is_file() and task.same_head(AutoConfig.from_pretrained(folder))


def config_for(plan: Plan, task: Any, tokenizer: Any, num_features: int) -> PreTrainedConfig:
    """The architecture: of the named model, or built from model.config.

    Raises:
        UserError: a setting that the architecture does not have, or a tokenizer with more words than the model.
    """
    own = dict(plan.model.config)
    settings = task.model_settings()
    processor, tokenizer = (tokenizer, None) if task.reads_images else (None, tokenizer)
    if plan.model.name:
        config = _named_config(plan)
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
        name = str(local_folder(plan.model.tokenizer) or plan.model.tokenizer or _source_name(plan))
        key = "model.tokenizer" if plan.model.tokenizer else "model.name"
        tokenizer = _hub(lambda: AutoTokenizer.from_pretrained(name, revision=plan.model.revision), plan, key)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
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


def input_limit(config: PreTrainedConfig, tokenizer: Any) -> int | None:
    """The most tokens that model and tokenizer take, or None where nothing limits them."""
    limits = [getattr(part, "max_position_embeddings", None) for part in encoder_decoder.parts(config)]
    limits += [getattr(tokenizer, "model_max_length", None)]
    # RoBERTa numbers its positions from padding_idx + 1, so two of its position embeddings are never reached.
    if config.model_type in ("roberta", "xlm-roberta", "camembert") and limits[0]:
        limits[0] -= 2
    real = [int(limit) for limit in limits if limit and limit < 1e6]
    return min(real) if real else None


def _named_config(plan: Plan) -> PreTrainedConfig:
    """The config of the named model, or of the two that are named."""
    revision, decoder = plan.model.revision, plan.model.decoder
    config = _hub(lambda: AutoConfig.from_pretrained(_source_name(plan), revision=revision), plan)
    if not decoder:
        return config
    name = _source_name(plan, decoder)
    own = _hub(lambda: AutoConfig.from_pretrained(name, revision=revision), plan, "model.decoder")
    return encoder_decoder.compose(config, own)


def _source_name(plan: Plan, name: str | None = None) -> str:
    name = name or str(plan.model.name)
    return str(local_folder(name) or name)


def _hub(load: Callable[[], Any], plan: Plan, key: str = "model.name") -> Any:
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


def _start_head(model: PreTrainedModel, task: Any) -> None:
    inside = parameters.in_backbone(model)
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not inside(n)]
    if layers and not isinstance(model, LinearForSequenceClassification):
        task.start_head(layers[-1])
