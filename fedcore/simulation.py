"""A whole training in plain Python: an iterator over rounds, for notebooks and studies."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedcore.admission import admitted
from fedcore.data.dataset import Dataset
from fedcore.errors import WorkerError
from fedcore.evaluation import Findings, due, evaluation_brief, findings
from fedcore.federation import Federation, found, found_with
from fedcore.rounds import Course, measured, publish, reveal, tested, trusted
from fedcore.selection import choose
from fedcore.settings import TrainingConfig
from fedcore.stopping import why_stop
from fedcore.store import fetch, open_store
from fedcore.strategies import strategy_of
from fedcore.values import Contributions, Ref, RoundRecord, ServerState
from fedcore.workers import VirtualWorker

__all__ = ["rounds", "simulate"]


def simulate(
    config: TrainingConfig,
    *,
    workers: Sequence[VirtualWorker] | None = None,
    test: Dataset | None = None,
) -> Iterator[ServerState]:
    """Train and yield the state after every round.

    With `workers`, they and `test` take the place of the settings' data.

    Raises:
        ConfigError: the settings do not go together; raised before the first round.
        RoundError, WorkerError: the round failed; the last state yielded still holds.
    """
    if workers is None:
        federation = found(config)
    else:
        strategy = strategy_of(config.strategy)
        sample = fetch(workers[0].data, Dataset)
        federation = found_with(config, workers, strategy, sample=sample, test=test)
    # A name of its own: what an abandoned simulation left at a worker must not answer for this.
    return _alone(federation.named(f"simulation-{uuid.uuid4().hex}", attempt=1))


def _alone(federation: Federation) -> Iterator[ServerState]:
    try:
        yield from rounds(federation)
    finally:
        open_store(federation.terms.store).drop("")


def rounds(federation: Federation) -> Iterator[ServerState]:
    """The state after every round of a federation that is ready to begin."""
    state, records = federation.start, list[RoundRecord]()
    while state.round < federation.terms.rounds and not why_stop(federation.config.stop, records):
        state = _round(federation, state)
        assert state.record is not None, "a finished round has its record"
        records.append(replace(state.record, contributions=Contributions()))
        yield state


def _round(federation: Federation, state: ServerState) -> ServerState:
    strategy, terms = federation.strategy, federation.terms
    began = time.perf_counter()
    ticket = terms.ticket(state.round + 1)
    course = Course()
    for wave in strategy.waves(choose(federation.workers, terms, state)):
        brief = strategy.brief(state, terms)
        sent = publish(brief, terms=terms, wave=wave[0].id)
        sealed = {each.id: each.fetch(each.train(each.send(sent))) for each in wave}
        arrived = admitted(sealed, brief, terms, asked=len(wave), missing={}, least=strategy.least)
        total = reveal(arrived, brief)
        own = trusted(strategy, brief, terms)
        state = strategy.apply(state, total, terms=terms, trusted=own)
        course += Course({}, arrived.refused, total.engines)
    reached = _evaluated(federation, state)
    seconds = time.perf_counter() - began
    state = measured(state, reached, terms=terms, seconds=seconds, course=course)
    for worker in federation.workers:
        worker.forget(ticket)
    open_store(terms.store).drop(f"{ticket.key}/")
    return state


def _evaluated(federation: Federation, state: ServerState) -> Findings:
    """What the model of the round that is going on reaches, as often as the settings ask."""
    terms, round = federation.terms, state.round + 1
    central = {}
    if due(terms.evaluation.central, round=round, rounds=terms.rounds):
        central = tested(state, terms)
    if not due(terms.evaluation.workers, round=round, rounds=terms.rounds):
        return Findings(central)
    brief = evaluation_brief(federation.strategy, state, terms, round=round)
    model = publish(brief, terms=terms, wave="all")
    arrived, missing = list[Ref](), dict[str, str]()
    for worker in federation.workers:
        try:
            arrived.append(worker.evaluate(worker.send(model)))
        except WorkerError as error:
            missing[worker.id] = f"{error.verb}: {error.reason}"
    return findings(arrived, terms.blueprint, central=central, missing=missing)
