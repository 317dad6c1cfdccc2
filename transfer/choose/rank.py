"""`transfer rank`: candidates scored for a target before any is trained from, and how right the scores have been."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from transfer import records
from transfer.choose import candidates, measured
from transfer.choose.measured import Gain, Target
from transfer.choose.scoring import SCORES, Scored, score
from transfer.choose.track import LEAST_SOURCES, Track, track
from transfer.errors import Problem, UserError
from transfer.records import Record

log = logging.getLogger(__name__)

FILE = "rank.json"
NO_SOURCE = "no source"


@dataclass(frozen=True)
class TrackRecord:
    """How well one score has ordered sources by their measured gains, over the targets where there are enough of both.

    Attributes:
        tau, weighted_tau: means over targets.
        regret: k -> the mean over targets of what the best of the k highest scored gains less than the best of all.
        chance: k -> the same, expected of k that are drawn at random.
    """

    score: str
    num_targets: int
    num_sources: int
    tau: float
    weighted_tau: float
    regret: dict[int, float]
    chance: dict[int, float]

    @property
    def right(self) -> bool:
        """Whether it has been better than chance, in the order and in the choice."""
        return self.weighted_tau > 0 and self.regret[1] < self.chance[1]


@dataclass
class Ranking:
    """What `transfer rank` found.

    Attributes:
        scored: the candidates, the most promising first by `by`.
        by: the score they are in order of; the most right one on other targets, else the linear probe, else LogME.
        skipped: candidates that cannot be looked at -> why.
        gains: measured on this target so far, by candidate key.
        history: the track records, the best first; empty without enough measured gains.
        elsewhere: the same without this target's data: what was learned from its own gains cannot justify a choice.
    """

    experiment: str
    target: Target
    scored: list[Scored]
    by: str
    skipped: dict[str, str] = field(default_factory=dict)
    gains: dict[str, Gain] = field(default_factory=dict)
    history: list[TrackRecord] = field(default_factory=list)
    elsewhere: list[TrackRecord] = field(default_factory=list)
    folder: Path = field(default_factory=Path)

    @property
    def best(self) -> TrackRecord | None:
        """The track record of the score that has been the most right elsewhere; None where none has been."""
        return next((each for each in self.elsewhere if each.right), None)

    @property
    def first(self) -> list[Scored]:
        """The highest by `by`; several where they are equal."""
        values = [each.scores[self.by] for each in self.scored if self.by in each.scores]
        return [each for each in self.scored if each.scores.get(self.by) == max(values)] if values else []


def rank(
    experiment: str, overrides: Sequence[str], sources: Sequence[str], models: Sequence[str], output_dir: str
) -> Ranking:
    """Score the candidates and write them down.

    Without any that are named, the candidates are all sources that are trained below ``output_dir``. The published
    weights alone, where the experiment's model has any, always are one.

    Raises:
        UserError: the experiment cannot be composed, or not one candidate can be looked at.
    """
    words = [*overrides, f"output_dir={output_dir}"]
    named = dict.fromkeys(sources)
    if not sources and not models:
        named = dict.fromkeys(candidates.trained_sources(Path(output_dir)))
    found, skipped = candidates.read(experiment, words, list(named), models)
    try:
        found.append(candidates.no_source(NO_SOURCE, [f"experiment={experiment}", *words]))
    except UserError as error:
        log.info("no source is no candidate: %s", candidates.why(error))
    scored: list[Scored] = []
    for number, candidate in enumerate(found, 1):
        if candidate.key in {each.candidate.key for each in scored}:
            continue
        log.info("%d of %d: %s", number, len(found), candidate.name)
        try:
            scored.append(score(candidate))
        except UserError as error:
            skipped[candidate.name] = candidates.why(error)
    if not scored:
        received = "; ".join(f"{name} ({reason})" for name, reason in skipped.items()) or "none"
        allowed = "data sets of conf/data, runs, model folders; --models for published weights"
        raise UserError(Problem("--sources", received, allowed, "train one first: `transfer run ... stage=pretrain`"))
    return _ranking(experiment, scored, skipped, Path(output_dir))


def _ranking(experiment: str, scored: list[Scored], skipped: dict[str, str], output_dir: Path) -> Ranking:
    plan = scored[0].candidate.plan
    target = measured.target_of(plan)
    all_records = records.find(output_dir)
    folder = output_dir / experiment / f"rank-{_name(target, scored)}"
    ranking = Ranking(experiment, target, scored, "", skipped, measured.gains(all_records, target), folder=folder)
    _write(ranking)
    ranking.history = history(output_dir, all_records, target.metric)
    ranking.elsewhere = history(output_dir, all_records, target.metric, without=target.data)
    there = {name for each in scored for name in each.scores}
    by = ranking.best.score if ranking.best else "linear_probe"
    ranking.by = next(
        (name for name in (by, "linear_probe", "logme", "vocabulary", "labels") if name in there), "logme"
    )
    scored.sort(key=lambda each: -each.scores.get(ranking.by, -float("inf")))
    return ranking


def _name(target: Target, scored: list[Scored]) -> str:
    """Of one target with one budget and model; another ranking of it adds to the same file."""
    about = [target.to_dict(), scored[0].candidate.plan.seeds.subset]
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=5).hexdigest()


def _write(ranking: Ranking) -> None:
    """rank.json, with what earlier rankings of this target have said of other candidates, and rank.csv."""
    ranking.folder.mkdir(parents=True, exist_ok=True)
    file = ranking.folder / FILE
    now = {each.candidate.key: _entry(each) for each in ranking.scored}
    earlier = {key: value for key, value in (_read(file) or {}).get("candidates", {}).items() if key not in now}
    about = {
        "experiment": ranking.experiment,
        "target": ranking.target.to_dict(),
        "candidates": now | earlier,
        "skipped": ranking.skipped,
    }
    records.write_atomically(file, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["candidate", "start", *(each.name for each in SCORES), "gain", "num_seeds", "seconds"])
    for each in ranking.scored:
        gain = ranking.gains.get(each.candidate.key)
        values = [each.scores.get(one.name, "") for one in SCORES]
        measured_ = [gain.mean, gain.num_seeds] if gain else ["", ""]
        writer.writerow([each.candidate.name, each.candidate.key, *values, *measured_, round(each.seconds, 3)])
    records.write_atomically(ranking.folder / "rank.csv", sink.getvalue())


def _entry(scored: Scored) -> dict[str, Any]:
    return {
        "name": scored.candidate.name,
        "scores": scored.scores,
        "missing": scored.missing,
        "layers": scored.layers,
        "seconds": round(scored.seconds, 3),
    }


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "target" in found else None


def history(output_dir: Path, found: Sequence[Record], metric: str, without: str | None = None) -> list[TrackRecord]:
    """The track record of each score over all rankings below ``output_dir``, the best first.

    Args:
        metric: of the targets that count: gains in another one are no numbers to average with.
        without: the fingerprint of the data of targets that do not count.
    """
    tracks: dict[str, list[tuple[Track, list[float]]]] = {}
    for file in sorted(output_dir.glob(f"*/rank-*/{FILE}")):
        about = _read(file)
        if about is None or about["target"]["metric"] != metric or about["target"]["data"] == without:
            continue
        gains = measured.gains(found, Target(**about["target"]))
        for each in SCORES:
            both = [
                (entry["scores"][each.name], gains[key].mean)
                for key, entry in about["candidates"].items()
                if key in gains and each.name in entry["scores"]
            ]
            if len(both) < LEAST_SOURCES:
                continue
            scores_, gained = (list(values) for values in zip(*both, strict=True))
            try:
                found_ = track(scores_, gained)
            except ValueError:
                continue  # all the same: it said nothing
            tracks.setdefault(each.name, []).append((found_, gained))
    rows = [_over_targets(name, each) for name, each in tracks.items()]
    return sorted(rows, key=lambda row: (-row.weighted_tau, row.regret[1]))


def _over_targets(name: str, found: list[tuple[Track, list[float]]]) -> TrackRecord:
    ks = [k for k in found[0][0].regret if all(k in each.regret for each, _ in found)]
    return TrackRecord(
        name,
        len(found),
        sum(each.num_sources for each, _ in found),
        fmean(each.tau for each, _ in found),
        fmean(each.weighted_tau for each, _ in found),
        {k: fmean(each.regret[k] for each, _ in found) for k in ks},
        {k: fmean(regret_of_chance(gained, k) for _, gained in found) for k in ks},
    )


def regret_of_chance(gains: Sequence[float], k: int) -> float:
    """What the best of ``k`` sources drawn at random is expected to gain less than the best of all.

    Of n gains in rising order the i-th is the best of a draw with probability C(i - 1, k - 1) / C(n, k).
    """
    from math import comb

    rising, whole = sorted(gains), comb(len(gains), k)
    expected = sum(gain * comb(i, k - 1) / whole for i, gain in enumerate(rising))
    return rising[-1] - expected
