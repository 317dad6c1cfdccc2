"""How near `transfer auto` comes to the best of a full grid, and in which part of its time.

    python benchmarks/auto_grid.py [EXPERIMENT] [--sources movies ...] [--folder outputs] [--seeds 3]

The grid: every start (each source, and the published weights alone) in every way (head, LoRA, upper half, all) at
three learning rates, and from scratch, over the seeds; the best is known from its tests. `auto` chooses on validation
alone. What it chose and the best of the grid are then compared on the seeds of auto's last runs, by which neither was
chosen. Time is that of the records; auto finds the grid's sources trained, so they are counted in both, and in neither.
Whatever is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

RATES = (0.3, 1.0, 3.0)


def words_of(experiment: str, folder: str) -> list[str]:
    return [f"experiment={experiment}", f"output_dir={folder}", "logger=none"]


def train(words: list[str], seed: int) -> tuple[Any, dict[str, float]]:
    """The record of a run, and what it and its source took: seconds by run id."""
    from transfer import compose, plan, records, run

    config = compose.compose([*words, f"seed={seed}"])
    record = run.run(config)
    took = {record["run_id"]: record["time"]["wall_s"]}
    parent = plan.make(config).parent
    if parent is not None:
        done = records.complete(parent.output_dir, parent.experiment, parent.stage, parent.fingerprint)
        assert done is not None
        took[done["run_id"]] = done["time"]["wall_s"]
    return record, took


def tested(record: Any) -> float:
    """The test metric that stands beside the one that chose the best weights, turned so that more is better."""
    value = record["metrics"][record["monitor"]["name"].replace("val/", "test/")]
    return -value if record["monitor"]["mode"] == "min" else value


def grid(args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[str]], dict[str, float]]:
    """Strategy -> its tests by seed, and the words that start it; and the seconds of all runs."""
    from transfer.choose import candidates, strategies

    own = words_of(args.experiment, args.folder)
    name = f"experiment_name={args.experiment}_grid"
    first = [f"output_dir={args.folder}", name]
    starts, skipped = candidates.read(args.experiment, first, args.sources, [])
    assert not skipped, skipped
    starts.append(candidates.no_source("no source", [f"experiment={args.experiment}", *first]))
    ways = [strategies.HEAD, strategies.LORA, strategies.upper_half(args.layers), strategies.FULL]
    plan = starts[0].plan
    rate = plan.config.optimizer.lr or plan.config.model.lr
    tests: dict[str, list[float]] = {}
    words: dict[str, list[str]] = {}
    took: dict[str, float] = {}
    for strategy in [*strategies.of(starts, ways, RATES), strategies.Strategy(None)]:
        words[strategy.name] = strategy.words(rate)
        for seed in range(args.seeds):
            record, seconds = train([*own, name, *words[strategy.name]], seed)
            tests.setdefault(strategy.name, []).append(tested(record))
            took |= seconds
        print(f"{strategy.name}: {fmean(tests[strategy.name]):.4f}", flush=True)
    return tests, words, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="auto_products")
    parser.add_argument("--sources", nargs="+", default=["movies", "tweets", "editorials", "imdb", "sst2"])
    parser.add_argument("--folder", default="outputs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=6, help="of the model (default: 6)")
    parser.add_argument("--grid-only", action="store_true")
    args = parser.parse_args()
    tests, words, took = grid(args)
    ranked = sorted(tests, key=lambda name: -fmean(tests[name]))
    if args.grid_only:
        return

    from transfer.choose import auto, search

    logging = ["logger=none"]
    found = auto.auto(args.experiment, logging, args.sources, search.Budget(), args.folder, args.seeds)
    assert found.winner is not None
    chosen = found.winner.strategy.name
    arm = "scratch" if found.winner.strategy.start is None else None
    theirs = [tested(each) for each in found.finals if (each["arm"] == "scratch") == (arm == "scratch")]
    own = [*words_of(args.experiment, args.folder), f"experiment_name={args.experiment}_grid"]
    seeds = [auto.FIRST_FINAL_SEED + number for number in range(args.seeds)]
    best = [tested(train([*own, *words[ranked[0]]], seed)[0]) for seed in seeds]
    sources = {run_id: seconds for run_id, seconds in took.items() if run_id.startswith("pretrain")}
    total, shared = (sum(each.values()) + search.OVERHEAD_S * len(each) for each in (took, sources))  # as auto counts
    alone, whole = found.spent_s / (total - shared), (found.spent_s + shared) / total
    differences = [b - t for b, t in zip(best, theirs, strict=True)]
    about = {
        "grid": {name: tests[name] for name in ranked},
        "grid_seconds": round(total, 1),
        "source_seconds": round(shared, 1),
        "grid_runs": len(took),
        "best": {"strategy": ranked[0], "fresh": best},
        "auto": {"strategy": chosen, "fresh": theirs, "place": ranked.index(chosen) + 1 if chosen in ranked else None},
        "auto_seconds": round(found.spent_s, 1),
        "auto_runs": found.num_runs,
        "behind": fmean(differences),
        "behind_sd": stdev(differences) if len(differences) > 1 else None,
        "time": {"with_sources": whole, "without": alone},
    }
    file = Path(args.folder) / f"{args.experiment}_grid" / "auto_grid.json"
    file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    place = f"the grid's number {about['auto']['place']}" if about["auto"]["place"] else "not in the grid"
    print(f"\nbest of {len(ranked)}: {ranked[0]}: {fmean(tests[ranked[0]]):.4f}, with fresh seeds {fmean(best):.4f}")
    print(
        f"auto: {chosen} ({place}): with fresh seeds {fmean(theirs):.4f}, {100 * fmean(differences):+.1f} points behind"
    )
    print(f"time: {found.spent_s:.0f} of {total - shared:.0f} s: {alone:.3f}; {found.num_runs} of {len(took)} runs")
    print(f"with {shared:.0f} s for the sources in both: {whole:.3f}")
    print(file)


if __name__ == "__main__":
    main()
