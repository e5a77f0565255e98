"""The child runs under a training's run: one for each worker, never two."""

from mlflow import MlflowClient

__all__ = ["PARENT", "WORKER", "children"]

PARENT, WORKER = "mlflow.parentRunId", "fedrounds.worker"


def children(mlflow: MlflowClient, parent: str, *, experiment: str) -> dict[str, str]:
    """Child run id by worker."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = mlflow.search_runs(
            [experiment],
            f"tags.`{PARENT}` = '{parent}'",
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        for run in page:
            worker = run.data.tags.get(WORKER)
            if worker is not None:
                found.setdefault(worker, run.info.run_id)
        token = page.token
        if not token:
            return found
