"""A W&B workspace for an experiment: its runs only, grouped by arm, the answer first. Needs wandb-workspaces."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer import records
from transfer.errors import Problem, UserError
from transfer.records import SOURCE_STAGES, Record
from transfer.tracking_study import TABLES, logger_of
from transfer.wandb_environment import has_key, server

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

# Beside the experiment's records: where its workspace was saved, so that it is changed and not made a second time.
SAVED_AT = "wandb-workspace.txt"
AXES = {"trainer/global_step": "by step", "epoch": "by epoch", "trainer/examples": "by examples seen"}
PICTURES = ("gains", "curves", "learning")
TRAINING = ("train/loss", "val/loss", "gradient_norm/total")
PINNED = ("run/arm", "run/budget", "run/seed", "run/freezing", "run/source", "run/pair_id")


def save(found: Sequence[Record], experiment: str, folder: Path) -> str:
    """Save the experiment's workspace on the server, or bring the saved one up to date; its address.

    Raises:
        UserError: wandb-workspaces is not installed, there is no key, or W&B did not track these runs.
    """
    settings = logger_of(found)
    _require(experiment, tracked=settings is not None)
    assert settings is not None
    import wandb
    from wandb_workspaces.workspaces import Workspace

    entity = settings.entity or wandb.Api().default_entity
    assert entity is not None, "an account has a default entity"
    workspace = build(found, experiment, entity, settings.project)
    note = folder / SAVED_AT
    if note.is_file():
        with contextlib.suppress(ValueError):  # it was deleted on the server
            earlier = Workspace.from_url(note.read_text(encoding="utf-8").strip())
            earlier.name, earlier.sections = workspace.name, workspace.sections
            earlier.settings, earlier.runset_settings = workspace.settings, workspace.runset_settings
            workspace = earlier
    workspace.save()
    address: str = workspace.url
    records.write_atomically(note, address + "\n")
    return address


def _require(experiment: str, *, tracked: bool) -> None:
    problems = []
    if importlib.util.find_spec("wandb_workspaces") is None:
        problems.append(Problem("workspace", "no wandb-workspaces", "the package", "pip install 'transfer[workspace]'"))
    if not has_key():
        action = "`wandb login`, or set WANDB_API_KEY"
        problems.append(Problem("W&B key", f"none for {server()}", "an API key of your account", action))
    if not tracked:
        problems.append(
            Problem("EXPERIMENT", experiment, "runs that W&B tracks", "train them with logger=wandb (the default)")
        )
    if problems:
        raise UserError(problems)


def build(found: Sequence[Record], experiment: str, entity: str, project: str) -> Workspace:
    """The workspace, not saved yet."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"transfer: {experiment}",
        sections=_sections(_monitored(found)),
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == experiment, *(ws.Metric("JobType") != stage for stage in SOURCE_STAGES)],
            groupby=[ws.Config("run/arm"), ws.Config("run/budget")],
            order=[ws.Ordering(ws.Config("run/train_size")), ws.Ordering(ws.Config("run/seed"))],
            pinned_columns=[f"config:{name}" for name in PINNED],
        ),
    )


def _monitored(found: Sequence[Record]) -> list[str]:
    """The metrics that chose the best weights of target runs, without their split."""
    return sorted({str(record["monitor"]["name"]).removeprefix("val/") for record in found if record["arm"]})


def _sections(metrics: Sequence[str]) -> list[Section]:
    import wandb_workspaces.reports.v2 as panels
    from wandb_workspaces.workspaces import Section

    arm = panels.Config("run/arm")

    def curve(metric: str, axis: str, title: str) -> panels.LinePlot:
        """The mean over the runs of each arm, and the band from the lowest to the highest of them."""
        return panels.LinePlot(
            title=title, x=axis, y=[metric], groupby=arm, groupby_aggfunc="mean", groupby_rangefunc="minmax"
        )

    answer: list[Any] = [panels.WeavePanelSummaryTable(table_name=f"study/{name}") for name in TABLES]
    answer.append(panels.MediaBrowser(title="pictures", media_keys=[f"study/{name}" for name in PICTURES]))
    curves: list[Any] = []
    test: list[Any] = []
    for metric in metrics:
        curves += [curve(f"val/{metric}", axis, f"val/{metric} {words}") for axis, words in AXES.items()]
        score = f"test/{metric}"
        test.append(panels.BarPlot(title=score, metrics=[score], groupby=arm, groupby_aggfunc="mean"))
        labels = panels.SummaryMetric("num_train")
        test.append(panels.ScatterPlot(title=f"{score} by labels", x=labels, y=panels.SummaryMetric(score), log_x=True))
    training: list[Any] = [curve(name, "trainer/global_step", name) for name in TRAINING]
    return [
        Section(name="The answer", panels=answer, is_open=True),
        Section(name="Learning curves by arm", panels=curves, is_open=True),
        Section(name="On the test split", panels=test, is_open=True),
        Section(name="Training", panels=training),
    ]
