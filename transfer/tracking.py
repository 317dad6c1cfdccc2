"""W&B and the other loggers. The only module that imports wandb."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from transfer.config import to_plain
from transfer.plan import Plan, data_name, has_data

log = logging.getLogger(__name__)


def has_key() -> bool:
    """Whether a W&B API key is there: in $WANDB_API_KEY or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def offline(requested: bool | None) -> bool:
    """Offline where asked for, or where no key is there."""
    if requested is not None:
        return requested
    mode = os.environ.get("WANDB_MODE")
    return mode in ("offline", "disabled") if mode else not has_key()


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
        if curves and self.writes and self.csv.is_file():
            # An interrupted run: the CSV logger begins a new file, so what was there waits beside it.
            self._append(self.csv, self.before)
        if curves:
            self.loggers.append(CSVLogger(folder, name="", version="", flush_logs_every_n_steps=100))
        name = plan.config.logger.name
        if name == "tensorboard" and curves:
            self.loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        elif name == "wandb" and self.writes:
            self._start_wandb()

    def _start_wandb(self) -> None:
        plan, settings = self.plan, self.plan.config.logger
        import wandb

        self.run = wandb.init(
            name=run_title(plan),
            dir=self.folder,
            project=settings.project,
            entity=settings.entity,
            id=plan.fingerprint,
            resume="allow",
            mode="offline" if offline(settings.offline) else "online",
            group=plan.experiment,
            job_type=plan.stage,
            tags=tags(plan),
            config=wandb_config(plan),
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.loggers.append(WandbLogger(experiment=self.run))

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
        """The best weights as an artifact; a run that started from another one uses that one's artifact.

        Offline W&B cannot look up the parent's artifact, so its name stands in the metadata as well.
        """
        if self.run is None or not self.plan.config.logger.log_model:
            return
        import wandb

        parents = [artifact_name(parent["fingerprint"]) for parent in record["parents"]]
        if not self.run.offline:
            for parent in parents:
                with contextlib.suppress(wandb.errors.CommError, ValueError):
                    self.run.use_artifact(f"{parent}:latest", type="model")
        metadata = {
            "stage": record["stage"],
            "arm": record["arm"],
            "parents": parents,
            "experiment": record["experiment"],
        }
        artifact = wandb.Artifact(artifact_name(record["fingerprint"]), type="model", metadata=metadata)
        artifact.add_dir(str(self.folder / "model"), skip_cache=True, policy="immutable")
        self.run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        """Close every logger and put metrics.csv together."""
        for logger in self.loggers:
            logger.finalize("success" if exit_code == 0 else "failed")
        if self.run is not None:
            self.run.finish(exit_code=exit_code)
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


def artifact_name(fingerprint: str) -> str:
    return f"model-{fingerprint[:10]}"


def run_title(plan: Plan) -> str:
    """Readable: arm (or stage), target, budget, freezing, fold, seed."""
    parts = [plan.arm or plan.stage, data_name(plan.data)]
    if plan.data.train_size:
        parts.append(f"n{plan.data.train_size}")
    if plan.freezing.policy != "none":
        parts.append(plan.freezing.policy)
    if plan.data.fold is not None:
        parts.append(f"fold{plan.data.fold}")
    return "-".join([*parts, f"seed{plan.seed}"])


def tags(plan: Plan) -> list[str]:
    source = [f"source:{data_name(plan.config.source.data)}"] if has_data(plan.config.source.data) else []
    found = [
        *source,
        f"target:{data_name(plan.config.target.data)}",
        f"freezing:{plan.freezing.policy}",
        f"arm:{plan.arm}",
    ]
    return [tag[:64] for tag in found if plan.arm or not tag.startswith("arm:")]


def wandb_config(plan: Plan) -> dict[str, Any]:
    """The whole config, nested, and flat keys to group and filter by."""
    flat = {
        "run/arm": plan.arm,
        "run/stage": plan.stage,
        "run/seed": plan.seed,
        "run/train_size": plan.data.train_size,
        "run/freezing": plan.freezing.policy,
        "run/fingerprint": plan.fingerprint,
        "run/parents": [parent["fingerprint"] for parent in plan.parents],
    }
    return to_plain(plan.config) | flat
