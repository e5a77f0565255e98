"""The verbs of a round as Prefect tasks.

Arguments and results are handles and Refs: small and JSON. Tensors lie in stores; a tensor among
a task's arguments would be hashed, copied and kept alive by Prefect's events. For the same reason
no task has a tag (each costs a call for a lease) or a cache key.
"""

from functools import lru_cache
from typing import NamedTuple

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from fedcore.errors import WorkerTimeout, WorkerUnreachable
from fedcore.rounds import COORDINATOR, trusted
from fedcore.store import fetch, put
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.totals import Total
from fedcore.values import Ref, ServerState
from fedcore.workers import Worker

__all__ = ["Verbs", "aggregate", "verbs"]


def can_mend(task: Task[..., object], task_run: TaskRun, state: State[object]) -> bool:
    """Whether asking again can help: a worker out of reach may come back, a refusal or a bug
    stays. A plain function, because Prefect never retries with anything else."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, WorkerUnreachable | WorkerTimeout)


@task(
    task_run_name="r{brief.ticket.round:03d}-send_model-{worker.id}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_mend,
)
def send_model(worker: Worker, brief: Ref) -> Ref:
    """Send the brief; the pointer returned says where the model now lives."""
    return worker.send(brief)


@task(
    task_run_name="r{model.ticket.round:03d}-local_train-{worker.id}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_mend,
)
def local_train(worker: Worker, model: Ref) -> Ref:
    """Train at the worker; the update stays there."""
    return worker.train(model)


@task(
    task_run_name="r{update.ticket.round:03d}-fetch_update-{worker.id}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_mend,
)
def fetch_update(worker: Worker, update: Ref) -> Ref:
    """Have the update sealed; the pointer returned is to what its disclosure lets out."""
    return worker.fetch(update)


@task(
    task_run_name="r{brief.ticket.round:03d}-evaluate-{worker.id}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_mend,
)
def evaluate_at(worker: Worker, brief: Ref) -> Ref:
    """Send the model to the worker and have it measured there; the pointer returned is to sums."""
    return worker.evaluate(worker.send(brief))


class Verbs(NamedTuple):
    """The tasks that go to workers."""

    send_model: Task[..., Ref]
    local_train: Task[..., Ref]
    fetch_update: Task[..., Ref]
    evaluate_at: Task[..., Ref]


def verbs(terms: Terms) -> Verbs:
    """The verbs, retried as often as the terms say, waiting twice as long each time."""
    return _retried(terms.retries, terms.backoff_s)


@lru_cache
def _retried(retries: int, backoff: float) -> Verbs:
    # Kept, because making tasks costs more than running one.
    waits = [min(backoff * 2**retry, 30.0) for retry in range(retries)]
    return Verbs(
        *(
            verb.with_options(retries=retries, retry_delay_seconds=waits or 0)
            for verb in (send_model, local_train, fetch_update, evaluate_at)
        )
    )


@task(task_run_name="r{state.ticket.round:03d}-aggregate", cache_policy=NO_CACHE)
def _aggregate(strategy: Ref, terms: Ref, state: Ref, total: Ref, arrived: list[Ref]) -> Ref:
    # `arrived` draws the edges from each fetch in Prefect's graph.
    by, before, known = fetch(strategy, Strategy), fetch(state, ServerState), fetch(terms, Terms)
    own = trusted(by, by.brief(before, known), known)
    after = by.apply(before, fetch(total, Total), terms=known, trusted=own)
    return put(state.store, f"{state.key}/after", after, owner=COORDINATOR, ticket=state.ticket)


def aggregate(strategy: Strategy, state: ServerState, total: Total, *, terms: Terms) -> ServerState:
    """The state after a wave, computed in a task run of its own.

    Raises:
        Diverged: an update or the new model is not finite; `state` stays as it was.
    """
    ticket = terms.ticket(state.round + 1)
    key = f"{ticket.key}/{len(state.counted)}"
    after = _aggregate(
        put(terms.store, "strategy", strategy, owner=COORDINATOR),
        put(terms.store, "terms", terms, owner=COORDINATOR),
        put(terms.store, f"{key}/state", state, owner=COORDINATOR, ticket=ticket),
        put(terms.store, f"{key}/total", total, owner=COORDINATOR, ticket=ticket),
        list(total.sources),
    )
    return fetch(after, ServerState)
