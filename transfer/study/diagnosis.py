"""What the records show that may explain a bad result: collapsed seeds, and likely reasons of negative transfer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from transfer.study.floor_rows import floors
from transfer.study.learning import curve
from transfer.study.pairing import Side
from transfer.study.parents import Parents
from transfer.study.results import Contrast
from transfer.study.strategies import Record, Run
from transfer.study.weighted_metrics import NUMERIC
from transfer.study.words import is_percent, metric_words, score_words

LOW_OVERLAP = 0.7  # of the words of the test data; between two kinds of English text it is 0.8 to 0.95
FEW_LOADED = 0.9
HIGH_LR = 1e-3  # published transformers are fine-tuned with 1e-5 to 1e-4
CHANCE = 0.1  # correlation, or F1 above that of guessing, below which a source counts as not learned
_CONSTANT = ("majority", "mean")


def collapsed(sides: Sequence[Side], metric: str, higher_is_better: bool) -> list[str]:
    """A line for each seed that gives one answer to everything, or no more than a constant where others do well."""
    above = _above_constant(sides, metric, higher_is_better)
    lines = []
    for side, gap in zip(sides, above, strict=True):
        answer = _only_answer(side)
        if answer is not None:
            lines.append(f"{side.run.name} collapsed: it answers {answer} to every test example")
        elif gap <= 0 and _well_above(above, gap):
            value = score_words(side.value(metric) or 0.0, metric)
            lines.append(
                f"{side.run.name} collapsed: its {metric_words(metric)} ({value}) is no better than a constant "
                "answer, that of the other runs is"
            )
    return lines


def _only_answer(side: Side) -> str | None:
    """The one class that a classifier answers, None for any other run."""
    if side.run.record.get("task") == "regression" or side.run.predictions is None:
        return None
    answers, labels = side.answers(), side.run.predictions.labels
    if answers is None or not len(answers) or answers.dtype.kind != "U" or not (labels != labels[0]).any():
        return None
    return str(answers[0]) if (answers == answers[0]).all() else None


def _above_constant(sides: Sequence[Side], metric: str, higher_is_better: bool) -> list[float]:
    """How much better each side is than its constant floor, relative to the floor for errors; nan where unknown."""
    bounded = is_percent(metric) or metric in ("mcc", "pearson", "spearman")
    gaps = []
    for side in sides:
        found, value = floors(side.run, metric), side.value(metric)
        floor = next((found[name] for name in _CONSTANT if name in found), None)
        if floor is None or value is None:
            gaps.append(math.nan)
        else:
            scale = 1.0 if bounded else abs(floor) or 1.0
            gaps.append((value - floor if higher_is_better else floor - value) / scale)
    return gaps


def _well_above(gaps: Sequence[float], own: float) -> bool:
    """Whether the others are better than a constant by 5 points (of an error: by 5 %) or more, at the median."""
    others = [gap for gap in gaps if not math.isnan(gap)]
    others.remove(own)
    return bool(others) and statistics.median(others) > 0.05


def reasons(contrast: Contrast, metric: str, higher_is_better: bool, parents: Parents) -> list[str]:
    """Likely reasons of a gain below 0 that can be seen in the records, the plainest first."""
    runs = [side.run for side in contrast.treated]
    found = [
        _overlap(runs),
        _loaded(runs),
        _source(runs, parents),
        _rate(runs),
        _dropped(runs, metric, higher_is_better),
    ]
    return [reason for reason in found if reason is not None]


def _overlap(runs: Sequence[Run]) -> str | None:
    values = [float(v) for run in runs if (v := run.data.get("vocabulary_overlap")) is not None]
    if not values or statistics.mean(values) >= LOW_OVERLAP:
        return None
    return f"only {100 * statistics.mean(values):.0f} % of the words of the test data occur in the source's texts"


def _loaded(runs: Sequence[Run]) -> str | None:
    values = [float(v) for run in runs if (v := (run.record.get("weights") or {}).get("fraction_loaded")) is not None]
    if not values or min(values) >= FEW_LOADED:
        return None
    return f"only {100 * min(values):.0f} % of the backbone was loaded from the source"


def _source(runs: Sequence[Run], parents: Parents) -> str | None:
    for record in {r["fingerprint"]: r for run in runs for r in parents.find(run)}.values():
        words = not_learned(record)
        if words is not None:
            return f"the source was hardly learned ({record.get('run_id')}: {words})"
    return None


def not_learned(record: Record) -> str | None:
    """The test metric by which a source run is near chance, or None."""
    metrics = record.get("metrics") or {}
    classes = sum(name.startswith("test/f1/") for name in metrics)
    # Where spans have to be found first, guessing has no F1 to speak of.
    guessed = 1 / classes if classes > 1 and record.get("task") != "token_classification" else 0.0
    limits = [("mcc", CHANCE), ("pearson", CHANCE), ("f1", guessed + CHANCE / 2)]
    for name, limit in limits:
        value = metrics.get(f"test/{name}")
        if value is not None:
            return f"test {metric_words(name)} {score_words(float(value), name)}" if value < limit else None
    return None


def _rate(runs: Sequence[Run]) -> str | None:
    for run in runs:
        names = (run.record.get("weights") or {}).get("loaded") or []
        if not any("attention" in name.lower() or ".attn." in name for name in names):
            continue  # only of transformers is it known what is high
        config = run.record.get("config") or {}
        rate = (config.get("optimizer") or {}).get("lr") or (config.get("model") or {}).get("lr")
        if rate is not None and float(rate) >= HIGH_LR:
            return f"the learning rate {float(rate):g} is high for the weights of a trained transformer"
    return None


def _dropped(runs: Sequence[Run], metric: str, higher_is_better: bool) -> str | None:
    """The metric is best at the first validation and ends well below it, over the mean of the seeds."""
    sign = 1 if higher_is_better else -1
    curves = [found for run in runs if (found := curve(run, metric)) is not None and len(found.values) > 1]
    if not curves or metric in NUMERIC:
        return None
    first = statistics.mean(float(c.values[0]) for c in curves)
    last = statistics.mean(float(c.values[-1]) for c in curves)
    num_val = min(int(run.data.get("num_val") or 1) for run in runs)
    noise = (1 / num_val) ** 0.5  # two standard deviations of a share, at most
    if sign * (first - last) <= noise or any((sign * c.values).argmax() > 0 for c in curves):
        return None
    return (
        f"its validation {metric_words(metric)} falls from the first validation on ({score_words(first, metric)} to "
        f"{score_words(last, metric)}), as it does where the learning rate is too high for the pretrained weights"
    )
