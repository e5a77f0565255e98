"""Selection: whom to ask in a round, out of those who may, can, and would answer in time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.clock import available, durations
from fedcore.errors import QuorumNotMet
from fedcore.sampling import preferred
from fedcore.settings.participation import All, PowerOfChoice
from fedcore.shares import share
from fedcore.terms import Terms
from fedcore.values import Attendance, ServerState
from fedcore.workers.worker import Worker

__all__ = ["SPARED", "Selection", "attended", "choose", "enough", "select", "substitutes"]

SPARED = "not needed: enough others answered first"
"""Why a worker that was asked in reserve did not count; no fault of its own."""


@dataclass(frozen=True)
class Selection:
    """Who takes part: positions in the roster, int64, ascending; None when everybody does.

    `late` are those who would have been asked and would not answer in time by the simulated clock,
    `seconds` is how long the round takes by it. `next` are the positions that would be asked next.
    """

    places: Tensor | None
    late: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    next: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


def select(terms: Terms, state: ServerState) -> Selection:
    """The selection of the round after `state`; pure."""
    attendance, clock = state.attendance, terms.clock
    excluded = {w for w, until in attendance.excluded.items() if until > state.round}
    if isinstance(terms.sampling, All) and not excluded and clock is None:
        return Selection(None)
    eligible = torch.ones(terms.workers, dtype=torch.bool)
    if excluded:
        eligible = torch.tensor([name not in excluded for name in terms.roster.names])
    waited = 0.0
    if clock is not None:
        there, waited = available(clock, terms, state)
        eligible &= there
    order, wanted = preferred(terms, state, eligible)
    asked, rest = order[: wanted + terms.spare], order[wanted + terms.spare :]
    if clock is None:
        return Selection(asked.sort().values, next=rest)
    seconds = durations(clock, terms, state)[asked]
    # The first to answer are kept, as many as are wanted.
    first = seconds.argsort(stable=True)[:wanted]
    kept = first[seconds[first] <= clock.deadline]
    ended = clock.deadline if len(kept) < len(first) else float(seconds[kept].max())
    late = _late(asked, seconds, clock.deadline, terms)
    return Selection(asked[kept].sort().values, late, waited + ended, rest)


def choose(workers: Sequence[Worker], terms: Terms, state: ServerState) -> list[Worker]:
    """Whom to ask in the round after `state`, in the order of the roster.

    Fewer handles than workers are hosts, which share whoever is drawn: as many each, whoever they
    are. One whose share is empty is not asked.

    Raises:
        QuorumNotMet: nobody can be asked.
    """
    selection = select(terms, state)
    chosen = selection.places
    if chosen is None:
        return list(workers)
    if not len(chosen):
        out = {w: f"left out until round {n}" for w, n in state.attendance.excluded.items()}
        missing = {**out, **selection.late}
        raise QuorumNotMet(round=state.round + 1, quorum=1, arrived=0, missing=missing)
    if len(workers) == terms.workers:
        return [workers[place] for place in chosen.tolist()]
    hosts = len(workers)
    shares = (share(len(chosen), host=host, hosts=hosts) for host in range(hosts))
    return [worker for worker, own in zip(workers, shares, strict=True) if own]


def substitutes(
    workers: Sequence[Worker], terms: Terms, state: ServerState, *, lost: int
) -> list[Worker]:
    """Whom to ask in place of so many that cannot be reached, where the terms say so."""
    if not terms.replace or len(workers) != terms.workers:
        return []
    return [workers[place] for place in select(terms, state).next[:lost].tolist()]


def enough(terms: Terms, asked: int) -> int | None:
    """How many answers to wait for; None: all."""
    return asked - terms.spare if 0 < terms.spare < asked and terms.clock is None else None


def attended(terms: Terms, state: ServerState, missing: Mapping[str, str]) -> Attendance:
    """What is remembered of who took part when the round that is going on has ended."""
    before, round = state.attendance, state.round + 1
    failures, excluded, losses = dict(before.failures), dict(before.excluded), dict(before.losses)
    if terms.exclude_after is not None:
        for worker in state.counted.workers:
            failures.pop(worker, None)
            excluded.pop(worker, None)
        for worker, why in missing.items():
            if why == SPARED:
                continue
            failures[worker] = failures.get(worker, 0) + 1
            if failures[worker] >= terms.exclude_after:
                excluded[worker] = round + terms.readmit_after
                failures[worker] = terms.exclude_after - 1
    if isinstance(terms.sampling, PowerOfChoice):
        counted = state.counted
        losses.update(zip(counted.workers, counted.train_losses.tolist(), strict=True))
    seconds = before.seconds + select(terms, state).seconds
    return Attendance(seconds, failures, excluded, losses)


def _late(asked: Tensor, seconds: Tensor, deadline: float, terms: Terms) -> dict[str, str]:
    names = terms.roster.names
    return {
        names[place]: f"late by the simulated clock: {took:.0f} s"
        for place, took in zip(asked.tolist(), seconds.tolist(), strict=True)
        if took > deadline
    }
