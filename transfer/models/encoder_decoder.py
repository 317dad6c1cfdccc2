"""An encoder that is read by a decoder, both published (Rothe et al. 2020): transformers' `EncoderDecoderModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transfer.errors import Problem, UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

MODEL_TYPE = "encoder-decoder"


def settings(encoder: dict[str, Any], decoder: dict[str, Any], **both: Any) -> dict[str, Any]:
    """The settings of the two as those of an `EncoderDecoderConfig`; `both` are set in the two of them."""
    reads = {"is_decoder": False, "add_cross_attention": False}
    writes = {"is_decoder": True, "add_cross_attention": True}
    return {"encoder": {**encoder, **both, **reads}, "decoder": {**decoder, **both, **writes}}


def compose(encoder: PreTrainedConfig, decoder: PreTrainedConfig) -> PreTrainedConfig:
    """The config of a published encoder that a published decoder reads."""
    from transformers import EncoderDecoderConfig

    return EncoderDecoderConfig(**settings(encoder.to_dict(), decoder.to_dict()))


def built(own: dict[str, Any]) -> dict[str, Any]:
    """What the user and the tokenizer say of a model that is built from `model.config`, in both of its parts.

    Raises:
        UserError: settings that a part does not have.
    """
    from transformers import AutoConfig

    both = {name: own[name] for name in ("vocab_size", "pad_token_id") if name in own}
    problems = []
    for part in ("encoder", "decoder"):
        given = own.get(part) or {}
        allowed = AutoConfig.for_model(given.get("model_type", "bert")).to_dict()
        for name in given.keys() - allowed.keys():
            action = f"did you mean {guess}?" if (guess := nearest(name, list(allowed))) else ""
            problems.append(Problem(f"model.config.{part}.{name}", given[name], ", ".join(sorted(allowed)), action))
    if problems:
        raise UserError(problems)
    encoder = {"model_type": "bert", **(own.get("encoder") or {})}
    return {**own, **settings(encoder, {**encoder, **(own.get("decoder") or {})}, **both)}


def delimit(config: PreTrainedConfig, begin: int, end: int, *, force: bool) -> None:
    """Tell a config from which token its decoder starts and at which it stops; with `force`, whatever it says."""
    for name, token in (("decoder_start_token_id", begin), ("eos_token_id", end)):
        if force or getattr(config, name, None) is None:
            setattr(config, name, token)


def reads_end(model_type: str | None) -> bool:
    """Whether models of this type are given texts that end with the end token: T5 and BART classify by its state."""
    from transformers import CONFIG_MAPPING

    if model_type is None or model_type == MODEL_TYPE or model_type not in CONFIG_MAPPING:
        return False
    return bool(getattr(CONFIG_MAPPING[model_type], "is_encoder_decoder", False))


def with_end(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, from now on with a separator behind each text, where there is one only between them."""
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end}:1 $B:1 {end}:1", special_tokens=[(end, tokenizer.sep_token_id)]
    )
    return tokenizer


def parts(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """The configs that have sizes: of the two models where there are two, else the one."""
    return [config.encoder, config.decoder] if config.model_type == MODEL_TYPE else [config]


def published(encoder: str, decoder: str, revision: str | None, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The tensors that the two published models bring, by their names in the whole.

    A decoder that was published as an encoder brings no attention to another model, and mostly no language model head.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    state: dict[str, Tensor] = {}
    auto: Any
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is told by the weight report
    try:
        for prefix, auto, name, own in (
            ("encoder.", AutoModel, encoder, config.encoder),
            ("decoder.", AutoModelForCausalLM, decoder, config.decoder),
        ):
            model, info = auto.from_pretrained(
                name, config=own, revision=revision, dtype=torch.float32, output_loading_info=True
            )
            absent = set(info["missing_keys"])
            state |= {prefix + key: tensor for key, tensor in model.state_dict().items() if key not in absent}
    finally:
        logging.set_verbosity(verbosity)
    return state
