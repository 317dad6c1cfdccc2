"""The test episodes, answered in every way that is compared: by steps from several starts, and on frozen features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from transfer.fewshot.data import EpisodeData
from transfer.fewshot.episodes import Episode
from transfer.fewshot.module import MetaModule
from transfer.fewshot.prototypes import LOGITS, embed
from transfer.fewshot.settings import GRADIENT, METRIC
from transfer.progress import bar

log = logging.getLogger(__name__)

# Of `inner_lr`, the rates that a start may take which was not trained with one: the best on validation episodes.
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
TUNED_ON = 20
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Scores:
    """One way to answer the test episodes.

    Attributes:
        method: the run's algorithm, finetuning, linear_probe, prototypes or matching.
        start: whose weights: meta, what the run itself started from, or `all_tasks`, those of the joint model.
        steps: gradient steps before the answers; None where none are taken.
        lr: of these steps; None where they have learned rates.
        values: accuracy or mean squared error of each episode [episodes].
        own: whether this is what the run was trained for.
    """

    method: str
    start: str
    steps: int | None
    lr: float | None
    values: np.ndarray
    own: bool = False


def answer(module: MetaModule, data: EpisodeData, starts: dict[str, Any], num: int) -> list[Scores]:
    """All ways, each on the same `num` test episodes; `starts` are models by name, `meta` the run's own."""
    meta, found = module.meta, []
    with torch.no_grad(), bar("test episodes") as advance:
        for name, model in starts.items():
            if name == "meta" and meta.algorithm in GRADIENT:
                lr = None if meta.learn_inner_lr else meta.inner_lr
                found += _adapted(module, data, meta.algorithm, name, model, 1.0, lr, num, advance)
            elif "finetuning" in meta.baselines:
                scale = _best_scale(module, data, model, name)
                lr = scale * meta.inner_lr
                found += _adapted(module, data, "finetuning", name, model, scale, lr, num, advance)
        ways = [name for name in ("linear_probe", *METRIC) if name in meta.baselines or name == meta.algorithm]
        ways = [name for name in ways if data.classes or name == "linear_probe"]
        for name, model in starts.items() if ways else ():
            found += _on_features(module, data, ways, name, model, num, advance)
    return found


def _adapted(
    module: MetaModule,
    data: EpisodeData,
    method: str,
    start: str,
    model: Any,
    scale: float,
    lr: float | None,
    num: int,
    advance: Callable[[int], Any],
) -> list[Scores]:
    steps = module.meta.test_steps
    parts = []
    for part in _curves(module, data, "test", model, scale, num):
        parts.append(part)
        advance(len(part))
    table = np.concatenate(parts)
    own = method in GRADIENT
    return [
        Scores(method, start, number, lr, table[:, place], own and number == module.meta.inner_steps)
        for place, number in enumerate(steps)
    ]


def _curves(
    module: MetaModule, data: EpisodeData, split: str, model: Any, scale: float, num: int
) -> Iterator[np.ndarray]:
    """Scores [episodes, steps] of a few episodes at a time."""
    start, steps = dict(model.named_parameters()), module.meta.test_steps
    if model is module.model and module.meta.algorithm in GRADIENT:
        rates: Any = module.rates()
    else:  # of all weights, also where the run's own inner steps are of the head alone
        rates = dict.fromkeys(start, module.meta.inner_lr * scale)
    each = module.over(lambda episode: module.curve(episode, start, rates, steps))
    for episodes in data.chunks(split, num):
        yield each(_on_device(data.batch(episodes), module))[0].cpu().numpy()


def _on_device(batch: dict[str, Any], module: MetaModule) -> Any:
    device = next(module.model.parameters()).device
    return {name: pytree.tree_map(lambda each: each.to(device), batch[name]) for name in ("inputs", "labels")}


