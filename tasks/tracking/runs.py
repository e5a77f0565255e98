"""Runs: one parent for each training, opened, opened again, closed with its true status."""

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient, MlflowException
from mlflow.entities import DatasetInput, Metric, RunTag

from fedcore.checkpoint import RunFolder
from fedcore.errors import ConfigError
from fedcore.settings import TrainingConfig
from fedcore.values import Description, RoundRecord
from tasks.tracking.artifacts import experiment_location, write_file
from tasks.tracking.children import children
from tasks.tracking.provenance import (
    dataset_inputs,
    parameters,
    settings_digest,
    settings_yaml,
    workers_json,
)
from tasks.tracking.server import TROUBLE, client, first_line, public, tracking_uri
from tasks.tracking.summary import summary

__all__ = [
    "COMPARISON",
    "FLOW_RUNS",
    "FOLDER",
    "KIND",
    "WORKERS",
    "FlowRunLink",
    "FoundRun",
    "Run",
    "experiment_id_of",
    "finish",
    "flow_run_tags",
    "not_started",
    "origin_tags",
    "reopen",
    "run_link",
    "run_path",
    "start_run",
    "take_back",
]

# Tags: what the table of runs shows and sorts by, and what runs are found by.
KIND, FOLDER, WORKERS = "fedrounds.kind", "fedrounds.folder", "workers"
FLOW_RUN, FLOW_RUN_LINK = "prefect.flow_run_id", "prefect.flow_run_link"
FLOW_RUNS = "prefect.flow_run_ids"
COMPARISON = "fedrounds.comparison"
PARAMETERS_PER_BATCH = 100
INPUT_TRIES = 10
"""Each try finds all that the others have named before it: more than a few are never needed."""


@dataclass(frozen=True)
class Run:
    """A training's parent run in MLflow; small and JSON, so tasks can take it."""

    id: str
    experiment_id: str
    workers: int
    """Workers in the federation: decides whether each gets curves of its own."""


@dataclass(frozen=True)
class FlowRunLink:
    """The Prefect flow run behind a training; `url` is its page, where there is one."""

    id: str
    url: str = ""


@dataclass(frozen=True)
class FoundRun:
    """A training's run as MLflow has it."""

    run: Run
    name: str
    kind: Literal["federated", "centralised"]
    status: str
    """RUNNING, FINISHED, FAILED or KILLED; a process that was killed left it RUNNING."""
    folder: Path
    """Where its checkpoints lie."""

    @property
    def id(self) -> str:
        """The MLflow run id."""
        return self.run.id


def start_run(
    config: TrainingConfig,
    *,
    kind: Literal["federated", "centralised"],
    descriptions: Sequence[Description],
    folder: Path | None = None,
    flow_run: FlowRunLink | None = None,
    part_of: Mapping[str, str] | None = None,
) -> Run:
    """Open a training's parent run, with its settings and fingerprints of its data.

    `folder` is where its checkpoints will lie; none: `RunFolder.of(run id)`. `part_of` are tags
    that say which comparison it belongs to, if any.

    Raises:
        ConfigError: MLflow cannot hold it. No run is left behind.
    """
    mlflow = client()
    try:
        experiment = experiment_id_of(mlflow, config.experiment_name)
        workers = sum(description.workers for description in descriptions)
        tags = _tags(config, kind=kind, workers=workers, flow_run=flow_run)
        tags |= part_of or {}
        made = mlflow.create_run(experiment, run_name=config.name, tags=tags)
    except TROUBLE as error:
        raise not_started(error) from error
    run = Run(made.info.run_id, experiment, workers)
    try:
        place = (folder or RunFolder.of(run.id).path).absolute()
        mlflow.log_batch(run.id, tags=[RunTag(FOLDER, str(place))])
        settings = parameters(config)
        for first in range(0, len(settings), PARAMETERS_PER_BATCH):
            mlflow.log_batch(run.id, params=settings[first : first + PARAMETERS_PER_BATCH])
        _log_inputs(mlflow, run.id, dataset_inputs(config, descriptions))
        write_file(mlflow, run.id, "settings.yaml", settings_yaml(config))
        write_file(mlflow, run.id, "workers.json", workers_json(descriptions))
    except TROUBLE as error:
        take_back(mlflow, run)
        raise not_started(error) from error
    return run


def _tags(
    config: TrainingConfig, *, kind: str, workers: int, flow_run: FlowRunLink | None
) -> dict[str, str]:
    tags = {
        "strategy": config.strategy.kind,
        WORKERS: str(workers),
        "disclosure": config.disclosure,
        "kind": kind,
        KIND: kind,
        "fedrounds.settings_digest": settings_digest(config),
        **origin_tags(),
    }
    return {**tags, **(flow_run_tags(flow_run, earlier="") if flow_run else {})}


