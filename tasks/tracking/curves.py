"""What single workers' training looked like, where the disclosure lets it out.

Up to 50 workers: a child run for each, with the metric names of the parent, so that MLflow draws
their curves over each other. Above that the record has quantiles, and each round gets a table.
"""

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric

from fedcore.rounds import FEW_WORKERS
from fedcore.values import RoundRecord
from tasks.tracking.artifacts import write_file
from tasks.tracking.children import PARENT, WORKER, children
from tasks.tracking.rounds import log_metrics
from tasks.tracking.runs import Run
from tasks.tracking.server import client

__all__ = ["log_workers"]


def log_workers(run: Run, records: Sequence[RoundRecord]) -> None:
    """Log these rounds' `train_loss` and `records` of every worker; twice does no harm.

    A federation of one worker gets no child: its curve is the parent's.
    """
    # MLflow's pages of runs and charts grow slow with more child runs than that.
    if run.workers > FEW_WORKERS:
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


def _table(record: RoundRecord) -> bytes:
    """Rows of worker, train_loss, records; a worker's name has no comma or quote in it."""
    who = record.contributions
    columns = zip(who.workers, who.train_losses.tolist(), who.weights.tolist(), strict=True)
    rows = [f"{worker},{loss!r},{records:.0f}" for worker, loss, records in columns]
    return "\n".join(["worker,train_loss,records", *rows, ""]).encode()