def _best_scale(module: MetaModule, data: EpisodeData, model: Any, name: str) -> float:
    """The scale of the rate that is best on validation episodes, after as many steps as the run's own way takes.

    Of a way that takes none, after the most that are tested.
    """
    meta = module.meta
    steps = meta.inner_steps if meta.algorithm in GRADIENT else max(meta.test_steps)
    if steps == 0:
        return 1.0
    after = meta.test_steps.index(steps)
    num, sign = min(TUNED_ON, meta.num_validation_episodes), 1 if data.classes else -1
    means = {}
    for scale in SCALES:
        table = np.concatenate(list(_curves(module, data, "validation", model, scale, num)))
        mean = float(table[:, after].mean())
        means[scale] = sign * mean if np.isfinite(mean) else -np.inf
    best = max(SCALES, key=lambda scale: means[scale])
    log.info(
        "fine-tuning from %s: rate %g, the best of %d after %d steps on %d validation episodes",
        name,
        best * module.meta.inner_lr,
        len(SCALES),
        steps,
        num,
    )
    return best


def _on_features(
    module: MetaModule,
    data: EpisodeData,
    ways: list[str],
    start: str,
    model: Any,
    num: int,
    advance: Callable[[int], Any],
) -> list[Scores]:
    """The backbone reads every row of the test classes once, for all episodes and methods."""
    features, place = _features(module, data, model)
    collected: dict[str, list[float]] = {name: [] for name in ways}
    for episodes in data.chunks("test", num):
        for episode in episodes:
            support, query = (features[place[each.ravel()]] for each in (episode.support, episode.query))
            labels = _labels(data, episode)
            for name in ways:
                collected[name].append(_score(name, support, query, *labels, ways=data.ways, classes=data.classes))
        advance(len(episodes))
    return [
        Scores(name, start, None, None, np.array(values), start == "meta" and name == module.meta.algorithm)
        for name, values in collected.items()
    ]


def _features(module: MetaModule, data: EpisodeData, model: Any) -> tuple[Tensor, np.ndarray]:
    """Vectors of all rows of the test classes, and where each row's is."""
    numbers = np.concatenate([data.pool.rows_of[unit] for unit in data.pool.units["test"]])
    lengths = np.array(data.encoded.select(numbers)["length"][:])
    numbers = numbers[np.argsort(-lengths, kind="stable")]
    device, parts = next(model.parameters()).device, []
    for begin in range(0, len(numbers), ROWS_AT_ONCE):
        chosen = numbers[begin : begin + ROWS_AT_ONCE].tolist()
        rows = [{**row, "index": n} for row, n in zip(data.encoded.__getitems__(chosen), chosen, strict=True)]
        inputs = data.task.collate(rows, data.tokenizer)["inputs"]
        inputs = {name: each.to(device) for name, each in inputs.items()}
        parts.append(embed(model, inputs, inputs.get("attention_mask")).float().cpu())
    place = np.full(len(data.encoded), -1)
    place[numbers] = np.arange(len(numbers))
    return torch.cat(parts), place


def _labels(data: EpisodeData, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    if data.classes:
        numbers = data.class_numbers().numpy()
        return numbers[: data.num_support], numbers[data.num_support :]
    labels = [np.array(data.encoded.select(part.ravel())["label"][:]) for part in (episode.support, episode.query)]
    return labels[0], labels[1]


def _score(
    name: str,
    support: Tensor,
    query: Tensor,
    support_labels: np.ndarray,
    query_labels: np.ndarray,
    *,
    ways: int,
    classes: bool,
) -> float:
    if name == "linear_probe":
        said = probe(support, support_labels, query, classes=classes)
        if not classes:
            return float(((said - query_labels) ** 2).mean())
    else:
        said = LOGITS[name](support, query, ways).argmax(dim=-1).numpy()
    return float((said == query_labels).mean())


def probe(support: Tensor, labels: np.ndarray, query: Tensor, *, classes: bool) -> np.ndarray:
    """What a regression on the features says of the queries: logistic on normalised ones (Tian et al. 2020), or ridge.

    Args:
        support: [rows, features], with their `labels` [rows].
        query: [queries, features].
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    if not classes:
        fitted: np.ndarray = Ridge(alpha=1.0).fit(support.numpy(), labels).predict(query.numpy())
        return fitted
    known, asked = F.normalize(support, dim=-1).numpy(), F.normalize(query, dim=-1).numpy()
    said: np.ndarray = LogisticRegression(C=10.0, max_iter=1000).fit(known, labels).predict(asked)
    return said
