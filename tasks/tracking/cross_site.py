"""A cross-site evaluation in MLflow, as a table."""

import csv
import io

from fedcore.cross_site import CrossSite
from tasks.tracking.artifacts import write_file
from tasks.tracking.runs import Run
from tasks.tracking.server import client

__all__ = ["log_cross_site"]


def log_cross_site(run: Run, found: CrossSite) -> None:
    """Keep it as `cross_site.csv`: a row of model, worker and metrics for each cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", "worker", *found.values])
    for m, model in enumerate(found.models):
        for k, worker in enumerate(found.workers):
            values = [repr(float(cells[m, k])) for cells in found.values.values()]
            table.writerow([model, worker, *values])
    write_file(client(), run.id, "cross_site.csv", text.getvalue().encode())
