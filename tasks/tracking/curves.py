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
    """Log these rounds' `train_loss` and `records` of every worker, and `workers_...` where it
    measured the new model; twice does no harm.

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
        for worker, values in _evaluated(record).items():
            points.setdefault(worker, []).extend(
                Metric(name, value, record.timestamp_ms, record.round)
                for name, value in values.items()
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


def _evaluated(record: RoundRecord) -> dict[str, dict[str, float]]:
    """What the new model reaches at each worker, by the names of the parent's metrics."""
    return {
        each.worker: {f"workers_{name}": value for name, value in each.measures.items()}
        for each in record.evaluated
    }


def _table(record: RoundRecord) -> bytes:
    """Rows of worker, train_loss, records, and `workers_...` where the workers measured the new
    model; empty where there is no such number. A worker's name has no comma or quote in it."""
    trained = {each.worker: each for each in record.contributions}
    measured, evaluated = {each.worker: each for each in record.evaluated}, _evaluated(record)
    names = [f"workers_{name}" for name in record.evaluated.measures]
    rows = [",".join(["worker", "train_loss", "records", *names])]
    for worker in dict.fromkeys([*trained, *evaluated]):
        loss = repr(trained[worker].train_loss) if worker in trained else ""
        records = (trained.get(worker) or measured[worker]).weight
        values = evaluated.get(worker)
        shown = [repr(values[name]) if values else "" for name in names]
        rows.append(",".join([worker, loss, f"{records:.0f}", *shown]))
    return "\n".join([*rows, ""]).encode()
