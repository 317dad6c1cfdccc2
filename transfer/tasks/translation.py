"""The text in another language."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from datasets import Dataset
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from transfer.errors import Problem
from transfer.tasks.base import Predicted
from transfer.tasks.likelihood import texts
from transfer.tasks.seq2seq import SequenceToSequence, sums

# Those of SacreBLEU that need no download.
TOKENIZERS = ("13a", "intl", "zh", "char", "none")


class Task(SequenceToSequence):
    """BLEU and chrF of SacreBLEU (Post 2018; Popovic 2015), both from 0 to 100.

    `bleu_tokenizer` cuts texts into words: 13a for languages with spaces, zh for Chinese. With `lowercase` neither
    metric looks at case, as is fair to a model whose vocabulary has none.

    The terms of a row are SacreBLEU's statistics: for BLEU the two lengths in words (hypothesis, reference), right
    n-grams and n-grams of 1 to 4; for chrF n-grams of hypothesis, reference and both, of 1 to 6 characters.
    """

    metric_names: tuple[str, ...] = ("bleu", "chrf")
    default_options: ClassVar[dict[str, Any]] = {
        **SequenceToSequence.default_options,
        "bleu_tokenizer": "13a",
        "lowercase": False,
    }

    def problems(self, key: str) -> list[Problem]:
        found = super().problems(key)
        name, lowercase = self.options["bleu_tokenizer"], self.options["lowercase"]
        if name not in TOKENIZERS:
            found.append(Problem(f"{key}.options.bleu_tokenizer", name, ", ".join(TOKENIZERS), ""))
        if not isinstance(lowercase, bool):
            found.append(Problem(f"{key}.options.lowercase", lowercase, "true or false", ""))
        return found

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        lowercase = self.options["lowercase"]
        # `force`: that a text looks tokenized is no mistake of whoever only compares two models by it.
        bleu = BLEU(tokenize=self.options["bleu_tokenizer"], lowercase=lowercase, force=True)
        return {"bleu": bleu, "chrf": CHRF(lowercase=lowercase)}

    def predicted(self, values: list[Any], rows: Dataset) -> Predicted:
        terms: dict[str, list[float]] = {}
        for name, metric in self.metrics.items():
            statistics = metric._extract_corpus_statistics(values, [rows["label"][:]])
            terms |= {
                f"{name}:{i}": [float(n) for n in of_all] for i, of_all in enumerate(zip(*statistics, strict=True))
            }
        return Predicted(values, terms=terms)

    def score(self, predicted: Predicted, rows: Dataset, *, per_class: bool) -> dict[str, float]:
        return {
            name: float(metric._compute_score_from_stats([int(number) for number in sums(predicted, name)]).score)
            for name, metric in self.metrics.items()
        }

    def floors(self, train: Dataset, test: Dataset) -> dict[str, list[Any]]:
        """`copy`: the text as it is, untranslated."""
        return {"copy": texts(test[:])}
