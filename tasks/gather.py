"""Who answered in time: the only module that reads the states of futures."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from prefect.futures import (
    PrefectConcurrentFuture,
    PrefectFuture,
    PrefectFutureList,
    as_completed,
    wait,
)
from prefect.results import ResultRecord  # type: ignore[attr-defined]

from fedcore.admission import Admitted, admitted
from fedcore.errors import QuorumNotMet, WorkerError
from fedcore.selection import SPARED
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Brief, Ref
from fedcore.workers import Worker

__all__ = ["Answered", "answered", "counted", "ended", "survivors"]

T = TypeVar("T")


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
    # The last first, or a thread that is free again would begin one of those that wait.
    hung = {each for each in reversed(futures) if each not in done and _given_up(each)}
    found = Answered([], [], {})
    for worker, future in zip(asked, futures, strict=True):
        if future not in done and enough is not None and len(done) >= enough:
            found.missing[worker.id] = SPARED
            continue
        if future not in done:
            began = "no answer" if future in hung else "no thread was free for it"
            found.missing[worker.id] = f"{began} within {terms.deadline_s:g} s"
            continue
        answer = _answer(future)
        if isinstance(answer, Ref) and answer.ticket is not None:
            found.workers.append(worker)
            found.refs.append(answer)
        elif isinstance(answer, BaseException):
            found.missing[worker.id] = _why(answer)
        else:
            found.missing[worker.id] = f"no pointer to its work, but {type(answer).__name__}"
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


def ended(futures: Sequence[PrefectFuture[T]]) -> Iterator[tuple[int, T | BaseException]]:
    """The place of each task run as it ends, with its result or why it failed."""
    places = {future.task_run_id: place for place, future in enumerate(futures)}
    for future in as_completed(list(futures)):
        future.wait()
        found = future.state.result(raise_on_failure=False)
        yield places[future.task_run_id], found


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
            answers += not isinstance(_answer(future), BaseException)
            if answers >= enough:
                break
    return done


def _given_up(future: PrefectFuture[Ref]) -> bool:
    """Whether it had begun: then it is not waited for, and its thread is replaced; else it never
    will."""
    assert isinstance(future, PrefectConcurrentFuture), "verbs run in threads"
    return not future.wrapped_future.cancel()


def _answer(future: PrefectFuture[Ref]) -> object:
    """What a finished task run returned or raised.

    `future.result()` would visit Prefect's event loop for it, which costs a millisecond each time.
    """
    try:
        # Until it is waited for, a future asks the server for its state, which hears of task
        # runs in batches and may not know it yet.
        future.wait()
    except BaseException as error:
        # A worker's SystemExit, for one, which must not end the flow; Ctrl-C must.
        if not isinstance(future, PrefectConcurrentFuture):
            raise
        if error is not future.wrapped_future.exception():
            raise
        return error
    data = future.state.data
    if isinstance(data, ResultRecord):
        return data.result
    return future.state.result(raise_on_failure=False)


def _why(error: BaseException) -> str:
    if isinstance(error, WorkerError):
        return f"{error.verb}: {error.reason}"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
