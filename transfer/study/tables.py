"""The data of a comparison as CSV: metrics and gains in the metric's own unit, unrounded, nothing left out.

An empty cell is a number that does not exist. `inf` as labels needed: more than the most that scratch was tried with.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transfer.study.details import Details
from transfer.study.results import Comparison, Contrast, Row

Line = dict[str, Any]


def write(comparison: Comparison, details: Details, folder: Path) -> list[Path]:
    """One file for each table that has a line."""
    found = {
        "comparison": _rows(comparison),
        "pairs": _pairs(comparison, details),
        "runs": _runs(comparison),
        "labels_saved": _saved(comparison),
        "crossovers": _crossovers(comparison),
        "speed": _speed(details),
        "classes": _classes(details),
        "confusion": _confusion(details),
        "costs": _costs(details),
    }
    paths = []
    for name, lines in found.items():
        everything = list(lines)
        if everything:
            paths.append(folder / f"{name}.csv")
            paths[-1].write_text(as_csv(everything), encoding="utf-8")
    return paths


def as_csv(lines: list[Line]) -> str:
    """Lines with the same keys -> text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: _cell(value) for key, value in line.items()})
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return "; ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _place(row: Row) -> Line:
    budget = row.budget
    return {
        "target": budget.target,
        "model": budget.model,
        "labels": row.num_labels,
        "arm": row.arm,
        "strategy": row.label,
    }


