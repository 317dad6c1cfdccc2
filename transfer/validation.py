"""The checks between fields of the config: every problem is collected, then all are raised at once."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from transfer import compiling, crossvalidation, devices, limits, methods, mixture, streams, tasks
from transfer.config import Arm, Config, Freezing, Optimizer, Scheduler, Source, Stage
from transfer.errors import Problem, UserError, nearest
from transfer.fewshot import settings
from transfer.plan import has_data

POLICIES = ("none", "head_only", "bitfit", "first_k", "gradual", "regex", "all")
SCHEDULES = ("constant", "linear", "cosine", "plateau", "slanted_triangular")
LOGGERS = ("wandb", "csv", "tensorboard", "none")
PRECISIONS = ("auto", "32", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
FULL = (
    "`full` is read in two ways. To train every parameter (full fine-tuning): freezing=none. "
    "To freeze every parameter: freezing=all; to train the head alone (linear probing): freezing=head_only"
)


def validate(config: Config) -> None:
    """Check what types alone cannot.

    Raises:
        UserError: with every problem found.
    """
    problems = [problem for check in _checks() for problem in check(config)]
    if problems:
        raise UserError(problems)


def _checks() -> tuple[Callable[[Config], Iterable[Problem]], ...]:
    return (
        _stages,
        limits.problems,
        _names,
        _freezing,
        _patterns,
        _placement,
        crossvalidation.problems,
        methods.problems,
        devices.problems,
        compiling.problems,
        mixture.problems,
        streams.problems,
        settings.problems,
        _before,
        _also,
    )


def _before(config: Config) -> Iterable[Problem]:
    """What is wrong with the sources that are trained before the source: the same as with any source."""
    before = config.source.before
    if before is None:
        return
    if config.source.init != "pretrained":
        allowed = "pretrained, the default: this source starts from the one before it"
        yield Problem("source.init", config.source.init, allowed, "set source.before.init")
    yield from _of_source(config, before, ("source.",), "source.before.")


def _also(config: Config) -> Iterable[Problem]:
    """What is wrong with the further data sets of the source: the same as with its own."""
    for name, further in config.source.also.items():
        alone = replace(config.source, data=further.data, task=further.task, also={}, before=None, temperature=1.0)
        yield from _of_source(config, alone, ("source.data.", "source.task."), f"source.also.{name}.")


def _of_source(config: Config, source: Source, kept: tuple[str, ...], named: str) -> Iterable[Problem]:
    """The problems of this source at keys that begin so, said of the keys that it has in this place."""
    earlier = replace(config, source=source, stage=source.stage, arm=None)
    for problem in (problem for check in _checks() for problem in check(earlier)):
        if problem.key.startswith(kept):
            said = {name: str(getattr(problem, name)) for name in ("key", "allowed", "action")}
            yield replace(problem, **{n: re.sub(r"\bsource\.", named, text) for n, text in said.items()})


def _stages(config: Config) -> Iterable[Problem]:
    stage, arm = config.stage, config.arm
    if arm is not None and stage.is_source:
        yield Problem(
            "arm",
            arm.value,
            f"no arm for stage={stage.value}: a source run has none",
            "leave arm out, or choose another stage",
        )
    if arm is not None and arm is not Arm.scratch and stage is Stage.scratch:
        yield Problem("arm", arm.value, "arm=scratch with stage=scratch", "give only one of the two")
    scratch = stage is Stage.scratch or arm is Arm.scratch
    from_source = not scratch and (arm is Arm.transfer or (arm is None and config.init == "source"))
    needs_source = stage.is_source or (from_source and (arm is None or config.init in ("source", "pretrained")))
    if needs_source and not has_data(config.source.data):
        why = f"stage={stage.value}" if stage.is_source else "init=source"
        yield Problem(
            "source.data.path",
            "nothing",
            f"{why} needs the data of a source leg",
            "name it (data@source.data=movies, source.data.path=FILE), or use published weights: init=pretrained",
        )
    if not stage.is_source and not has_data(config.target.data):
        yield Problem(
            "target.data.path",
            "nothing",
            "a file, a folder, a hub id or embedded:NAME",
            "for your own file: target.data.path=FILE target.data.columns.text=COLUMN target.data.columns.label=COLUMN",
        )
    pretrained = arm is Arm.direct or (arm is None and config.init == "pretrained")
    starts_pretrained = not stage.is_source and not scratch and pretrained
    if starts_pretrained and not (config.model.name or config.model.vectors.path or config.model.vectors.train):
        kind = config.model.config.get("model_type", "of this config")
        yield Problem(
            "init",
            "pretrained",
            f"a model with published weights; a model {kind} built from model.config has none",
            "use init=source or stage=scratch",
        )
    if not config.model.name and "model_type" not in config.model.config:
        yield Problem(
            "model.name",
            None,
            "a hub id, a folder, package:NAME/PATH; or model.config.model_type",
            "choose a model: model=minilm, model=lstm, ...",
        )
    if config.source.init not in ("pretrained", "random"):
        yield Problem("source.init", config.source.init, "pretrained, random", "")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> Iterable[Problem]:
    if value not in allowed:
        meant = nearest(value, allowed)
        yield Problem(key, value, ", ".join(allowed), f"did you mean {meant}?" if meant else "")


def _names(config: Config) -> Iterable[Problem]:
    yield from _one_of("logger.name", config.logger.name, LOGGERS)
    yield from _one_of("trainer.precision", config.trainer.precision, PRECISIONS)
    if config.logger.name == "tensorboard" and not any(
        importlib.util.find_spec(n) for n in ("tensorboard", "tensorboardX")
    ):
        yield Problem("logger.name", "tensorboard", "a logger that is installed", "pip install 'transfer[tensorboard]'")
    known = tasks.modules()
    for leg, part in (("source", config.source), ("target", config.target)):
        yield from _one_of(f"{leg}.task.name", part.task.name, tuple(known))
        own = tasks.own(part.task.name)
        if own and known.get(part.task.name, own) != own:
            yield Problem(f"{leg}.task.name", f"{part.task.name}, also {own}", "one task of a name", "rename your own")
    optimizers: tuple[tuple[str, Optimizer], ...] = (
        ("source.optimizer", config.source.optimizer),
        ("optimizer", config.optimizer),
    )
    for key, optimizer in optimizers:
        if "." not in optimizer._target_:
            yield Problem(
                f"{key}._target_",
                optimizer._target_,
                "the dotted name of a torch optimizer class",
                "as in torch.optim.AdamW",
            )
    schedulers = (("source.scheduler", config.source.scheduler), ("scheduler", config.scheduler))
    for key, scheduler in schedulers:
        yield from _schedule(key, scheduler)
    yield from _schedule(
        "scratch",
        Scheduler(config.scratch.scheduler, config.scratch.warmup_steps, config.scratch.warmup_fraction),
        name_key="scratch.scheduler",
    )
    yield from _one_of("model.vocabulary.kind", config.model.vocabulary.kind, ("words", "subwords"))
    if config.model.vocabulary.texts not in ("source", "target", "both"):
        yield Problem("model.vocabulary.texts", config.model.vocabulary.texts, "source, target, both", "")


def _schedule(key: str, scheduler: Scheduler, name_key: str | None = None) -> Iterable[Problem]:
    yield from _one_of(name_key or f"{key}.name", scheduler.name, SCHEDULES)
    if scheduler.warmup_steps and scheduler.warmup_fraction:
        received = f"{scheduler.warmup_steps} steps and {scheduler.warmup_fraction}"
        yield Problem(
            f"{key}.warmup_steps",
            received,
            "a number of steps or a fraction of the run, not both",
            "set one of them to 0",
        )
    if scheduler.name in ("plateau", "slanted_triangular") and (scheduler.warmup_steps or scheduler.warmup_fraction):
        received = f"{scheduler.warmup_steps} steps, fraction {scheduler.warmup_fraction}"
        yield Problem(f"{key}.warmup_steps", received, f"0: {scheduler.name} has no warm-up", "set both to 0")
    if not 0 <= scheduler.warmup_fraction < 1 or scheduler.warmup_steps < 0:
        yield Problem(
            f"{key}.warmup_fraction",
            scheduler.warmup_fraction,
            "a fraction from 0 to below 1 (and steps of at least 0)",
            "",
        )


def _freezing(config: Config) -> Iterable[Problem]:
    freezing: Freezing = config.freezing
    if freezing.policy == "full":
        yield Problem("freezing.policy", "full", ", ".join(POLICIES), FULL)
    else:
        yield from _one_of("freezing.policy", freezing.policy, POLICIES)
    if freezing.policy == "first_k" and freezing.k < 1:
        yield Problem(
            "freezing.k",
            freezing.k,
            "how many layers above the embeddings stay frozen, at least 1",
            "freezing=first_k freezing.k=3",
        )
    if freezing.policy == "regex" and not freezing.patterns:
        yield Problem(
            "freezing.patterns",
            "[]",
            "regexes over parameter names that stay frozen",
            r"freezing=regex 'freezing.patterns=[.*embeddings\..*]'",
        )


def _patterns(config: Config) -> Iterable[Problem]:
    groups = {
        "weights.include": config.weights.include,
        "weights.exclude": config.weights.exclude,
        "weights.rename": list(config.weights.rename),
        "freezing.patterns": config.freezing.patterns,
    }
    for key, patterns in groups.items():
        for pattern in patterns:
            try:
                re.compile(pattern)
                if key == "weights.rename":
                    re.sub(pattern, config.weights.rename[pattern], "")
            except (re.error, IndexError) as error:
                yield Problem(key, pattern, "a Python regular expression", str(error))


def _placement(config: Config) -> Iterable[Problem]:
    if not config.output_dir:
        yield Problem("output_dir", repr(config.output_dir), "a folder", "")
    names = {"source.data.name": config.source.data.name, "target.data.name": config.target.data.name}
    for key, name in ({"experiment_name": config.experiment_name} | names).items():
        if name is not None and not re.fullmatch(r"[^\s./\\-][^/\\]*", name):
            yield Problem(key, repr(name), "a name without / that begins with a letter or a digit", "it names a folder")
    if (
        config.freezing.policy == "all"
        and (config.arm is Arm.direct or (config.arm is None and config.init == "pretrained"))
        and config.stage is Stage.finetune
    ):
        yield Problem(
            "freezing.policy",
            "all",
            "a head that is already trained, as of init=source with the same labels",
            "published weights bring no head for your labels: freezing=head_only trains one on the frozen backbone",
        )
