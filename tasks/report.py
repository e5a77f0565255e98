"""What a person sees in the Prefect UI: progress, rounds, workers, the link to MLflow."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect.artifacts import (
    TableArtifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.runtime import flow_run

from fedcore.cross_site import CrossSite
from fedcore.label_counts import LabelCounts
from fedcore.values import Description, RoundRecord

__all__ = [
    "cells_table",
    "comparison_table",
    "cross_site_table",
    "evaluation_table",
    "labels_table",
    "link",
    "progress",
    "rounds_table",
    "start_progress",
    "workers_table",
]

MOST_SIDE = 50
"""Workers and classes up to which a table of labels can be read; the picture in MLflow has more."""


def start_progress(*, done: int, rounds: int, what: str = "rounds") -> UUID:
    """A progress bar on the flow run's page; returns its id. A retried run has one already."""
    earlier = _earlier("progress")
    if earlier is not None:
        progress(earlier, done=done, rounds=rounds)
        return earlier
    made = create_progress_artifact(
        progress=100 * done / rounds, key="progress", description=f"{rounds} {what}"
    )
    assert isinstance(made, UUID)
    return made


def progress(artifact: UUID, *, done: int, rounds: int) -> None:
    """Move the progress bar."""
    update_progress_artifact(artifact_id=artifact, progress=100 * done / rounds)


def link(url: str, *, description: str) -> None:
    """A link to the training's MLflow run."""
    if _earlier("mlflow-run") is None:
        create_link_artifact(
            link=url, link_text="MLflow run", key="mlflow-run", description=description
        )


def rounds_table(records: Sequence[RoundRecord]) -> None:
    """One row per round: what a person scans for."""
    # A page takes its columns from the first row.
    names = dict.fromkeys(name for record in records for name in record.metrics)
    hidden = ("bytes_up", "bytes_down", "workers_arrived", "workers_refused")
    shown = [name for name in names if name not in hidden]
    _table(
        "rounds",
        [_round_row(record, shown) for record in records],
        description="Every finished round. Losses are means over records.",
    )


def _round_row(record: RoundRecord, names: Sequence[str]) -> dict[str, object]:
    found = record.metrics
    missing = [f"{worker}: {why}" for worker, why in sorted(record.missing.items())]
    missing += [f"{worker}, to measure: {why}" for worker, why in sorted(record.unmeasured.items())]
    return {
        "round": record.round,
        **{name: _rounded(found[name]) if name in found else "" for name in names},
        "workers": round(found["workers_arrived"]),
        "missing": ", ".join(missing) or "none",
    }


def workers_table(descriptions: Sequence[Description], records: Sequence[RoundRecord]) -> None:
    """One row per worker, or per host of simulated ones: records, labels, the last loss."""
    last: dict[str, tuple[int, float]] = {}
    engines: dict[str, str] = {}
    for record in records:
        for contribution in record.contributions:
            last[contribution.worker] = (record.round, contribution.train_loss)
        engines |= record.engines
    _table(
        "workers",
        [_worker_row(description, last, engines) for description in descriptions],
        description="What each worker lets be known of itself (disclosure open).",
    )


def labels_table(labels: LabelCounts | None) -> None:
    """One row per worker, one column per class: how different the workers are."""
    if labels is None or max(labels.counts.shape) > MOST_SIDE:
        return
    names = [f"class {name}" for name in labels.classes]
    _table(
        "labels",
        [
            {"worker": worker, **dict(zip(names, counts, strict=True))}
            for worker, counts in zip(labels.workers, labels.counts.tolist(), strict=True)
        ],
        description="Training records of each class at each worker.",
    )


def evaluation_table(
    central: Mapping[str, float],
    overall: Mapping[str, float],
    workers: Mapping[str, Mapping[str, float]],
) -> None:
    """One row for the central test records, one for each worker, and in words how evenly the
    model serves them."""
    rows: list[dict[str, object]] = [{"where": "central", **_shown(central)}] if central else []
    rows += [{"where": worker, **_shown(found)} for worker, found in workers.items()]
    told = ", ".join(f"{name} {_rounded(value)}" for name, value in overall.items())
    create_table_artifact(
        table=rows, key="evaluation", description=f"Where the model does well: {told}."
    )


def cross_site_table(found: CrossSite) -> None:
    """A row for each model, a column for each worker on whose records it was measured."""
    cells = found.values[found.judged_by].tolist()
    rows = [
        {"model of": model, **dict(zip(found.workers, map(_rounded, row), strict=True))}
        for model, row in zip(found.models, cells, strict=True)
    ]
    why = "".join(f" Without {worker} ({reason})." for worker, reason in found.missing.items())
    _table(
        "cross-site",
        rows,
        description=f"The {found.judged_by} of local models on each worker's records.{why}",
    )


def cells_table(rows: Sequence[Mapping[str, object]]) -> None:
    """One row for each training of a comparison: how it stands."""
    _table("cells", [dict(row) for row in rows], description="Every training of the comparison.")


def comparison_table(rows: Sequence[Mapping[str, str]]) -> None:
    """What a comparison ends in: one row for each case."""
    _table(
        "comparison",
        [dict(row) for row in rows],
        description="Mean ± sample standard deviation over seeds, after the last round.",
    )


def _table(key: str, rows: list[dict[str, object]], *, description: str) -> None:
    """The flow run's table of this name: made once, then replaced.

    Prefect keeps every version that is created, and the flow run's page shows them all.
    """
    earlier = _earlier(key)
    if earlier is None:
        create_table_artifact(table=rows, key=key, description=description)
        return
    # Prefect's own form of the data: a loss that is not finite is no JSON.
    data = TableArtifact(key=key, table=rows).format()
    with get_client(sync_client=True) as client:
        client.update_artifact(earlier, ArtifactUpdate(data=data))


def _earlier(key: str) -> UUID | None:
    """The artifact of this flow run with this key, from this attempt or one before a Retry."""
    if not flow_run.id:
        return None
    mine = ArtifactFilter(
        key=ArtifactFilterKey(any_=[key]),
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(flow_run.id))]),
    )
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=mine)
    return found[0].id if found else None


def _shown(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: _rounded(value) for name, value in figures.items()}


def _worker_row(
    description: Description, last: Mapping[str, tuple[int, float]], engines: Mapping[str, str]
) -> dict[str, object]:
    round, loss = last.get(description.worker, (None, None))
    labels = ", ".join(f"{label}: {count}" for label, count in description.labels.items() if count)
    known: dict[str, object] = {
        "worker": description.worker,
        "records": description.records,
        "labels": labels or "no classes",
    }
    if description.workers > 1:
        engine = engines.get(description.worker, "none yet")
        return {**known, "workers": description.workers, "engine": engine}
    return {
        **known,
        "last loss": "none yet" if loss is None else _rounded(loss),
        "in round": "none yet" if round is None else round,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