def origin_tags() -> dict[str, str]:
    """Who made a run, with what."""
    return {
        "fedrounds.version": _version(),
        "mlflow.source.name": "fedrounds",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }


def flow_run_tags(flow_run: FlowRunLink, *, earlier: str) -> dict[str, str]:
    """The newest flow run, and all of them: Prefect's Retry comes back with an old one's id."""
    known = earlier.split()
    every = known if flow_run.id in known else [*known, flow_run.id]
    tags = {FLOW_RUN: flow_run.id, FLOW_RUNS: " ".join(every)}
    if flow_run.url:
        tags[FLOW_RUN_LINK] = flow_run.url
        # The description is the one place of a run's page where MLflow shows a link as a link.
        tags["mlflow.note.content"] = f"[Flow run in Prefect]({flow_run.url})"
    return tags


def _version() -> str:
    try:
        return version("fedrounds")
    except PackageNotFoundError:
        return "source"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())  # a container's user need not have a name


def experiment_id_of(mlflow: MlflowClient, name: str) -> str:
    """The experiment of that name, made if it is not there.

    Raises:
        ConfigError: it was deleted.
    """
    known = mlflow.get_experiment_by_name(name)
    if known is None:
        location = experiment_location(tracking_uri(), name)
        tags = {"mlflow.experimentKind": "custom_model_development"}  # the UI would ask
        try:
            return str(mlflow.create_experiment(name, location, tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            known = mlflow.get_experiment_by_name(name)  # another training was faster
            assert known is not None
    if known.lifecycle_stage != "active":
        raise ConfigError(
            f"The MLflow experiment must exist; given: {name}, which was deleted; restore it "
            f"(mlflow experiments restore -x {known.experiment_id}), or set another experiment."
        )
    return str(known.experiment_id)


def _log_inputs(mlflow: MlflowClient, run: str, datasets: list[DatasetInput]) -> None:
    """Name the data. Of two trainings that are the first to name the same data at the same time,
    MLflow refuses one; asked again, it finds what the other has named."""
    for _ in range(INPUT_TRIES - 1):
        try:
            return mlflow.log_inputs(run, datasets=datasets)
        except MlflowException as error:
            if not any(word in str(error).lower() for word in ("unique", "duplicate")):
                raise
    return mlflow.log_inputs(run, datasets=datasets)


def take_back(mlflow: MlflowClient, run: Run) -> None:
    """Delete a run that came to nothing."""
    try:
        mlflow.set_terminated(run.id, "FAILED")
        mlflow.delete_run(run.id)
    except TROUBLE:
        pass  # the error that led here is the one to report


def not_started(error: BaseException) -> ConfigError:
    """What to say when MLflow does not take a run."""
    uri = tracking_uri()
    return ConfigError(
        f"MLflow must take the training's run; {public(uri)} did not: "
        f"{first_line(error, uri).rstrip('. ')}; mend it and start again."
    )


def reopen(found: FoundRun, *, flow_run: FlowRunLink | None = None) -> Run:
    """Set a run that stopped to RUNNING again, and say which flow run goes on with it.

    Raises:
        ConfigError: MLflow does not take it.
    """
    try:
        mlflow = client()
        mlflow.update_run(found.id, status="RUNNING")
        if flow_run is not None:
            earlier = mlflow.get_run(found.id).data.tags.get(FLOW_RUNS, "")
            tags = flow_run_tags(flow_run, earlier=earlier)
            mlflow.log_batch(found.id, tags=[RunTag(name, text) for name, text in tags.items()])
        for child in children(mlflow, found.run.id, experiment=found.run.experiment_id).values():
            mlflow.update_run(child, status="RUNNING")
    except TROUBLE as error:
        raise not_started(error) from error
    return found.run


def finish(
    run: Run,
    status: Literal["FINISHED", "FAILED", "KILLED"],
    *,
    records: Sequence[RoundRecord] = (),
) -> None:
    """Close a run and its workers' runs with their true status; twice does no harm.

    What its best round reached is kept as summary metrics, so that the table of runs sorts by it.
    """
    mlflow = client()
    if records:
        last = records[-1]
        best = summary(records)
        mlflow.log_batch(
            run.id,
            [Metric(n, v, last.timestamp_ms, last.round) for n, v in best.items()],
        )
    for child in children(mlflow, run.id, experiment=run.experiment_id).values():
        mlflow.set_terminated(child, status)
    mlflow.set_terminated(run.id, status)


def run_link(run: Run) -> str:
    """The run's page in MLflow; empty where no server shows it."""
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return ""
    return f"{public(uri).rstrip('/')}{run_path(run)}"


def run_path(run: Run) -> str:
    """The run's page below the address of any server that shows it."""
    return f"/#/experiments/{run.experiment_id}/runs/{run.id}"
