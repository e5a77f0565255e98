"""What a round is made of, apart from who runs it: a plain loop and Prefect share these steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.admission import Admitted
from fedcore.data.dataset import Dataset
from fedcore.evaluation import Findings
from fedcore.initial import load_into
from fedcore.local import module_for, train_locally
from fedcore.metrics import evaluate
from fedcore.selection import attended, select
from fedcore.store import fetch, put
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.totals import Total
from fedcore.trees import Layout
from fedcore.values import Brief, Contributions, Ref, ServerState

__all__ = [
    "COORDINATOR",
    "FEW_WORKERS",
    "Course",
    "measured",
    "publish",
    "reveal",
    "tested",
    "trusted",
]

COORDINATOR = "coordinator"
FEW_WORKERS = 50
"""Up to so many, each worker has a curve of its own; of more, quantiles are told."""
QUANTILES = (10, 50, 90)


@dataclass(frozen=True)
class Course:
    """What befell the workers in a round: who did not answer and why, whose answer could not be
    summed and why, and how each host trained its own."""

    missing: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, wave: "Course") -> "Course":
        """With that of one more wave."""
        return Course(
            {**self.missing, **wave.missing},
            {**self.refused, **wave.refused},
            {**self.engines, **wave.engines},
        )


def publish(brief: Brief, *, terms: Terms, wave: str) -> Ref:
    """Lay a brief out for the workers of a wave, which its first worker names."""
    key = f"{brief.ticket.key}/{wave}/Brief"
    return put(terms.outbox, key, brief, owner=COORDINATOR, ticket=brief.ticket)


def reveal(arrived: Admitted, brief: Brief) -> Total:
    """What the coordinator learns from what arrived: no more than the strategy needs."""
    return Total.of(
        arrived.sealed, answer=brief.answer, weightings=brief.weightings, sources=arrived.refs
    )


def trusted(strategy: Strategy, brief: Brief, terms: Terms) -> Tensor | None:
    """What training on the coordinator's own records changes, [P] float64, for an aggregator that
    goes by it."""
    if terms.root is None or not strategy.trusts:
        return None
    layout = Layout.of(brief.model.averaged)
    update = train_locally(brief, fetch(terms.root, Dataset), worker=COORDINATOR)
    moved = layout.flatten(update.trained).double()
    return moved - layout.flatten(brief.model.averaged).double()


def tested(state: ServerState, terms: Terms) -> dict[str, float]:
    """Loss and metrics of the model on the central test records; empty without any."""
    if terms.test is None:
        return {}
    module = module_for(terms.blueprint)
    load_into(module, state.model)
    settings = terms.blueprint.model
    found = evaluate(
        module, fetch(terms.test, Dataset), loss=settings.loss, metrics=settings.metrics
    )
    return {f"test_{name}": value for name, value in found.items()}


def measured(
    state: ServerState,
    reached: Findings,
    *,
    terms: Terms,
    seconds: float,
    course: Course,
) -> ServerState:
    """The state with the round that is going on finished and its metrics complete.

    Bytes are those of the tensors that go down to that many workers, to be trained and to be
    measured, and of the updates that come up. Of a federation of more than 50, quantiles show how
    the workers' losses differ.
    """
    seen = float(state.counted.measures["seen"].sum())
    loss = float(state.counted.measures["loss"].sum())
    absent = {**course.missing, **course.refused}
    layout = Layout.of(state.travelling.averaged)
    sent = len(state.counted) + len(absent) + len(reached.workers) + len(reached.missing)
    row_bytes = layout.size * layout.dtype.itemsize
    metrics = {
        "train_loss": loss / seen,
        **(_quantiles(state.counted) if terms.workers > FEW_WORKERS else {}),
        **reached.central,
        **reached.overall,
        "round_seconds": seconds,
        "workers_arrived": float(len(state.counted)),
        "workers_refused": float(len(course.refused)),
        "bytes_down": float(state.travelling.size_bytes * sent),
        "bytes_up": float(row_bytes * len(state.counted)),
    }
    now = time.time_ns() // 1_000_000
    if terms.clock is not None:
        selection = select(terms, state)
        metrics["workers_late"] = float(len(selection.late))
        metrics["clock_seconds"] = state.attendance.seconds + selection.seconds
    return state.finish(
        metrics,
        timestamp_ms=now,
        missing=absent,
        engines=course.engines,
        evaluated=reached.workers,
        unmeasured=reached.missing,
        attendance=attended(terms, state, absent),
    )


def _quantiles(counted: Contributions) -> dict[str, float]:
    """Percentiles of the workers' train losses, `train_loss_p50` being the median."""
    share = torch.tensor(QUANTILES, dtype=torch.float64) / 100
    values = torch.quantile(counted.train_losses, share).tolist()
    return {f"train_loss_p{q}": value for q, value in zip(QUANTILES, values, strict=True)}
