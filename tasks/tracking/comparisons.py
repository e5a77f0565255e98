"""A comparison in MLflow: a parent run over its cells, each of which is a training's run.

comparison            tag fedrounds.comparison
  cell                a training; tags mlflow.parentRunId, fedrounds.cell, case, varies.*
    worker            as under any training
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from mlflow import MlflowClient, MlflowException, entities
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun

from fedcore.checkpoint import ComparisonFolder, RunFolder
from fedcore.errors import ConfigError, UnknownRun
from fedcore.settings.cells import Cell
from fedcore.settings.comparison import Comparison
from tasks.tracking.artifacts import write_file
from tasks.tracking.children import PARENT
from tasks.tracking.finding import as_found, experiments
from tasks.tracking.rounds import log_metrics
from tasks.tracking.runs import (
    COMPARISON,
    FLOW_RUNS,
    FOLDER,
    FlowRunLink,
    FoundRun,
    Run,
    experiment_id_of,
    flow_run_tags,
    not_started,
    origin_tags,
    take_back,
)
from tasks.tracking.server import TROUBLE, client, first_line, public, tracking_uri

__all__ = [
    "FoundComparison",
    "cell_tags",
    "cells_known",
    "find_comparison",
    "find_comparison_by_flow_run",
    "finish_comparison",
    "log_comparison",
    "reopen_comparison",
    "start_comparison",
]

CELL = "fedrounds.cell"
LOGGED = "mlflow.loggedArtifacts"
"""Which artifacts MLflow shows as tables."""


@dataclass(frozen=True)
class FoundComparison:
    """A comparison's run as MLflow has it."""

    run: Run
    status: str
    folder: Path


def start_comparison(
    comparison: Comparison, *, cells: int, cases: int, flow_run: FlowRunLink | None
) -> Run:
    """Open a comparison's parent run.

    Raises:
        ConfigError: MLflow cannot hold it. No run is left behind.
    """
    mlflow = client()
    digest = hashlib.sha256(comparison.model_dump_json().encode()).hexdigest()
    tags = {COMPARISON: digest, "kind": "comparison", **origin_tags()}
    tags |= flow_run_tags(flow_run, earlier="") if flow_run else {}
    try:
        experiment = experiment_id_of(mlflow, comparison.experiment_name)
        made = mlflow.create_run(experiment, run_name=comparison.name, tags=tags)
    except TROUBLE as error:
        raise not_started(error) from error
    run = Run(made.info.run_id, experiment, 0)
    sizes = {"cells": cells, "cases": cases, "seeds": len(comparison.all_seeds)}
    try:
        mlflow.log_batch(
            run.id,
            params=[Param(name, str(size)) for name, size in sizes.items()],
            tags=[RunTag(FOLDER, str(ComparisonFolder.of(run.id).path))],
        )
        tree = comparison.model_dump(mode="json")
        content = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        write_file(mlflow, run.id, "settings.yaml", content.encode())
    except TROUBLE as error:
        take_back(mlflow, run)
        raise not_started(error) from error
    return run


def reopen_comparison(found: FoundComparison, *, flow_run: FlowRunLink | None) -> None:
    """Set a comparison that stopped to RUNNING again.

    Raises:
        ConfigError: MLflow does not take it.
    """
    try:
        mlflow = client()
        mlflow.update_run(found.run.id, status="RUNNING")
        if flow_run is not None:
            earlier = mlflow.get_run(found.run.id).data.tags.get(FLOW_RUNS, "")
            tags = flow_run_tags(flow_run, earlier=earlier)
            mlflow.log_batch(found.run.id, tags=[RunTag(k, v) for k, v in tags.items()])
    except TROUBLE as error:
        raise not_started(error) from error


def find_comparison(name: str) -> FoundComparison:
    """The comparison that is meant: an MLflow run id, a flow-run id, or `latest`, unfinished.

    Raises:
        UnknownRun: there is none of that name.
        ConfigError: MLflow does not answer.
    """
    try:
        found = _latest(client()) if name == "latest" else _named(client(), name.strip())
    except TROUBLE as error:
        uri = tracking_uri()
        raise ConfigError(
            f"MLflow must answer to find comparison {name}; {public(uri)} did not: "
            f"{first_line(error, uri).rstrip('. ')}; start it, or correct MLFLOW_TRACKING_URI."
        ) from error
    if found is None:
        raise UnknownRun(
            "The run must be a comparison's MLflow run id, a Prefect flow-run id, or latest, the "
            f"newest unfinished one, at {public(tracking_uri())}; given: {name}; look it up in "
            "MLflow, or set MLFLOW_TRACKING_URI to where it was started."
        )
    return found


