"""Measuring a model, as Prefect tasks: centrally, and at every worker that can be reached."""

from collections.abc import Mapping, Sequence

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE

from fedcore.evaluation import Findings, due, evaluation_brief, findings
from fedcore.rounds import COORDINATOR, publish, tested
from fedcore.store import fetch, put
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Ref, ServerState
from fedcore.workers import Worker
from tasks.gather import answered
from tasks.verbs import verbs

__all__ = ["evaluate", "evaluate_centrally", "evaluate_everywhere"]


def evaluate(
    state: ServerState, strategy: Strategy, workers: Sequence[Worker], *, terms: Terms
) -> Findings:
    """What the model of the round that is going on reaches, measured where and as often as the
    settings ask. A worker that does not answer is left out and named."""
    round, asked = state.round + 1, terms.evaluation
    central = {}
    if due(asked.central, round=round, rounds=terms.rounds):
        central = evaluate_centrally(state, terms=terms, round=round)
    if not due(asked.workers, round=round, rounds=terms.rounds):
        return Findings(central)
    return evaluate_everywhere(state, strategy, workers, terms=terms, round=round, central=central)


def evaluate_centrally(state: ServerState, *, terms: Terms, round: int) -> dict[str, float]:
    """Loss and metrics on the central test records, in a task run of its own; {} without any."""
    if terms.test is None:
        return {}
    ticket = terms.ticket(round)
    return _evaluate(
        put(terms.store, f"{ticket.key}/trained", state, owner=COORDINATOR, ticket=ticket),
        put(terms.store, "terms", terms, owner=COORDINATOR),
    )


def evaluate_everywhere(
    state: ServerState,
    strategy: Strategy,
    workers: Sequence[Worker],
    *,
    terms: Terms,
    round: int,
    central: Mapping[str, float],
) -> Findings:
    """What was found centrally, and what all workers find of the model that came of `round`."""
    brief = evaluation_brief(strategy, state, terms, round=round)
    model = publish(brief, terms=terms, wave="all")
    asked = verbs(terms).evaluate_at.map(workers, unmapped(model))
    came = answered(workers, asked, terms=terms)
    return findings(came.refs, terms.blueprint, central=central, missing=came.missing)


@task(task_run_name="r{state.ticket.round:03d}-evaluate", cache_policy=NO_CACHE)
def _evaluate(state: Ref, terms: Ref) -> dict[str, float]:
    return tested(fetch(state, ServerState), fetch(terms, Terms))
