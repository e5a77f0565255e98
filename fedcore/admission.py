"""What is refused before anything is summed: an answer that cannot be what was asked for.

One bad answer must neither spoil the sum nor end the round: it is refused, named and counted, and
the rest goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcore.errors import Diverged, QuorumNotMet
from fedcore.faults import Fault, fault
from fedcore.store import fetch
from fedcore.terms import Terms
from fedcore.values import Brief, Ref, Sealed

__all__ = ["Admitted", "admitted"]


@dataclass(frozen=True)
class Admitted:
    """The answers that count, in the order given; why others were refused, by worker; and why yet
    others never came."""

    sealed: list[Sealed]
    refs: list[Ref]
    refused: dict[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def admitted(
    answers: Mapping[str, Ref],
    brief: Brief,
    terms: Terms,
    *,
    asked: int,
    missing: Mapping[str, str],
    least: int = 1,
) -> Admitted:
    """Check what arrived, by the worker, or host, that was asked, of so many asked. `missing` did
    not answer at all; `least` is how many workers the aggregator needs.

    Raises:
        QuorumNotMet: too few are left.
        Diverged: too few are left because numbers are not finite.
    """
    found, faults = Admitted([], [], missing=missing), dict[str, Fault]()
    for worker, ref in answers.items():
        try:
            sealed = _read(ref, worker)
            wrong = fault(sealed, worker, brief, terms=terms) or _twice(sealed, found)
        except Exception as error:  # an answer can be anything, and what it breaks is its own
            first = (str(error).splitlines() or [""])[0]
            wrong = Fault(f"its answer cannot be read ({type(error).__name__}: {first})")
        if wrong is None:
            found.sealed.append(sealed)
            found.refs.append(ref)
        else:
            faults[worker] = wrong
            found.refused[worker] = f"refused: {wrong.reason}"
    quorum = terms.needed(asked)
    _suffice(found, faults, brief, quorum=quorum, missing=missing, least=least)
    return found


def _read(ref: Ref, worker: str) -> Sealed:
    if ref.owner != worker:
        raise ValueError(f"its pointer is one of {ref.owner}")
    return fetch(ref, Sealed)


def _twice(sealed: Sealed, found: Admitted) -> Fault | None:
    """Whether a worker of this answer counts by an earlier one."""
    mine = set(sealed.contributions.workers)
    for ref, earlier in zip(found.refs, found.sealed, strict=True):
        if both := sorted(mine.intersection(earlier.contributions.workers)):
            return Fault(f"it speaks for {both[0]}, and so does {ref.owner}")
    return None


def _suffice(
    found: Admitted,
    faults: Mapping[str, Fault],
    brief: Brief,
    *,
    quorum: int,
    missing: Mapping[str, str],
    least: int,
) -> None:
    counted = sum(len(sealed.contributions) for sealed in found.sealed)
    if len(found.sealed) >= quorum and counted >= least:
        return
    round = brief.ticket.round
    if faults and not missing and all(wrong.broken for wrong in faults.values()):
        raise Diverged(
            round=round,
            tensors=sorted({name for wrong in faults.values() for name in wrong.broken}),
            workers=sorted(
                name for worker, wrong in faults.items() for name in wrong.workers or (worker,)
            ),
        )
    raise QuorumNotMet(
        round=round,
        quorum=max(quorum, least),
        arrived=len(found.sealed),
        missing={**missing, **found.refused},
    )
