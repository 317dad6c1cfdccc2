"""What `transfer rank` prints: the scores, how right they have been, what follows, and the next command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from rich.table import Table

from transfer.choose import rank_figure
from transfer.choose.rank import NO_SOURCE, Ranking, TrackRecord
from transfer.choose.scoring import SCORES, Scored
from transfer.listing import console
from transfer.study.words import is_percent, listed, metric_words, number

WORDS = {each.name: each.words for each in SCORES}


def print_ranking(ranking: Ranking, overrides: Sequence[str]) -> None:
    """Table, track record, sentences, files, next commands; the figure is drawn here."""
    out = console()
    target = ranking.target
    labels = "all labels" if target.train_size is None else f"{target.train_size:,} labels"
    out.print(f"[bold]What to start from for {target.name}, with {labels}[/bold]", highlight=False)
    out.print(_scores(ranking), highlight=False)
    for line in _remarks(ranking):
        out.print(line, highlight=False, soft_wrap=True)
    if ranking.history:
        out.print("\n[bold]How right the scores have been[/bold]", highlight=False)
        out.print(_history(ranking.history, target.metric), highlight=False)
    out.print()
    for line in sentences(ranking):
        out.print(line, highlight=False, soft_wrap=True)
    files = rank_figure.write(ranking)
    print("\nNext")
    for command in next_commands(ranking, overrides):
        print(f"  {command}")
    print(f"\nPicture  {files[0]}\nTable    {ranking.folder / 'rank.csv'}")


def _scores(ranking: Ranking) -> Table:
    shown = [each for each in SCORES if any(each.name in one.scores for one in ranking.scored)]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("candidate", no_wrap=True)
    for each in shown:
        table.add_column(("*" if each.name == ranking.by else "") + each.words, justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    best = {each.name: max(one.scores.get(each.name, -math.inf) for one in ranking.scored) for each in shown}
    for one in ranking.scored:
        cells = [_cell(one, each.name, best[each.name]) for each in shown]
        gain = ranking.gains.get(one.candidate.key)
        said = number(gain.mean, ranking.target.metric, signed=True) if gain else ""
        table.add_row(one.candidate.name, *cells, said, f"{one.seconds:.1f}")
    return table


def _cell(one: Scored, name: str, best: float) -> str:
    value = one.scores.get(name)
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return f"[bold]{text}[/bold]" if value == best else text


def _remarks(ranking: Ranking) -> list[str]:
    """How to read the table; which candidates it is without, and which scores they are without."""
    lines = [
        "of every score more is better; * orders the table, bold is the best; gain: measured so far, over scratch; "
        "s: seconds, 0 where the scores were kept"
    ]
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in ranking.scored:
        # That no source has no source's words says nothing.
        for name, reason in one.missing.items() if one.candidate.name != NO_SOURCE or not one.scores else ():
            reasons.setdefault((one.candidate.name, reason), []).append(WORDS[name])
    together: dict[tuple[str, str], list[str]] = {}
    for (candidate, reason), names in reasons.items():
        together.setdefault((", ".join(names), reason), []).append(candidate)
    lines += [f"no {names} of {', '.join(of)}: {reason}" for (names, reason), of in together.items()]
    lines += [f"skipped {name}: {reason}" for name, reason in ranking.skipped.items()]
    return lines


def _history(rows: Sequence[TrackRecord], metric: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    points = "points" if is_percent(metric) else metric_words(metric)
    table.add_column("score", no_wrap=True)
    heads = ("targets", "sources", "tau", "weighted tau", f"regret@1 ({points})", "regret@3")
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        regrets = [number(row.regret[k], metric) if k in row.regret else "" for k in (1, 3)]
        counts = str(row.num_targets), str(row.num_sources)
        table.add_row(WORDS[row.score], *counts, f"{row.tau:+.2f}", f"{row.weighted_tau:+.2f}", *regrets)
    chance = rows[0].chance
    drawn = [number(chance[k], metric) if k in chance else "" for k in (1, 3)]
    table.add_row("[dim]by chance", "", "", "[dim]0.00", "[dim]0.00", *(f"[dim]{each}" for each in drawn))
    return table


def sentences(ranking: Ranking) -> list[str]:
    """What follows, and what does not."""
    metric, best, first = ranking.target.metric, ranking.best, ranking.first
    names = listed([each.candidate.name for each in first]) if first else ""
    tied = f" ({len(first)} are equal)" if len(first) > 1 else ""
    lines = []
    if not first:
        reasons = {reason for each in ranking.scored for reason in each.missing.values()}
        lines.append(f"No score is defined here: {'; '.join(sorted(reasons))}.")
    elif best is not None and best.score == ranking.by:
        lines.append(
            f"Recommended: {names}{tied}, by {WORDS[best.score]}: on {_targets(best)} it has ordered sources with a "
            f"weighted tau of {best.weighted_tau:+.2f}, and its first choice was {number(best.regret[1], metric)} "
            f"{_unit(metric)} behind the best source, a source drawn at random {number(best.chance[1], metric)}."
        )
    elif ranking.elsewhere:
        lines.append(
            "Nothing is recommended: no score has been better than chance on other targets so far. "
            f"{WORDS[ranking.by]} would choose {names}{tied}."
        )
    else:
        lines.append(
            "Nothing is recommended: there is no track record yet (it takes another target with measured gains from "
            f"three candidates). {WORDS[ranking.by]} would choose {names}{tied}."
        )
    known = [(gain.mean, each) for each in ranking.scored if (gain := ranking.gains.get(each.candidate.key))]
    if known:
        mean, leader = max(known, key=lambda item: item[0])
        of = f"of {len(known)} " if len(known) > 1 else ""
        lines.append(f"Measured here, {of}so far: {leader.candidate.name} gains {number(mean, metric, signed=True)}.")
        if mean <= 0:
            lines.append("No source has gained anything here: training from scratch is the better start.")
    lines += _depth(first)
    return lines


def _targets(record: TrackRecord) -> str:
    return "1 other target" if record.num_targets == 1 else f"{record.num_targets} other targets"


def _unit(metric: str) -> str:
    return "points" if is_percent(metric) else metric_words(metric)


def _depth(first: Sequence[Scored]) -> list[str]:
    """How deep to keep: the layer that says most of the labels."""
    lines = []
    for one in first[:1]:
        if len(one.layers) > 2:
            deepest = max(range(len(one.layers)), key=lambda i: one.layers[i])
            above = len(one.layers) - 1 - deepest
            what = f"the {above} above it may be worth re-initialising (weights.reinit_top_k={above})" if above else ""
            place = "the embeddings say" if deepest == 0 else f"layer {deepest} of {len(one.layers) - 1} says"
            lines.append(f"Of {one.candidate.name}, {place} most of the labels" + (f"; {what}." if what else "."))
    return lines


def next_commands(ranking: Ranking, overrides: Sequence[str]) -> list[str]:
    """To train from the first one beside its twin; to have a track record where there is none."""
    start = ["transfer", "run", "-m", f"experiment={ranking.experiment}", *overrides]
    found = []
    if ranking.first:
        found.append(shlex.join([*start, *ranking.first[0].candidate.words, "seed=0,1,2"]))
    sources = [
        each.candidate.name
        for each in ranking.scored
        if each.candidate.name != NO_SOURCE and each.candidate.words[0].startswith("data@source.data=")
    ]
    if not ranking.history and len(sources) > 1:
        every = f"data@source.data={','.join(sources)}"
        found.append(shlex.join([*start, every, "arm=transfer,scratch", "seed=0,1,2"]))
    return found
