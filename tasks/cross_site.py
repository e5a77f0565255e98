"""Cross-site evaluation as Prefect tasks: a local training and one measuring task per worker."""

from collections.abc import Sequence

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE

from fedcore.cross_site import CrossSite, local_brief, local_models, matrix, measured_at, published
from fedcore.rounds import COORDINATOR, publish
from fedcore.store import fetch, open_store, put
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Ref, ServerState
from fedcore.workers import Worker
from tasks.gather import answered
from tasks.verbs import can_mend, verbs

__all__ = ["cross_site"]


def cross_site(
    state: ServerState, strategy: Strategy, workers: Sequence[Worker], *, terms: Terms
) -> CrossSite:
    """Every worker's local model on every worker's records, of a finished state. A worker that
    does not answer is left out and named.

    Raises:
        RoundError: no worker has a local model to show, or measures one.
    """
    brief = local_brief(strategy, state, terms)
    send_model, local_train, fetch_update, _ = verbs(terms)
    model = publish(brief, terms=terms, wave="all")
    there = answered(workers, send_model.map(workers, unmapped(model)), terms=terms)
    done = answered(there.workers, local_train.map(there.workers, there.refs), terms=terms)
    back = answered(done.workers, fetch_update.map(done.workers, done.refs), terms=terms)
    missing = there.missing | done.missing | back.missing
    models = local_models(back.told, brief, terms=terms, missing=missing)
    # Fifty pointers are more than a task should carry: one to all of them.
    refs = published(models, strategy, state, terms)
    ticket, key = brief.ticket, f"{brief.ticket.key}/models"
    pointers = put(terms.store, key, refs, owner=COORDINATOR, ticket=ticket)
    known = put(terms.store, "terms", terms, owner=COORDINATOR)
    measure = _measure.with_options(retries=terms.retries, retry_delay_seconds=0.5)
    asked = measure.map(workers, unmapped(pointers), unmapped(known))
    came = answered(workers, asked, terms=terms)
    columns = {w.id: fetch(ref, dict) for w, ref in zip(came.workers, came.refs, strict=True)}
    for worker in workers:
        worker.forget(terms.ticket(ticket.round))
    for store in {terms.store, terms.outbox}:
        open_store(store).drop(ticket.key)
    missing |= came.missing
    return matrix(columns, models=list(models), missing=missing, round=ticket.round)


@task(
    task_run_name="r{models.ticket.round:03d}-cross_site-{worker.id}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_mend,
)
def _measure(worker: Worker, models: Ref, terms: Ref) -> Ref:
    """Measure all local models at one worker."""
    found = measured_at(worker, fetch(models, dict), fetch(terms, Terms).blueprint)
    key = f"{models.key}/{worker.id}"
    return put(models.store, key, found, owner=COORDINATOR, ticket=models.ticket)
