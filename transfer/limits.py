"""Between which bounds the numbers of a config lie."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.config import Config, Data, Source, Target
from transfer.errors import Problem


def problems(config: Config) -> Iterable[Problem]:
    """Numbers out of their bounds."""
    yield from _numbers(config)
    yield from _not_negative(config)


def _numbers(config: Config) -> Iterable[Problem]:
    positive: dict[str, float | None] = {
        "source.optimizer.lr": config.source.optimizer.lr,
        "optimizer.lr": config.optimizer.lr,
        "scratch.lr": config.scratch.lr,
        "model.lr": config.model.lr,
        "model.scratch_lr": config.model.scratch_lr,
        "source.optimizer.layer_decay": config.source.optimizer.layer_decay,
        "source.optimizer.head_multiplier": config.source.optimizer.head_multiplier,
        "optimizer.layer_decay": config.optimizer.layer_decay,
        "optimizer.head_multiplier": config.optimizer.head_multiplier,
        "scratch.head_multiplier": config.scratch.head_multiplier,
        "trainer.gradient_clip_val": config.trainer.gradient_clip_val,
        "freezing.epochs_per_layer": config.freezing.epochs_per_layer,
    }
    for key, value in positive.items():
        if value is not None and not value > 0:
            yield Problem(key, value, "a number above 0", "")
    at_least_one: dict[str, int | None] = {
        "trainer.devices": config.trainer.devices,
        "trainer.num_nodes": config.trainer.num_nodes,
        "trainer.limit_train_batches": config.trainer.limit_train_batches,
        "trainer.limit_eval_batches": config.trainer.limit_eval_batches,
        "trainer.accumulate_grad_batches": config.trainer.accumulate_grad_batches,
        "scratch.max_epochs": config.scratch.max_epochs,
        "scratch.patience": config.scratch.patience,
        "trainer.log_every_n_steps": config.trainer.log_every_n_steps,
    }
    for leg, part in (("source", config.source), ("target", config.target)):
        data, budget = part.data, part.budget
        at_least_one |= {
            f"{leg}.data.train_size": data.train_size,
            f"{leg}.data.validation_size": data.validation_size,
            f"{leg}.data.test_size": data.test_size,
            f"{leg}.budget.max_epochs": budget.max_epochs,
            f"{leg}.budget.max_steps": budget.max_steps,
            f"{leg}.budget.batch_size": budget.batch_size,
            f"{leg}.budget.patience": budget.patience,
            f"{leg}.budget.tokens_per_batch": budget.tokens_per_batch,
            f"{leg}.task.max_length": part.task.max_length,
        }
        yield from _fractions(f"{leg}.data", data)
        best = "min" if part.task.monitor in ("loss", "mse", "mae", "rmse", "perplexity") else "max"
        if part.task.mode != best:
            yield Problem(
                f"{leg}.task.mode", part.task.mode, f"{best}, with {leg}.task.monitor={part.task.monitor}", "set both"
            )
        yield from _large_enough(config, leg, part)
    for key, count in at_least_one.items():
        if count is not None and count < 1:
            yield Problem(key, count, "a whole number of at least 1", "")
    if not 0 <= config.weights.min_fraction_loaded <= 1:
        yield Problem("weights.min_fraction_loaded", config.weights.min_fraction_loaded, "a fraction from 0 to 1", "")


def _not_negative(config: Config) -> Iterable[Problem]:
    at_least_zero: dict[str, float] = {
        "source.optimizer.weight_decay": config.source.optimizer.weight_decay,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "scratch.weight_decay": config.scratch.weight_decay,
        "trainer.num_workers": config.trainer.num_workers or 0,
        "trainer.checkpoint_every_s": config.trainer.checkpoint_every_s,
        "trainer.feature_cache_gb": config.trainer.feature_cache_gb,
    }
    for key, value in at_least_zero.items():
        if not value >= 0:
            yield Problem(key, value, "a number of at least 0", "")
    seeds = {"data_seed": config.data_seed, "source.seed": config.source.seed, "seed": config.seed}
    for name in ("subset_seed", "init_seed", "order_seed"):
        seed = getattr(config, name)
        if isinstance(seed, int) and seed != config.seed:  # a reference to `seed` until it is composed
            seeds[name] = seed
    for key, seed in seeds.items():
        if not 0 <= seed < 2**32:
            yield Problem(key, seed, "a whole number of at least 0, below 2 ** 32", "")


def _fractions(key: str, data: Data) -> Iterable[Problem]:
    for name in ("validation_fraction", "test_fraction"):
        value = getattr(data, name)
        if not 0 < value < 1:
            yield Problem(f"{key}.{name}", value, "a fraction between 0 and 1", "")
    if max(data.validation_fraction, data.test_fraction) < 1 <= data.validation_fraction + data.test_fraction:
        received = f"{data.validation_fraction} + {data.test_fraction}"
        yield Problem(
            f"{key}.validation_fraction + {key}.test_fraction",
            received,
            "less than 1 together",
            "leave rows to train on",
        )


def _large_enough(config: Config, leg: str, part: Source | Target) -> Iterable[Problem]:
    """Every part of a batch needs a row."""
    parts = config.trainer.devices * config.trainer.num_nodes * config.trainer.accumulate_grad_batches
    size, tokens, longest = part.budget.batch_size, part.budget.tokens_per_batch, part.task.max_length
    places = "devices x nodes x accumulate_grad_batches"
    if tokens is None:
        if 1 <= size < parts:
            allowed = f"at least {parts} ({places}): it is the global batch"
            yield Problem(f"{leg}.budget.batch_size", size, allowed, "")
        return
    key = f"{leg}.budget.tokens_per_batch"
    if part.data.columns.image or part.data.columns.features or part.task.name == "image_classification":
        yield Problem(key, tokens, "null: images and numbers have no tokens", f"set {leg}.budget.batch_size")
    elif 1 <= tokens < parts * longest:
        allowed = f"at least {parts * longest} ({leg}.task.max_length={longest} x {places}): it is the global batch"
        yield Problem(key, tokens, allowed, "")
