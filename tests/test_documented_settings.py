"""Every KEY=VALUE that the documentation mentions in a sentence is one that a command takes."""

import shlex

import pytest

from tests.documented import settings
from transfer.compose import compose

# What a setting stands in, where it does not say so: the beginning of its key, or what else the command has.
WITHIN = {
    "options.": "target.task.",
    "bleu_tokenizer": "target.task.options.",
    "lowercase": "target.task.options.",
    "augment": "target.task.options.",
}
BESIDE = {
    "hydra.sweeper.": "sweep=optuna",
    "hydra.launcher.ray.": "hydra/launcher=ray",
    "hydra.launcher.additional_parameters.": "hydra/launcher=submitit_slurm",
}
FILLED = {"experiment=NAME": "experiment=movies_to_products", "=N": "=2"}


def words_of(text):
    words = [text] if "{" in text else shlex.split(text)
    words = [
        next((word.replace(old, new) for old, new in FILLED.items() if word.endswith(old)), word) for word in words
    ]
    words = ["".join(prefix for key, prefix in WITHIN.items() if word.startswith(key)) + word for word in words]
    return [*(more for key, more in BESIDE.items() if words[0].startswith(key)), *words]


@pytest.mark.parametrize("text", settings())
def test_setting(text):
    assert compose(words_of(text)) is not None


def test_all_are_found():
    found = settings()
    assert len(found) > 30
    assert {*WITHIN, *BESIDE} == {key for key in (*WITHIN, *BESIDE) if any(text.startswith(key) for text in found)}
