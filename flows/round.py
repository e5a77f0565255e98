"""One round of federated learning, top to bottom.

Updates stay with the workers that made them; what arrives is sealed, and `reveal` opens no more
than the disclosure allows. Every verb is a task run, named like r007-local_train-bob.
"""

import time
from collections.abc import Sequence

from prefect import unmapped

from fedcore.rounds import Course, measured, publish, reveal
from fedcore.selection import choose, enough, substitutes
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import ServerState
from fedcore.workers import Worker
from tasks.evaluation import evaluate
from tasks.gather import answered, counted
from tasks.record import Recorder, record
from tasks.verbs import aggregate, verbs

__all__ = ["federated_round"]


def federated_round(
    run: Recorder, state: ServerState, strategy: Strategy, workers: Sequence[Worker], terms: Terms
) -> ServerState:
    """The state after one round, committed.

    Raises:
        QuorumNotMet, Diverged: `state` is what the next attempt starts from.
    """
    began = time.perf_counter()
    course = Course()
    send_model, local_train, fetch_update, _ = verbs(terms)
    chosen = choose(workers, terms, state)  # deterministic in (seed, round)
    for wave in strategy.waves(chosen):  # one wave of all; `sequential`: waves of one
        brief = strategy.brief(state, terms)
        model = publish(brief, terms=terms, wave=wave[0].id)
        sent = send_model.map(wave, unmapped(model))  # the model now lives at the worker
        there = answered(wave, sent, terms=terms)
        others = substitutes(workers, terms, state, lost=len(there.missing))
        if others:  # for those that cannot be reached
            there += answered(others, send_model.map(others, unmapped(model)), terms=terms)
        trained = local_train.map(there.workers, there.refs)  # the update stays at the worker
        done = answered(there.workers, trained, terms=terms, enough=enough(terms, len(wave)))
        sealed = fetch_update.map(done.workers, done.refs)  # what its disclosure lets out
        back = answered(done.workers, sealed, terms=terms)
        came = counted(there, done, back, by=strategy, brief=brief, terms=terms, asked=len(wave))
        total = reveal(came, brief)  # what the coordinator learns
        state = aggregate(strategy, state, total, terms=terms)
        course += Course(came.missing, came.refused, total.engines)
    reached = evaluate(state, strategy, workers, terms=terms)  # centrally, and at every worker
    took = time.perf_counter() - began
    state = measured(state, reached, terms=terms, seconds=took, course=course)
    record(run, state)  # checkpoint first, then MLflow and artifacts
    return state
