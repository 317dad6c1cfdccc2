"""All scores of one candidate, and why it has not got the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transfer.choose import kept
from transfer.choose.candidates import Candidate

if TYPE_CHECKING:
    from transfer.choose.features import Features

# Of so many texts the words are read.
MOST_TEXTS = 20_000


@dataclass(frozen=True)
class Score:
    """One way to rank: of all of them, more is better.

    Attributes:
        name: in the file; `words` in a table.
        paper: where it comes from.
    """

    name: str
    words: str
    paper: str


SCORES = (
    Score("logme", "LogME", "You et al. 2021"),
    Score("h_score", "H", "Bao et al. 2019; Ibrahim et al. 2021"),
    Score("leep", "LEEP", "Nguyen et al. 2020"),
    Score("nce", "NCE", "Tran et al. 2019"),
    Score("transrate", "TransRate", "Huang et al. 2022"),
    Score("knn", "k-NN", "accuracy of 5 neighbours by cosine, cross-validated"),
    Score("linear_probe", "probe", "accuracy of a linear probe, cross-validated; Alain & Bengio 2017"),
    Score("cka", "CKA", "alignment with the labels; Cortes et al. 2012, Kornblith et al. 2019"),
    Score("vocabulary", "words", "the part of the training texts' words that the source has"),
    Score("labels", "labels", "the part of all labels that both have"),
    Score("nearness", "near", "minus the proxy A-distance; Ben-David et al. 2007"),
)


@dataclass
class Scored:
    """What is known of a candidate without training from it.

    Attributes:
        missing: score -> why there is none.
        layers: LogME of each layer, embeddings first.
        seconds: spent on the pass and on the scores.
    """

    candidate: Candidate
    scores: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    layers: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, name: str, make: Callable[[], float]) -> None:
        """Take a score, or the reason why it is not defined here."""
        try:
            value = make()
        except (ValueError, np.linalg.LinAlgError) as error:
            self.missing[name] = str(error).splitlines()[0]
            return
        if np.isfinite(value):
            self.scores[name] = value
        else:
            self.missing[name] = "no finite number"


def score(candidate: Candidate) -> Scored:
    """Every score that this candidate can have; those that are kept of an earlier ranking cost no look at the weights.

    Raises:
        UserError: data, model or weights cannot be read.
    """
    clock = time.monotonic()
    found = Scored(candidate)
    earlier = kept.read(candidate)
    if earlier is not None:
        found.scores, found.missing, found.layers = earlier["scores"], earlier["missing"], earlier["layers"]
    else:
        _compute(found)
        kept.write(candidate, {"scores": found.scores, "missing": found.missing, "layers": found.layers})
    found.seconds = time.monotonic() - clock
    return found


def _compute(found: Scored) -> None:
    # Here and not above: a ranking whose scores are all kept needs none of the large libraries.
    from transfer.choose import features
    from transfer.progress import quiet

    quiet()
    if found.candidate.trained:
        of_features(found, features.of(found.candidate))
    else:
        reason = "nothing is trained on it yet"
        found.missing |= {each.name: reason for each in SCORES[:8]} | {"nearness": reason}
    _of_data(found)


def of_features(found: Scored, features: Features) -> None:
    """Those that one pass over the target is enough for."""
    from transfer.choose import scores

    last, labels = features.last, features.labels
    found.note("logme", lambda: scores.logme(last, labels))
    if "logme" in found.scores:
        found.layers = [*(scores.logme(layer, labels) for layer in features.layers[:-1]), found.scores["logme"]]
    found.note("h_score", lambda: scores.h_score(last, labels))
    found.note("transrate", lambda: scores.transrate(last, labels))
    found.note("knn", lambda: scores.knn(last, labels))
    found.note("linear_probe", lambda: scores.linear_probe(last, labels))
    found.note("cka", lambda: scores.cka(last, _as_columns(labels)))
    probabilities = features.probabilities
    if probabilities is None:
        reason = "the source has no head that tells classes apart"
        found.missing |= {"leep": reason, "nce": reason}
    else:
        found.note("leep", lambda: scores.leep(probabilities, labels))
        found.note("nce", lambda: scores.nce(probabilities.argmax(1), labels))
    source = features.source
    if source is None:
        found.missing["nearness"] = "no rows of the source of the target's kind"
    else:
        found.note("nearness", lambda: -scores.proxy_a_distance(source, last))


def _as_columns(labels: NDArray) -> NDArray[np.float64]:
    """One column a class; of values, the values."""
    if len(np.unique(labels)) == 1:
        raise ValueError("only one class" if np.issubdtype(labels.dtype, np.integer) else "all values are the same")
    if not np.issubdtype(labels.dtype, np.integer):
        return labels[:, None].astype(np.float64)
    return np.eye(int(labels.max()) + 1)[labels]


def _of_data(found: Scored) -> None:
    from transfer import legs
    from transfer.choose import scores
    from transfer.choose.features import at_most

    plan, source = found.candidate.plan, found.candidate.source
    if source is None:
        found.missing |= dict.fromkeys(("vocabulary", "labels"), "no source whose data are known")
        return
    ours, theirs = (at_most(legs.load(each), MOST_TEXTS) for each in (plan, source))
    # Of the training texts alone: a source that is chosen by the test split would have seen it.
    found.note("vocabulary", lambda: scores.coverage(set(legs.words(theirs.train)), list(legs.words(ours.train))))
    found.note("labels", lambda: scores.overlap(theirs.splits.labels, ours.splits.labels))