def find_comparison_by_flow_run(flow_run_id: str) -> FoundComparison | None:
    """The comparison that a Prefect flow run started or resumed."""
    return _newest(client(), f"tags.`{FLOW_RUNS}` LIKE '%{flow_run_id}%'")


def _latest(mlflow: MlflowClient) -> FoundComparison | None:
    return _newest(mlflow, "attributes.status != 'FINISHED'")


def _named(mlflow: MlflowClient, name: str) -> FoundComparison | None:
    if name.count("-") == 4 and "'" not in name:
        return find_comparison_by_flow_run(name)
    try:
        run = mlflow.get_run(name)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    known = COMPARISON in run.data.tags and run.info.lifecycle_stage == "active"
    return _found(run) if known else None


def _newest(mlflow: MlflowClient, condition: str) -> FoundComparison | None:
    ids = [str(experiment.experiment_id) for experiment in experiments(mlflow)]
    runs = mlflow.search_runs(
        ids,
        f"tags.`{COMPARISON}` LIKE '%' and {condition}",
        max_results=100,
        order_by=["attributes.start_time DESC"],
    )
    # One that was killed before its folder was made has nothing to go on with.
    return next((f for f in map(_found, runs) if ComparisonFolder(f.folder).file.exists()), None)


def _found(run: MlflowRun) -> FoundComparison:
    folder = run.data.tags.get(FOLDER)
    return FoundComparison(
        Run(run.info.run_id, run.info.experiment_id, 0),
        run.info.status,
        Path(folder) if folder else ComparisonFolder.of(run.info.run_id).path,
    )


def cell_tags(comparison: str, cell: Cell) -> dict[str, str]:
    """What puts a training's run under its comparison, and lets the table of runs group it."""
    varied = {f"varies.{path}": words for path, words in cell.varied.items()}
    return {PARENT: comparison, CELL: cell.label, "case": cell.case, **varied}


def cells_known(comparison: Run) -> dict[str, FoundRun]:
    """The runs of the cells that were started, by label.

    A cell that was killed before its first checkpoint has nothing to go on with: its run is
    deleted, and it is not listed.

    Raises:
        ConfigError: MLflow does not answer.
    """
    found: dict[str, FoundRun] = {}
    try:
        mlflow = client()
        for run in _runs_of(mlflow, comparison):
            cell = as_found(run)
            if RunFolder(cell.folder).rounds():
                found.setdefault(run.data.tags[CELL], cell)
            else:
                take_back(mlflow, cell.run)
    except TROUBLE as error:
        raise not_started(error) from error
    return found


def _runs_of(mlflow: MlflowClient, comparison: Run) -> list[entities.Run]:
    runs: list[entities.Run] = []
    token = None
    while True:
        page = mlflow.search_runs(
            [comparison.experiment_id],
            f"tags.`{PARENT}` = '{comparison.id}'",
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += [run for run in page if CELL in run.data.tags]
        token = page.token
        if not token:
            return runs


def log_comparison(
    run: Run,
    *,
    files: Mapping[str, bytes],
    tables: Sequence[str],
    metrics: Sequence[tuple[str, float, int, int]],
) -> None:
    """Keep files, replacing earlier ones, and points (name, value, timestamp_ms, step).

    `tables` names those files that MLflow shows as tables.
    """
    mlflow = client()
    for name, content in files.items():
        write_file(mlflow, run.id, name, content)
    shown = json.dumps([{"path": name, "type": "table"} for name in tables])
    mlflow.log_batch(run.id, tags=[RunTag(LOGGED, shown)])
    log_metrics(run.id, [Metric(*point) for point in metrics])


def finish_comparison(run: Run, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """Close a comparison's run with its true status; its cells have their own."""
    client().set_terminated(run.id, status)
