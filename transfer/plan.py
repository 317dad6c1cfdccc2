"""What one run needs, cut out of the whole config; and what of it changes the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from transfer import mixture, records
from transfer.config import (
    Adaptation,
    Also,
    Arm,
    Averaging,
    Budget,
    Config,
    Data,
    Freezing,
    Meta,
    Model,
    Optimizer,
    Regularizer,
    Scheduler,
    Source,
    Stage,
    Task,
    Trainer,
    Weights,
)
from transfer.errors import Problem, UserError
from transfer.identity import PRETRAINED, RANDOM, SOURCE, identity
from transfer.paths import PACKAGE_PREFIX, resolve_package_path


@dataclass(frozen=True)
class Seeds:
    """Separate streams: splits of a data set, labelled subset, initial weights, order of batches with dropout."""

    data: int
    subset: int
    init: int
    order: int


@dataclass(frozen=True)
class Plan:
    """One run. `parent` is the plan of the run that it starts from, `weights_from` a folder or file instead."""

    config: Config
    experiment: str
    stage: str
    arm: str | None
    init: str
    seed: int
    seeds: Seeds
    leg: str
    data: Data
    task: Task
    budget: Budget
    model: Model
    weights: Weights
    freezing: Freezing
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    vocabulary_data: list[Data]
    adaptation: Adaptation = field(default_factory=Adaptation)
    regularizer: Regularizer = field(default_factory=Regularizer)
    averaging: Averaging = field(default_factory=Averaging)
    also: dict[str, Also] = field(default_factory=dict)
    temperature: float = 1.0
    meta: Meta = field(default_factory=Meta)
    equal_epochs: int | None = None
    parent: Plan | None = None
    weights_from: Path | None = None
    parents: tuple[dict[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def folder(self) -> Path:
        if self.config.folder:
            return Path(self.config.folder)
        return self.output_dir / self.experiment / records.run_name(self.stage, self.fingerprint)


def data_name(data: Data) -> str:
    """How a data set is called in tables and tags: its name, else that of its file."""
    if data.name:
        return data.name
    path = data.path or data.files.train or data.local or "data"
    return Path(path.removeprefix("embedded:")).name.split(".")[0]


def has_data(data: Data) -> bool:
    """Whether a leg names any data."""
    return bool(data.path or data.local or data.files.train)


def chain(source: Source) -> list[Source]:
    """The sources in the order in which they are trained."""
    return [*(chain(source.before) if source.before else []), source]


def source_name(config: Config) -> str | None:
    """What a run may start from, in its order; None without a source."""
    if not has_data(config.source.data):
        return None
    names = [[data_name(data) for _, data, _ in mixture.data_sets(source)] for source in chain(config.source)]
    return " then ".join(" and ".join(of_one) for of_one in names)


def vocabulary_legs(config: Config) -> list[tuple[str, Data, Task]]:
    """Of which legs a vocabulary is built, each as its key, data and task. Of a chain of sources it is the first."""
    wanted, target = config.model.vocabulary.texts, ("target.data", config.target.data, config.target.task)
    if wanted == "target" or not has_data(config.source.data):
        return [target]
    sources = mixture.data_sets(chain(config.source)[0])
    return [*sources, target] if wanted == "both" and has_data(config.target.data) else sources


def make(config: Config) -> Plan:
    """The plan of the run that the (validated) config asks for, with its fingerprint.

    Raises:
        UserError: data or initial weights are not there.
    """
    stage, init = _stage_and_init(config)
    plan = _source(config) if stage.is_source else _target(config, stage, init)
    return replace(plan, fingerprint=records.fingerprint(identity(plan)))


def _stage_and_init(config: Config) -> tuple[Stage, str]:
    """`arm` is a shorthand for stage and init."""
    if config.arm is Arm.scratch:
        return Stage.scratch, RANDOM
    if config.arm is Arm.direct:
        return Stage.finetune, PRETRAINED
    if config.arm is Arm.transfer:
        return Stage.finetune, config.init if config.init != PRETRAINED else SOURCE
    return config.stage, RANDOM if config.stage is Stage.scratch else config.init


def _experiment(config: Config) -> str:
    if config.experiment_name:
        return config.experiment_name
    target = data_name(config.target.data)
    source = source_name(config)
    return f"{source.replace(' ', '_')}_to_{target}" if source else target


def _source(config: Config) -> Plan:
    seed, stage = config.source.seed, config.source.stage
    notes = []
    if config.stage.is_source and config.seed not in (0, seed):
        notes.append(
            f"seed={config.seed} is not used by stage={stage.value}: the source has its own, source.seed={seed}"
        )
    if stage is Stage.meta:
        notes += mixture.not_used_by_meta(config.trainer)
    before = config.source.before
    plan = Plan(
        # A meta run is tested at its end, whatever the run that starts from it is to do.
        config=replace(config, stage=stage, arm=None, test=config.test or stage is Stage.meta),
        experiment=_experiment(config),
        stage=stage.value,
        arm=None,
        init=SOURCE
        if before
        else config.source.init
        if config.model.name or config.source.init != PRETRAINED or _has_vectors(config)
        else RANDOM,
        seed=seed,
        seeds=Seeds(config.data_seed, seed, seed, seed),
        leg="source",
        data=config.source.data,
        task=config.source.task,
        budget=config.source.budget,
        model=config.model,
        # The rules for names are the target's.
        weights=Weights(min_fraction_loaded=config.weights.min_fraction_loaded)
        if before
        else replace(config.weights, reinit_top_k=0),
        freezing=Freezing(),
        optimizer=_rated(config.source.optimizer, config.model),
        scheduler=config.source.scheduler,
        trainer=mixture.trainer(config),
        vocabulary_data=[data for _, data, _ in vocabulary_legs(config)],
        also=dict(sorted(config.source.also.items())),
        temperature=config.source.temperature,
        meta=config.source.meta,
        notes=tuple(notes),
    )
    return _after(plan, replace(config, source=before)) if before else plan


def _after(plan: Plan, config: Config) -> Plan:
    """The plan, starting from the source of this config."""
    parent = _source(replace(config, folder=None, force=False, search=None))
    parent = replace(parent, fingerprint=records.fingerprint(identity(parent)))
    name = records.run_name(parent.stage, parent.fingerprint)
    return replace(plan, parent=parent, parents=({"run_id": name, "fingerprint": parent.fingerprint},))


def _target(config: Config, stage: Stage, init: str) -> Plan:
    plan = Plan(
        config=config,
        experiment=_experiment(config),
        stage=stage.value,
        arm={RANDOM: Arm.scratch, PRETRAINED: Arm.direct}.get(init, Arm.transfer).value,
        init=init,
        seed=config.seed,
        seeds=Seeds(config.data_seed, config.subset_seed, config.init_seed, config.order_seed),
        leg="target",
        data=config.target.data,
        task=config.target.task,
        budget=config.target.budget,
        model=config.model,
        weights=config.weights,
        freezing=config.freezing,
        optimizer=_rated(config.optimizer, config.model),
        scheduler=config.scheduler,
        trainer=config.trainer,
        vocabulary_data=[data for _, data, _ in vocabulary_legs(config)],
        adaptation=config.adaptation,
        regularizer=config.regularizer,
        averaging=config.averaging,
    )
    if config.regularizer.name == "l2_sp" and plan.optimizer.weight_decay and init != RANDOM:
        note = f"optimizer.weight_decay={plan.optimizer.weight_decay} is not used: l2_sp is in its place"
        plan = replace(plan, optimizer=replace(plan.optimizer, weight_decay=0.0), notes=(note,))
    if stage is Stage.scratch:
        return _scratch(plan)
    if init == SOURCE:
        return _after(plan, config)
    if init != PRETRAINED:
        return _from_reference(plan)
    return plan


def _scratch(plan: Plan) -> Plan:
    """The scratch arm: its own learning rate, no freezing, until its validation metric stops improving."""
    own = plan.config.scratch
    notes = []
    if plan.freezing.policy != "none":
        notes.append(
            f"freezing={plan.freezing.policy} is not used by the scratch arm: its weights start at random, so all train"
        )
    for group, name in (("adaptation", plan.adaptation.name), ("regularizer", plan.regularizer.name)):
        if name != "none":
            notes.append(f"{group}={name} is not used by the scratch arm: it has no earlier weights to keep")
    optimizer = replace(
        plan.optimizer,
        lr=own.lr or (plan.optimizer.lr or plan.model.lr) * plan.model.scratch_lr / plan.model.lr,
        weight_decay=own.weight_decay,
        layer_decay=1.0,
        head_multiplier=own.head_multiplier,
    )
    scheduler = Scheduler(own.scheduler, own.warmup_steps, own.warmup_fraction)
    budget = replace(plan.budget, max_epochs=own.max_epochs, min_steps=own.min_steps, patience=own.patience)
    return replace(
        plan,
        freezing=Freezing(),
        adaptation=Adaptation(),
        regularizer=Regularizer(),
        optimizer=optimizer,
        scheduler=scheduler,
        budget=budget,
        equal_epochs=plan.budget.max_epochs,
        notes=tuple(notes),
    )


def _rated(optimizer: Optimizer, model: Model) -> Optimizer:
    return optimizer if optimizer.lr is not None else replace(optimizer, lr=model.lr)


def _from_reference(plan: Plan) -> Plan:
    """`init` is a run id or a path."""
    found = records.lookup(plan.output_dir, plan.init)
    if len(found) > 1:
        names = ", ".join(Path(record["_folder"]).name for record in found[:5])
        raise UserError(Problem("init", plan.init, "the id of one run", f"{len(found)} runs begin like this: {names}"))
    if found:
        record = found[0]
        if record["status"] != "complete":
            raise UserError(
                Problem("init", plan.init, "a complete run", f"this one is {record['status']}: run it again first")
            )
        parent = {"run_id": record["run_id"], "fingerprint": record["fingerprint"]}
        return replace(plan, weights_from=Path(record["_folder"]) / "model", parents=(parent,))
    path = (
        resolve_package_path(plan.init, key="init")
        if plan.init.startswith(PACKAGE_PREFIX)
        else Path(plan.init).expanduser()
    )
    if not path.exists():
        allowed = "source, pretrained, the id of a run, a model folder or a weights file"
        raise UserError(Problem("init", plan.init, allowed, "`transfer runs` lists the runs; check the path"))
    return replace(plan, weights_from=path)


def _has_vectors(config: Config) -> bool:
    return bool(config.model.vectors.path or config.model.vectors.train)
