"""Finding a training's run again: by its id, by a flow run, or the newest unfinished one."""

import uuid
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient, MlflowException, entities
from mlflow.entities import ViewType

from fedcore.checkpoint import RunFolder
from fedcore.errors import ConfigError, UnknownRun, nearest
from tasks.tracking.runs import COMPARISON, FLOW_RUNS, FOLDER, KIND, WORKERS, FoundRun, Run
from tasks.tracking.server import TROUBLE, client, first_line, public, tracking_uri

__all__ = ["as_found", "experiments", "find_by_flow_run", "find_run"]

SUGGESTED_FROM = 200
"""The newest runs, among which a name that was not found is looked up."""


def find_run(name: str, *, latest: Literal["unfinished", "trained"] = "unfinished") -> FoundRun:
    """The run that is meant: an MLflow run id, a Prefect flow-run id, or `latest`.

    `latest` is the newest training at this tracking URI whose folder is here and that is not
    finished, or that has a finished round.

    Raises:
        UnknownRun: there is none of that name.
        ConfigError: MLflow does not answer.
    """
    try:
        return _latest(client(), latest) if name == "latest" else _found(client(), name.strip())
    except TROUBLE as error:
        uri = tracking_uri()
        raise ConfigError(
            f"MLflow must answer to find run {name}; {public(uri)} did not: "
            f"{first_line(error, uri).rstrip('. ')}; start it, or correct MLFLOW_TRACKING_URI."
        ) from error


def _latest(mlflow: MlflowClient, which: Literal["unfinished", "trained"]) -> FoundRun:
    condition = "attributes.status != 'FINISHED'" if which == "unfinished" else ""
    for run in map(as_found, _trainings(mlflow, condition)):
        # One that was killed before its folder was made has nothing to go on with.
        rounds = RunFolder(run.folder).rounds()
        if rounds and (which == "unfinished" or rounds[-1] > 0):
            return run
    wanted = "is not finished" if which == "unfinished" else "has a finished round"
    raise UnknownRun(
        f"latest needs a training that {wanted}; given: none at {public(tracking_uri())} with its "
        "checkpoints here; start one, or give the id of a run."
    )


def _found(mlflow: MlflowClient, name: str) -> FoundRun:
    by_flow_run = find_by_flow_run(name)
    if by_flow_run is not None:
        return by_flow_run
    exact = _run_of_id(mlflow, name)
    if exact is not None:
        return exact
    raise UnknownRun(
        "The run must be an MLflow run id, a Prefect flow-run id, or latest, at "
        f"{public(tracking_uri())}; given: {name}{_hint(mlflow, name)}; "
        "look it up in MLflow, or set MLFLOW_TRACKING_URI to where it was started."
    )


def _run_of_id(mlflow: MlflowClient, name: str) -> FoundRun | None:
    try:
        run = mlflow.get_run(name)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    if run.info.lifecycle_stage != "active":
        raise UnknownRun(
            f"The run must exist; given: {name}, which was deleted in MLflow; restore it "
            f"(mlflow runs restore --run-id {name}), or choose another."
        )
    if KIND not in run.data.tags:
        raise UnknownRun(
            f"The run must be a training; given: {name}, which is {_what(run)}; "
            "give the id of the training's own run."
        )
    return as_found(run)


def _what(run: entities.Run) -> str:
    parent = run.data.tags.get("mlflow.parentRunId")
    if COMPARISON in run.data.tags:
        return f"a comparison (fedrounds compare --resume {run.info.run_id})"
    return f"a worker's part of run {parent}" if parent else "another program's run"


def _hint(mlflow: MlflowClient, name: str) -> str:
    recent = list(islice(_trainings(mlflow), SUGGESTED_FROM))
    for run in recent:
        if run.info.run_name == name:
            return f" (a run's name; the newest so named is {run.info.run_id})"
    return nearest(name, ["latest", *(run.info.run_id for run in recent)])


def find_by_flow_run(flow_run_id: str) -> FoundRun | None:
    """The training that a Prefect flow run started or resumed; Retry keeps the flow run's id."""
    try:
        wanted = str(uuid.UUID(flow_run_id))
    except ValueError:
        return None
    if wanted != flow_run_id.lower():
        return None  # 32 digits without dashes are an MLflow run id
    run = next(_trainings(client(), f"tags.`{FLOW_RUNS}` LIKE '%{wanted}%'"), None)
    return as_found(run) if run else None


def _trainings(mlflow: MlflowClient, condition: str = "") -> Iterator[entities.Run]:
    """The parent runs of trainings at this tracking URI, newest first."""
    ids = [str(e.experiment_id) for e in experiments(mlflow)]
    token = None
    while ids:
        page = mlflow.search_runs(
            ids,
            " and ".join(filter(None, [f"tags.`{KIND}` LIKE '%'", condition])),
            ViewType.ACTIVE_ONLY,
            max_results=100,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def experiments(mlflow: MlflowClient) -> Iterator[entities.Experiment]:
    """All experiments at this tracking URI."""
    token = None
    while True:
        page = mlflow.search_experiments(max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def as_found(run: entities.Run) -> FoundRun:
    """A training's run, from what MLflow says of it."""
    tags: Mapping[str, str] = run.data.tags
    workers = int(tags.get(WORKERS, "0"))
    return FoundRun(
        run=Run(run.info.run_id, run.info.experiment_id, workers),
        name=run.info.run_name or "",
        kind="centralised" if tags[KIND] == "centralised" else "federated",
        status=run.info.status,
        folder=Path(tags[FOLDER]) if FOLDER in tags else RunFolder.of(run.info.run_id).path,
    )
