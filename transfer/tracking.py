"""The loggers of a run, W&B among them. Only the modules called tracking import wandb."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from transfer import records, tracking_start
from transfer.config import to_plain
from transfer.identity import pair_id
from transfer.methods import chosen_of
from transfer.plan import Plan, data_name, has_data, source_name
from transfer.wandb_environment import link

log = logging.getLogger(__name__)


# The axes that every curve can be drawn against; Lightning logs the epoch with each value.
STEP, EPOCH, EXAMPLES = "trainer/global_step", "epoch", "trainer/examples"


class ExamplesSeen(Callback):
    """Counts the training examples of all ranks, over interruptions: an axis that runs of any batch size share."""

    def __init__(self) -> None:
        self.num = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Where ranks share a batch unequally, this one has the most of it: then some rows too many, at most the ranks.
        self.num += len(batch["index"]) * trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        return {"num": self.num}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num = state_dict["num"]


class CurveLogger(WandbLogger):
    """Lightning's, with the examples seen beside each value."""

    def __init__(self, run: Any, seen: ExamplesSeen) -> None:
        super().__init__(experiment=run)
        self._seen = seen
        # Lightning defines axes only for runs that it starts itself.
        for axis in (STEP, EPOCH, EXAMPLES):
            run.define_metric(axis)
        run.define_metric("*", step_metric=STEP, step_sync=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({**metrics, EXAMPLES: self._seen.num}, step)


class Tracking:
    """The loggers of one run; `finish` must be called in every case. Of several ranks only the first one writes.

    Args:
        curves: False where nothing is trained and only the summary is added to.
    """

    def __init__(self, plan: Plan, folder: Path, *, curves: bool = True) -> None:
        self.plan = plan
        self.folder = folder
        self.run: Any = None
        self.csv = folder / "metrics.csv"
        self.before = folder / "metrics.before.csv"
        self.writes = getattr(rank_zero_only, "rank", None) in (None, 0)
        self.loggers: list[Logger] = []
        self.callbacks: list[Callback] = []
        if curves and self.writes and self.csv.is_file():
            # An interrupted run: the CSV logger begins a new file, so what was there waits beside it.
            self._append(self.csv, self.before)
        if curves:
            self.loggers.append(CSVLogger(folder, name="", version="", flush_logs_every_n_steps=100))
        name = plan.config.logger.name
        if name == "tensorboard" and curves:
            self.loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        elif name == "wandb":
            seen = ExamplesSeen()
            self.callbacks.append(seen)
            if self.writes:
                self._start_wandb(seen)

    def _start_wandb(self, seen: ExamplesSeen) -> None:
        plan = self.plan
        self.run = tracking_start.start(
            plan.config.logger,
            self.folder,
            name=run_title(plan),
            id=plan.fingerprint,
            group=plan.experiment,
            job_type=plan.stage,
            tags=tags(plan),
            config=wandb_config(plan),
        )
        self.loggers.append(CurveLogger(self.run, seen))

    def summarise(self, record: dict[str, Any]) -> None:
        """Test metrics, counts and the weight report into the run's summary."""
        if self.run is None:
            return
        self.run.summary.update({name: value for name, value in record["metrics"].items() if value is not None})
        self.run.summary.update(
            {
                "num_train": record["data"]["num_train"],
                "fraction_loaded": record["weights"]["fraction_loaded"],
                "num_parameters": record["parameters"]["total"],
                "num_trainable": record["parameters"]["trainable"],
                "train_s": record["time"]["train_s"],
            }
        )

    def log_model(self, record: dict[str, Any]) -> None:
        """The best weights as an artifact, and as its input the weights of the run that this one started from."""
        if self.run is None or not self.plan.config.logger.log_model:
            return
        for parent in record["parents"]:
            folder = self._model_of(parent)
            if folder is not None:
                # `use_artifact` refuses to work offline. Logged once more with this mark, the same weights are found
                # by their digest when the run is uploaded, and become its input.
                self.run._log_artifact(_artifact(parent, folder), is_user_created=True, use_after_commit=True)
        details = {name: record[name] for name in ("experiment", "stage", "arm")}
        parents = [artifact_name(parent["fingerprint"]) for parent in record["parents"]]
        self.run.log_artifact(_artifact(record, self.folder / "model", details | {"parents": parents}))

    def _model_of(self, parent: dict[str, str]) -> Path | None:
        """The weights of the run that this one started from, if they are still there."""
        if self.plan.weights_from is not None:
            folder = self.plan.weights_from
        else:
            assert self.plan.parent is not None, "a run with parents starts from one of them"
            stage, fingerprint = self.plan.parent.stage, parent["fingerprint"]
            found = records.complete(self.plan.output_dir, self.plan.experiment, stage, fingerprint)
            if found is None:
                return None
            folder = Path(found["_folder"]) / "model"
        return folder if folder.is_dir() else None

    def finish(self, exit_code: int) -> None:
        """Close every logger and put metrics.csv together."""
        for logger in self.loggers:
            logger.finalize("success" if exit_code == 0 else "failed")
        if self.run is not None:
            folder = Path(self.run.dir).parent
            self.run.finish(exit_code=exit_code)
            link(folder, self.plan.output_dir / self.plan.experiment, f"{run_title(self.plan)}-{self.run.id[:4]}")
        if not self.writes:
            return
        (self.folder / "hparams.yaml").unlink(missing_ok=True)
        if self.before.is_file():
            self._append(self.csv, self.before)
            self.before.replace(self.csv)

    @staticmethod
    def _append(source: Path, onto: Path) -> None:
        """Rows of `source` behind those of `onto`; steps that were done again replace the earlier ones."""
        import pandas as pd

        tables = [pd.read_csv(path) for path in (onto, source) if path.is_file() and path.stat().st_size]
        if len(tables) == 2 and len(tables[1]):
            tables[0] = tables[0][tables[0]["step"] < tables[1]["step"].min()]
        if tables:
            pd.concat(tables, ignore_index=True).to_csv(onto, index=False)
        source.unlink(missing_ok=True)


def report(plan: Plan, record: dict[str, Any]) -> None:
    """Give the run of a W&B sweep the record that was there already: a sampler may ask for the same config twice."""
    tracking = Tracking(plan, plan.folder, curves=False)
    try:
        tracking.summarise(record)
    finally:
        tracking.finish(0)


def _artifact(run: Mapping[str, Any], folder: Path, metadata: dict[str, Any] | None = None) -> Any:
    import wandb

    artifact = wandb.Artifact(artifact_name(run["fingerprint"]), type="model", metadata=metadata)
    artifact.add_dir(str(folder), skip_cache=True, policy="immutable")
    return artifact


def artifact_name(fingerprint: str) -> str:
    return f"model-{fingerprint[:10]}"


def run_title(plan: Plan) -> str:
    """Readable: arm (or stage), target, budget, freezing and what else was chosen, fold, seed."""
    names = [data_name(plan.data), *(data_name(each.data) for each in plan.also.values())]
    parts = [plan.arm or plan.stage, "+".join(names)]
    if plan.data.train_size:
        parts.append(f"n{plan.data.train_size}")
    if plan.freezing.policy != "none":
        parts.append(plan.freezing.policy)
    parts += chosen_of(plan)
    if plan.data.fold is not None:
        parts.append(f"fold{plan.data.fold}")
    return "-".join([*parts, f"seed{plan.seed}"])


def tags(plan: Plan) -> list[str]:
    source = [f"source:{name}"] if (name := source_name(plan.config)) else []
    found = [
        *source,
        f"target:{data_name(plan.config.target.data)}",
        f"freezing:{plan.freezing.policy}",
        f"arm:{plan.arm}",
        *(f"method:{name}" for name in chosen_of(plan)),
    ]
    return [tag[:64] for tag in found if plan.arm or not tag.startswith("arm:")]


def wandb_config(plan: Plan) -> dict[str, Any]:
    """The whole config, nested, and flat keys to group and filter by."""
    size = plan.data.train_size
    flat = {
        "run/experiment": plan.experiment,
        "run/stage": plan.stage,
        "run/arm": plan.arm,
        "run/pair_id": pair_id(plan) if plan.arm else None,
        "run/seed": plan.seed,
        "run/fold": plan.data.fold,
        "run/budget": f"{size} labels" if size else "all labels",
        "run/train_size": size,
        "run/freezing": plan.freezing.policy,
        "run/adaptation": plan.adaptation.name,
        "run/source": source_name(plan.config),
        "run/target": data_name(plan.config.target.data) if has_data(plan.config.target.data) else None,
        "run/fingerprint": plan.fingerprint,
        "run/parents": [parent["fingerprint"] for parent in plan.parents],
    }
    return to_plain(plan.config) | flat
