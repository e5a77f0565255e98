"""What single workers' training looked like, where the disclosure lets it out.

Up to 50 workers: a child run for each, with the metric names of the parent, so that MLflow draws
their curves over each other. Above that: quantiles on the parent, and a table for each round.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric

from fedcore.values import RoundRecord
from tasks.tracking.artifacts import write_file
from tasks.tracking.children import PARENT, WORKER, children
from tasks.tracking.rounds import log_metrics
from tasks.tracking.runs import Run
from tasks.tracking.server import client

__all__ = ["MOST_CURVES", "log_workers"]

MOST_CURVES = 50
"""MLflow's pages of runs and charts grow slow with more child runs than that."""
QUANTILES = (10, 50, 90)


def log_workers(run: Run, records: Sequence[RoundRecord]) -> None:
    """Log these rounds' `train_loss` and `records` of every worker; twice does no harm.

    A federation of one worker gets no child: its curve is the parent's.
    """
    if run.workers > MOST_CURVES:
        log_metrics(run.id, [metric for record in records for metric in _quantiles(record)])
        for record in records:
            write_file(client(), run.id, f"workers/round-{record.round:05d}.csv", _table(record))
    elif run.workers > 1 and records:
        _log_curves(client(), run, records)


def _log_curves(mlflow: MlflowClient, run: Run, records: Sequence[RoundRecord]) -> None:
    points: dict[str, list[Metric]] = {}
    for record in records:
        for contribution in record.contributions:
            points.setdefault(contribution.worker, []).extend(
                Metric(name, value, record.timestamp_ms, record.round)
                for name, value in (
                    ("train_loss", contribution.train_loss),
                    ("records", contribution.weight),
                )
            )
    known = children(mlflow, run.id, experiment=run.experiment_id)
    # MLflow lists the newest run first, and draws the first ten: so the first worker comes last.
    for worker in sorted(points, reverse=True):
        child = known.get(worker) or _create(mlflow, run, worker)
        log_metrics(child, points[worker])


def _create(mlflow: MlflowClient, run: Run, worker: str) -> str:
    tags = {PARENT: run.id, WORKER: worker, "mlflow.source.name": "fedrounds"}
    made = mlflow.create_run(run.experiment_id, run_name=worker, tags=tags)
    return str(made.info.run_id)


def _quantiles(record: RoundRecord) -> list[Metric]:
    losses = [contribution.train_loss for contribution in record.contributions]
    if not losses:
        return []
    values = np.percentile(losses, QUANTILES)
    return [
        Metric(f"train_loss_p{q}", float(value), record.timestamp_ms, record.round)
        for q, value in zip(QUANTILES, values, strict=True)
    ]


def _table(record: RoundRecord) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["worker", "train_loss", "records"])
    rows.writerows((c.worker, c.train_loss, c.weight) for c in record.contributions)
    return text.getvalue().encode()
