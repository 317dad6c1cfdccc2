"""`transfer prefetch`: what an experiment will want from the network, fetched while there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from transfer import mixture
from transfer import plan as planning
from transfer.config import Config, Data
from transfer.data import files, formats
from transfer.errors import Problem, UserError
from transfer.identity import local_folder
from transfer.validation import validate

DOWNLOADED, THERE, LOCAL = "downloaded", "already there", "on this disk"
# One thing that is wanted: its key in the config, its name, and how to have it.
Wanted = tuple[str, str, Callable[[], str]]


def prefetch(config: Config, say: Callable[[str], None]) -> None:
    """Have the data of all legs, and the model with its tokenizer, where a run without a network finds them.

    Args:
        config: of the experiment.
        say: is told a line for each of them.

    Raises:
        UserError: what cannot be had, all of it at once; the rest is there then.
    """
    validate(config)
    problems: list[Problem] = []
    for key, name, have in [*_data(config), *_models(config)]:
        try:
            said = have()
        except UserError as error:
            said = "cannot be had"
            problems += error.problems
        say(f"{key:<18} {said:<14} {name}")
    if problems:
        raise UserError(problems)


def _data(config: Config) -> Iterator[Wanted]:
    sources = [each for source in planning.chain(config.source) for each in mixture.data_sets(source)]
    legs = [(key, data) for key, data, _ in sources]
    for key, data in [*legs, ("target.data", config.target.data)]:
        if planning.has_data(data):
            about = ", ".join(part for part in (data.path, data.config_name) if part)
            name = planning.data_name(data) + (f" ({about})" if about else "")
            yield key, name, partial(_data_set, data, key)


def _data_set(data: Data, key: str) -> str:
    location = files.locate(data, key=key)
    if location.hub is None:
        return LOCAL
    import datasets

    def kept() -> set[Path]:
        return {*Path(datasets.config.HF_DATASETS_CACHE).rglob("dataset_info.json")}

    before = kept()
    formats.read_hub(location, data, key=key)
    return THERE if kept() <= before else DOWNLOADED


def _models(config: Config) -> Iterator[Wanted]:
    import transformers

    model = config.model
    leg = config.target if planning.has_data(config.target.data) else config.source
    reader = transformers.AutoImageProcessor if leg.data.columns.image else transformers.AutoTokenizer
    parts: list[tuple[str, str | None, list[Any]]] = [
        ("model.name", model.name, [transformers.AutoModel, *([] if model.tokenizer else [reader])]),
        ("model.decoder", model.decoder, [transformers.AutoModel]),
        ("model.tokenizer", model.tokenizer, [reader]),
    ]
    for key, name, kinds in parts:
        if name:
            yield key, name, partial(_pretrained, name, model.revision, kinds, key)


def _pretrained(name: str, revision: str | None, kinds: list[Any], key: str) -> str:
    """As a run will load it, so that it is the same files."""
    if local_folder(name):
        return LOCAL
    states = set()
    for kind in kinds:
        try:
            kind.from_pretrained(name, revision=revision, local_files_only=True)
            states.add(THERE)
        except Exception:  # of all kinds, which the next attempt explains
            states.add(_download(kind, name, revision, key))
    return DOWNLOADED if DOWNLOADED in states else THERE


def _download(kind: Any, name: str, revision: str | None, key: str) -> str:
    try:
        kind.from_pretrained(name, revision=revision)
    except Exception as error:  # the hub's client raises of all kinds, and the advice is the same for each
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        allowed = "a hub id that can be reached, a model folder, or package:NAME/PATH"
        raise UserError(Problem(key, name, allowed, reason)) from error
    return DOWNLOADED
