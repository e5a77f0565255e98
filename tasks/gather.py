"""Who answered in time: the only module that reads the states of futures."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from prefect.futures import PrefectFuture, PrefectFutureList, as_completed, wait
from prefect.results import ResultRecord  # type: ignore[attr-defined]

from fedcore.admission import Admitted, admitted
from fedcore.errors import QuorumNotMet, WorkerError
from fedcore.selection import SPARED
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Brief, Ref
from fedcore.workers import Worker

__all__ = ["Answered", "answered", "counted", "survivors"]


@dataclass(frozen=True)
class Answered:
    """The workers that answered a verb, in the order they were asked, and what they answered."""

    workers: list[Worker]
    refs: list[Ref]
    missing: dict[str, str]
    """The others, and why."""

    def __add__(self, other: "Answered") -> "Answered":
        """These and the others, who were asked after them."""
        return Answered(
            self.workers + other.workers,
            self.refs + other.refs,
            {**self.missing, **other.missing},
        )

    @property
    def told(self) -> dict[str, Ref]:
        """What they answered, by worker."""
        return {worker.id: ref for worker, ref in zip(self.workers, self.refs, strict=True)}


def answered(
    asked: Sequence[Worker],
    futures: PrefectFutureList[Ref],
    *,
    terms: Terms,
    enough: int | None = None,
) -> Answered:
    """What came back of a verb before the deadline; the next verb is for these workers alone.

    With `enough`, so many answers are waited for, and the other workers are not needed.

    Mapping the next verb over futures that still run would occupy the pool's threads with
    waiting: 12 ms for a task run instead of 3, and a worker that hangs could starve the others.
    """
    if enough is None:
        done, _ = wait(list(futures), timeout=terms.deadline_s)
    else:
        done = _first(futures, enough, timeout=terms.deadline_s)
    found = Answered([], [], {})
    for worker, future in zip(asked, futures, strict=True):
        if future not in done and enough is not None and len(done) >= enough:
            found.missing[worker.id] = SPARED
            continue
        if future not in done:
            found.missing[worker.id] = f"no answer within {terms.deadline_s:g} s"
            continue
        # Until it is waited for, a future asks the server for its state, which hears of task
        # runs in batches and may not know it yet.
        future.wait()
        if future.state.is_completed():
            found.workers.append(worker)
            found.refs.append(_result(future))
        else:
            found.missing[worker.id] = _why(future)
    return found


def survivors(*answers: Answered, terms: Terms, asked: int, round: int) -> Answered:
    """Who answered every verb, sorted by worker, of those that the first verb was asked of.

    Raises:
        QuorumNotMet: fewer than the terms ask for; names each missing one and why.
    """
    last = answers[-1]
    missing = {worker: why for each in answers for worker, why in each.missing.items()}
    quorum = terms.needed(asked)
    if len(last.workers) < quorum:
        raise QuorumNotMet(round=round, quorum=quorum, arrived=len(last.workers), missing=missing)
    pairs = sorted(zip(last.workers, last.refs, strict=True), key=lambda pair: pair[0].id)
    return Answered([worker for worker, _ in pairs], [ref for _, ref in pairs], missing)


def counted(*answers: Answered, by: Strategy, brief: Brief, terms: Terms, asked: int) -> Admitted:
    """The answers that count, sorted by worker, and why those of the others do not.

    Raises:
        QuorumNotMet, Diverged: too few are left.
    """
    came = survivors(*answers, terms=terms, asked=asked, round=brief.ticket.round)
    return admitted(came.told, brief, terms, asked=asked, missing=came.missing, least=by.least)


def _first(
    futures: PrefectFutureList[Ref], enough: int, *, timeout: float
) -> set[PrefectFuture[Ref]]:
    """The first futures that were answered, so many or as many as come in time; those that failed
    come on top."""
    done: set[PrefectFuture[Ref]] = set()
    answers = 0
    with suppress(TimeoutError):
        for future in as_completed(list(futures), timeout=timeout):
            done.add(future)
            future.wait()  # as above
            answers += future.state.is_completed()
            if answers >= enough:
                break
    return done


def _result(future: PrefectFuture[Ref]) -> Ref:
    """What a completed task run returned. `future.result()` would visit Prefect's event loop for
    it, which costs a millisecond each time."""
    data = future.state.data
    return data.result if isinstance(data, ResultRecord) else future.result()


def _why(future: PrefectFuture[Ref]) -> str:
    error = future.state.result(raise_on_failure=False)
    if isinstance(error, WorkerError):
        return f"{error.verb}: {error.reason}"
    return f"{type(error).__name__}: {error}"