def _rows(comparison: Comparison) -> Iterator[Line]:
    for row in comparison.rows:
        level = row.level
        first = row.over_scratch[0] if row.over_scratch else None
        yield {
            **_place(row),
            "source": row.source,
            "metric": comparison.metric,
            "mean": row.score.mean,
            "sd": row.score.sd,
            "low": _finite(level.low),
            "high": _finite(level.high),
            "seeds": row.seeds,
            "folds": row.folds,
            "gain_over_scratch": first.gain.estimate if first else None,
            "verdict": first.verdict if first else None,
            "floor": row.over_floor.against if row.over_floor else None,
            "gain_over_floor": row.over_floor.gain.estimate if row.over_floor else None,
            "beats_floor": row.beats_floor,
            "collapsed": row.collapsed,
            "shown_only": row.secondary,
        }
    for floor in comparison.floors:
        line = dict.fromkeys(("source", "low", "high", "seeds", "folds", "gain_over_scratch", "verdict", "floor"))
        yield {
            "target": floor.budget.target,
            "model": floor.budget.model,
            "labels": floor.num_labels,
            "arm": "floor",
            "strategy": floor.name,
            "metric": comparison.metric,
            "mean": floor.score.mean,
            "sd": floor.score.sd,
            **line,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pairs(comparison: Comparison, details: Details) -> Iterator[Line]:
    for (row, contrast), opinion in zip(comparison.gains, details.opinions, strict=True):
        yield {
            **_pair(row, contrast, comparison),
            "bootstrap_low": opinion.low,
            "bootstrap_high": opinion.high,
            "p_permutation": opinion.p,
        }
    for row in comparison.rows:
        for contrast in row.over_direct:
            yield _pair(row, contrast, comparison)


def _pair(row: Row, contrast: Contrast, comparison: Comparison) -> Line:
    gain, needed = contrast.gain, contrast.needed
    return {
        **_place(row),
        "against": contrast.against,
        "metric": comparison.metric,
        "gain": gain.estimate,
        "low": _finite(gain.low),
        "high": _finite(gain.high),
        "standard_error": _finite(gain.standard_error),
        "p": gain.p_value,
        "p_holm": contrast.p_holm,
        "gains_tested": contrast.family,
        "verdict": contrast.verdict,
        "seeds": [side.run.seed for side in contrast.treated],
        "folds": [side.run.fold for side in contrast.treated if side.run.fold is not None],
        "gain_per_seed": gain.per_seed,
        "num_test": gain.num_test,
        "covers_seeds": gain.covers_seeds,
        "covers_examples": gain.covers_examples,
        "sd_of_a_seed": math.sqrt(gain.seed_variance) if gain.seed_variance >= 0 else None,
        "sd_of_the_examples": math.sqrt(gain.example_variance) if gain.example_variance >= 0 else None,
        "in_sd_of_scratch": contrast.noise,
        "gain_asked_for": needed.size if needed else None,
        "seeds_needed": needed.num_seeds if needed else None,
        "seeds_unknown_because": needed.why if needed else None,
        "likely_reasons": contrast.reasons,
        "notes": contrast.notes,
    }


def _runs(comparison: Comparison) -> Iterator[Line]:
    for row in comparison.rows:
        for index, (side, value) in enumerate(zip(row.sides, row.values, strict=True)):
            yield {
                **_place(row),
                "seed": side.run.seed,
                "fold": side.run.fold,
                "run": side.run.record.get("run_id"),
                "metric": f"{side.prefix}/{comparison.metric}",
                "value": value,
                "command": row.commands[index] if row.commands else None,
            }


def _saved(comparison: Comparison) -> Iterator[Line]:
    for found in comparison.saved:
        yield {
            "target": found.target,
            "model": found.model,
            "labels": found.num_labels,
            "strategy": found.label,
            "against": found.against,
            "labels_needed": found.needed,
            "low": found.low,
            "high": found.high,
            "labels_saved": found.needed - found.num_labels,
            "fewest_tried": found.least,
            "most_tried": found.most,
            "num_seeds": found.num_seeds,
        }


def _crossovers(comparison: Comparison) -> Iterator[Line]:
    for found in comparison.crossovers:
        yield {
            "target": found.target,
            "model": found.model,
            "strategy": found.label,
            "against": found.against,
            "labels": found.num_labels,
            "low": found.low,
            "high": found.high,
            "share_of_draws": found.share,
            "ahead_with_fewer": found.label if found.better_before else found.against,
        }


def _speed(details: Details) -> Iterator[Line]:
    for row, contrast, found in details.speeds:
        yield {
            **_place(row),
            "against": contrast.against,
            "jumpstart": found.jumpstart.mean,
            "jumpstart_sd": found.jumpstart.sd,
            "steps_to_scratch_best": found.steps,
            "steps_of_scratch": found.scratch_steps,
            "seeds_that_reach_it": found.num_reached,
            "num_seeds": found.num_seeds,
            "best_value_gain": found.final.mean,
            "best_value_gain_sd": found.final.sd,
        }


def _classes(details: Details) -> Iterator[Line]:
    for found in details.classes:
        yield {
            "labels": found.budget_labels,
            "strategy": found.label,
            "class": found.name,
            "metric": details.class_metric,
            "mean": found.score.mean,
            "sd": found.score.sd,
            "gain_over_scratch": found.gain,
        }


def _confusion(details: Details) -> Iterator[Line]:
    for row, found in details.confusions:
        for i, label in enumerate(found.classes):
            for j, answer in enumerate(found.classes):
                count = int(found.counts[i, j])
                if count:
                    yield {
                        **_place(row),
                        "class": label,
                        "answer": answer,
                        "count": count,
                        "num_seeds": found.num_seeds,
                    }


def _costs(details: Details) -> Iterator[Line]:
    costs = [(found, None) for found in details.costs] + [(found, uses) for found, uses in details.sources]
    for found, uses in costs:
        yield {
            "what": found.label,
            "labels": found.num_labels,
            "num_runs": found.num_runs,
            "mean_train_s": found.train_s,
            "mean_wall_s": found.wall_s,
            "mean_examples_per_s": found.examples_per_s,
            "mean_padding_fraction": found.padding_fraction,
            "mean_train_flops": found.train_flops,
            "mean_model_flops_utilisation": found.model_flops_utilisation,
            "mean_peak_bytes": found.peak_bytes,
            "runs_it_served": uses,
        }
