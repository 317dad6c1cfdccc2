"""The model of a run, and where its weights come from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel

from transfer import architecture, image_inputs, models, parallel_adapter, parameters, shared, weights
from transfer.architecture import Texts
from transfer.config import Weights
from transfer.errors import Problem, UserError
from transfer.identity import PRETRAINED, RANDOM, SOURCE
from transfer.models import encoder_decoder, word_vectors
from transfer.models.linear import LinearForSequenceClassification
from transfer.plan import Plan
from transfer.weights import WeightReport

log = logging.getLogger(__name__)


def initial(
    plan: Plan, task: Any, train: Any, texts: Texts, parent: Path | None, *, tokenizer: Any = None
) -> tuple[PreTrainedModel, Any, WeightReport]:
    """Model, tokenizer (image processor for images, None for numeric features) and the account of its weights.

    The model is built at random from `seeds.init` first, so that a head without weights starts the same in every arm.

    Args:
        train: the training rows, for the scaling of a linear model.
        texts: gives the texts to build a word vocabulary from, or the images to make a processor for; called only
            where one is needed.
        parent: the model folder of the run it starts from.
        tokenizer: one that is there already.

    Raises:
        UserError: the model, its tokenizer or the weights cannot be had or do not fit.
    """
    models.register()
    weights_from = parent or plan.weights_from
    numeric = "features" in train.column_names
    image_inputs.require_kind(plan, task, images="image" in train.column_names)
    make = image_inputs.processor_for if task.reads_images else architecture.tokenizer_for
    if tokenizer is None and not numeric:
        tokenizer = make(plan, task, texts, weights_from)
    config = architecture.config_for(plan, task, tokenizer, len(train[0]["features"]) if numeric else 0)
    parallel_adapter.adopt(config, weights_from)
    torch.manual_seed(plan.seeds.init)
    auto = getattr(transformers, task.auto_class)
    with architecture.configured(plan):
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    if isinstance(model, LinearForSequenceClassification):
        labels = torch.tensor(train["label"][:]) if plan.task.name == "regression" else None
        model.fit_scaling(torch.tensor(train["features"][:]), labels)
    report = _load(plan, model, task, tokenizer, texts, weights_from)
    inside = parameters.in_backbone(model)
    if not report.loaded or not all(inside(name) for name in report.reinitialised):
        _start_head(model, task)
    task.meet(model, tokenizer, f"{plan.leg}.task")
    return model, tokenizer, report


def _load(
    plan: Plan, model: PreTrainedModel, task: Any, tokenizer: Any, texts: Texts, weights_from: Path | None
) -> WeightReport:
    if weights_from is not None:
        state = weights.read_state(weights_from)
        same = _same_head(weights_from, task)
        if not same:
            state, same = shared.completed(weights_from, state, task, parameters.in_backbone(model))
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
    name = architecture.source_name(plan)
    if plan.model.decoder:
        decoder = architecture.source_name(plan, plan.model.decoder)
        whole = architecture.named_config(plan)
        return architecture.from_hub(
            lambda: encoder_decoder.published(name, decoder, plan.model.revision, whole), plan
        ), True
    config = architecture.named_config(plan)
    same = task.same_head(config)
    auto = getattr(transformers, task.auto_class) if same else AutoModel
    model, info = architecture.from_hub(
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


def _start_head(model: PreTrainedModel, task: Any) -> None:
    inside = parameters.in_backbone(model)
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not inside(n)]
    if layers and not isinstance(model, LinearForSequenceClassification):
        task.start_head(layers[-1])
