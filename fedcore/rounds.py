"""What a round is made of, apart from who runs it: a plain loop and Prefect share these steps."""

import time
from collections.abc import Mapping, Sequence

from fedcore.data.dataset import Dataset
from fedcore.initial import load_into
from fedcore.local import module_for
from fedcore.metrics import evaluate
from fedcore.store import fetch, put
from fedcore.terms import Terms
from fedcore.trees import Layout
from fedcore.values import Brief, Ref, Sealed, ServerState, Total

__all__ = ["COORDINATOR", "measured", "publish", "reveal", "tested"]

COORDINATOR = "coordinator"


def publish(brief: Brief, *, terms: Terms, wave: str) -> Ref:
    """Lay a brief out for the workers of a wave, which its first worker names."""
    key = f"{brief.ticket.key}/{wave}/Brief"
    return put(terms.store, key, brief, owner=COORDINATOR, ticket=brief.ticket)


def reveal(sealed: Sequence[Ref]) -> Total:
    """What the coordinator learns from what arrived: the sum of it, sorted by worker."""
    totals = []
    for ref in sealed:
        arrived = fetch(ref, Sealed)
        totals.append(Total(arrived.rows, arrived.contributions, (ref,)))
    first, *others = totals
    for other in others:
        first = first + other
    return first


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
    state: ServerState, tests: Mapping[str, float], *, seconds: float, missing: Mapping[str, str]
) -> ServerState:
    """The state with the round that is going on finished and its metrics complete.

    Bytes are those of the tensors that went down to the workers and of the rows that came up.
    """
    seen = sum(c.measures["seen"] for c in state.counted)
    loss = sum(c.measures["loss"] for c in state.counted)
    layout = Layout.of(state.model.averaged)
    row_bytes = layout.size * layout.dtype.itemsize
    metrics = {
        "train_loss": loss / seen,
        **tests,
        "round_seconds": seconds,
        "workers_arrived": float(len(state.counted)),
        "bytes_down": float(state.model.size_bytes * (len(state.counted) + len(missing))),
        "bytes_up": float(row_bytes * len(state.counted)),
    }
    return state.finish(metrics, timestamp_ms=time.time_ns() // 1_000_000, missing=missing)
