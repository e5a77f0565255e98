"""Who answered in time: the only module that reads the states of futures."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefect.futures import PrefectFuture, wait

from fedcore.errors import QuorumNotMet, WorkerError
from fedcore.terms import Terms
from fedcore.values import Ref
from fedcore.workers import Worker

__all__ = ["Arrived", "survivors"]


@dataclass(frozen=True)
class Arrived:
    """Pointers to what came back, sorted by worker, and why the others did not."""

    refs: tuple[Ref, ...]
    missing: dict[str, str]


def survivors(
    wave: Sequence[Worker],
    *chain: Sequence[PrefectFuture[Ref]],
    terms: Terms,
    round: int,
) -> Arrived:
    """What arrived in time of the last verb of the chain.

    `chain` has the futures of each verb in turn (send, train, fetch), in the order of the wave:
    a worker's first failed verb says why it is missing.

    Raises:
        QuorumNotMet: fewer answered than the terms ask for; names each missing one and why.
    """
    done, _ = wait(list(chain[-1]), timeout=terms.deadline_s)
    refs, missing = [], {}
    for worker, futures in zip(wave, zip(*chain, strict=True), strict=True):
        if futures[-1] not in done:
            missing[worker.id] = f"no answer within {terms.deadline_s:g} s"
            continue
        for future in futures:
            # Until it is waited for, a future asks the server for its state, which hears of task
            # runs in batches and may not know it yet.
            future.wait()
        if futures[-1].state.is_completed():
            refs.append(futures[-1].result())
        else:
            missing[worker.id] = _why(futures)
    quorum = min(terms.quorum or len(wave), len(wave))
    if len(refs) < quorum:
        raise QuorumNotMet(round=round, quorum=quorum, arrived=len(refs), missing=missing)
    return Arrived(tuple(sorted(refs, key=lambda ref: ref.owner)), missing)


def _why(futures: Sequence[PrefectFuture[Ref]]) -> str:
    """What the first verb that failed says; the ones after it only say that they never ran."""
    state = next(f.state for f in futures if not f.state.is_completed())
    error = state.result(raise_on_failure=False)
    if isinstance(error, WorkerError):
        return f"{error.verb}: {error.reason}"
    return f"{type(error).__name__}: {error}"
