"""Hydra's and OmegaConf's errors in this project's words: key, received, allowed, what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_type_hints

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from transfer.config import Config
from transfer.errors import Problem, UserError, nearest
from transfer.validation import FULL

EXPERIMENT_GROUP = "experiment"
TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
IN_FILE = re.compile(r"In '[^']+': \w+ raised while composing config:\n(?P<message>.*)\n\s+full_key: (?P<key>\S*)")
# What Hydra stumbles over when it makes the folder of a sweep.
UNWRITABLE = (NotADirectoryError, PermissionError, FileExistsError)


def is_composition_error(error: Exception) -> bool:
    """Whether Hydra raised it before a job began, also where it uses plain ValueError for the user's mistakes."""
    if isinstance(error, (HydraException, OmegaConfBaseException, yaml.YAMLError, *UNWRITABLE)):
        return True
    last = list(traceback.walk_tb(error.__traceback__))[-1][0]
    return isinstance(error, ValueError) and last.f_globals["__name__"].startswith(("hydra.", "omegaconf."))


def valid_keys(node: Any = None, prefix: str = "") -> list[str]:
    """Every key of a config, dotted; of the schema without one."""
    if node is None:
        return [key for key, _, _ in _schema()]
    keys = []
    for name in node:
        key = f"{prefix}{name}"
        keys.append(key)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            keys += valid_keys(child, f"{key}.")
    return keys


@lru_cache
def schema_keys() -> frozenset[str]:
    """Every key of the schema, dotted."""
    return frozenset(valid_keys())


def of_a_source(key: str) -> str:
    """The key of a source before the source, or of its further sets, as the `source.KEY` that the schema has.

    `source.before.KEY` has all keys of a source, `source.also.NAME.KEY` those of its data and its task.
    """
    further = re.fullmatch(r"source(?:\.before)*\.also\.[^.=]+((?:\.(?:data|task)(?:[.=].*)?)?)", key, re.DOTALL)
    return f"source{further[1]}" if further else re.sub(r"^source(\.before)+\.", "source.", key)


@lru_cache
def free_mappings() -> tuple[str, ...]:
    """`model.config` and the other mappings whose keys are not ours to name."""
    mappings = {key: get_type_hints(owner)[key.rpartition(".")[2]] for key, owner, value in _schema() if value == {}}
    return tuple(key for key, hint in mappings.items() if not is_dataclass(get_args(hint)[1]))


@lru_cache
def _schema() -> tuple[tuple[str, type, Any], ...]:
    """Every key of the schema, dotted, the class it belongs to, its default: without OmegaConf, which takes 0.1 s."""

    def walk(part: Any, prefix: str) -> Iterator[tuple[str, type, Any]]:
        for about in fields(part):
            value, key = getattr(part, about.name), f"{prefix}{about.name}"
            yield key, type(part), value
            if is_dataclass(value):
                yield from walk(value, f"{key}.")

    return tuple(walk(Config(), ""))


def explain(error: Exception) -> UserError:
    """What was raised while composing, said so that the user can mend it."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException):
        return UserError(_unknown_choice(error))
    if isinstance(error, OverrideParseException):
        allowed = "KEY=VALUE (quote lists and spaces for your shell)"
        return UserError(Problem("command line", error.override, allowed, str(error).splitlines()[0]))
    if isinstance(error, yaml.YAMLError):
        return UserError(_bad_yaml(error))
    if isinstance(error, UNWRITABLE):
        allowed, action = "a folder that can be written", f"choose another with output_dir=FOLDER ({error.strerror})"
        return UserError(Problem("output_dir", error.filename, allowed, action))
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    full_key = getattr(cause, "full_key", None)
    message = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    own = str(error).splitlines()[0] if str(error) else message
    in_file = IN_FILE.match(str(error))
    if in_file:
        message, full_key = in_file["message"], in_file["key"]
    unknown = re.search(r"Key '([^']+)' (?:is )?not in ", message) or re.search(r"Could not override '([^']+)'", own)
    if unknown:
        found = re.search(r"'([^']*=[^']*)'", own)
        return UserError(unknown_key(full_key or unknown[1], found[1] if found else None))
    if also := re.search(r"override \+*(\S+\.also\.[^.=]+)\S*=.* not a subclass of Also", f"{own} {message}"):
        allowed = "a further data set that is there: named with its data, or in an experiment file"
        return UserError(
            Problem(also[1], "no such set yet", allowed, f"+data@{also[1]}.data=csv {also[1]}.data.path=FILE")
        )
    several = re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", own)
    if several:
        action = f"a sweep: transfer run -m {several[1]}={several[2]} ...; a list: '{several[1]}=[{several[2]}]'"
        return UserError(Problem(several[1], several[2], "one value", action))
    if "defaults list" in own or "group override" in own:
        allowed = "GROUP=NAME, with the name of a file in conf/GROUP/"
        return UserError(Problem("command line", own, allowed, "`transfer run --help` lists the groups"))
    if full_key:
        return UserError(_wrong_value(str(full_key), message, own))
    return UserError(Problem("config", own, "a config that composes", message if message != own else ""))


def _wrong_value(key: str, message: str, own: str) -> Problem:
    received = re.search(r"[Vv]alue '([^']*)'", message)
    choices = re.search(r"expected one of \[(.*)\]", message)
    kind = re.search(r"(?:could not be converted to|is not a valid) (\w+)", message)
    if choices or kind:
        allowed = choices[1] if choices else TYPES.get(kind[1], kind[1]) if kind else ""
        return Problem(key, received[1] if received else own, allowed, "")
    return Problem(key, received[1] if received else own, message, own if own != message else "")


def _bad_yaml(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return Problem(mark.name if mark else "config", f"{where}{what}", "valid YAML", "mend the file")


def _unknown_choice(error: MissingConfigException) -> Problem:
    missing = str(error.missing_cfg_file or "")
    group, _, choice = missing.rpartition("/")
    options = [str(option) for option in error.options or []]
    if group == "freezing" and choice == "full":
        return Problem("freezing", "full", ", ".join(options), FULL)
    if not options:
        return unknown_key(group or missing, missing)
    meant = nearest(choice, options)
    if meant:
        action = f"did you mean {meant}?" if group in ("data", "task") else f"did you mean {group}={meant}?"
    else:
        action = "`transfer list` describes them" if group == EXPERIMENT_GROUP else ""
    return Problem(group, choice, ", ".join(options), action)


def unknown_key(key: str, received: str | None = None) -> Problem:
    """A key that is not in the schema, with those that may have been meant."""
    keys = [*valid_keys(), EXPERIMENT_GROUP, "debug"]
    last = key.rpartition(".")[2]
    if key in ("data", "task"):
        meant = f"{key}@source.{key}=NAME or {key}@target.{key}=NAME"
    else:
        elsewhere = [known for known in keys if known.endswith(f".{last}")]
        meant = ", ".join(elsewhere[:4]) or nearest(key, keys) or ""
    if re.fullmatch(r"source(\.before)*\.also\.[^.]+", key.rpartition(".")[0]):
        return Problem(key, received or key, "data, task", "batch sizes, rates and the like are those of the source")
    parent = of_a_source(key).rpartition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent] or [k for k in keys if "." not in k]
    return Problem(key, received or key, ", ".join(siblings), f"did you mean {meant}?" if meant else "")
