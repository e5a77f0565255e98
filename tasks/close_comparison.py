"""The end of a comparison: one table and one picture, in MLflow and in Prefect."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from fedcore.checkpoint import RunFolder
from fedcore.comparison import CellResult
from fedcore.settings.cells import Cell
from fedcore.settings.comparison import Target
from tasks import report, tracking
from tasks.comparison_table import cell_rows, points, shown_rows, table_csv, table_json
from tasks.record import logger

__all__ = ["close_comparison", "read_result"]


def read_result(cell: Cell, run_id: str, folder: RunFolder) -> CellResult:
    """What a finished training's checkpoints hold."""
    records = folder.records()
    last = folder.latest()
    assert last is not None, "a finished training has its last state"
    return CellResult(
        case=cell.case,
        label=cell.label,
        seed=cell.config.seed,
        run_id=run_id,
        model_digest=last.model.digest,
        curves={name: [r.metrics[name] for r in records] for name in records[-1].metrics},
        best=tracking.summary(records),
        ended_ms=records[-1].timestamp_ms,
    )


def close_comparison(
    run: tracking.Run,
    cells: Sequence[Cell],
    results: Sequence[CellResult],
    failures: Mapping[str, str],
    *,
    target: Target | None,
) -> list[dict[str, str]]:
    """Tell MLflow and Prefect what came out; returns the table. Trouble there is reported."""
    rows = shown_rows(cells, results, failures, target)
    each = cell_rows(cells, results, failures)
    status: Literal["FINISHED", "FAILED"] = "FAILED" if failures else "FINISHED"
    files = {
        "comparison.csv": table_csv(rows),
        "comparison.json": table_json(rows),
        "cells.csv": table_csv(each),
    }
    if results:
        files["pictures/curves.png"] = _picture(results, target)
    # Means of some of the seeds would be other points at the same steps than those of all.
    told = [] if failures else points(results, target)
    for doing, action in (
        (
            "take the comparison's table",
            lambda: tracking.log_comparison(
                run, files=files, tables=["comparison.json"], metrics=told
            ),
        ),
        ("close the comparison", lambda: tracking.finish_comparison(run, status)),
    ):
        trouble = tracking.attempt(action, doing=doing)
        if trouble:
            logger.warning(trouble)
    report.cells_table(each)
    report.comparison_table(rows)
    return rows


def _picture(results: Sequence[CellResult], target: Target | None) -> bytes:
    # Matplotlib takes a quarter of a second to import, which no first round should wait for.
    from tasks.comparison_picture import comparison_picture

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "curves.png")
        comparison_picture(results, target, path=path)
        return path.read_bytes()
