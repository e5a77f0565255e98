"""What is refused before anything is summed: an answer that cannot be what was asked for.

One bad answer must neither spoil the sum nor end the round: it is refused, named and counted, and
the rest goes on. Letters: K workers, P elements of the flat vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.errors import CheckpointError, Diverged, QuorumNotMet
from fedcore.store import fetch
from fedcore.terms import Terms
from fedcore.trees import Layout, all_finite, not_finite
from fedcore.values import Brief, Ref, Sealed

__all__ = ["Admitted", "admitted"]


@dataclass(frozen=True)
class Admitted:
    """The answers that count, in the order given, and why the others do not, by worker."""

    sealed: list[Sealed]
    refs: list[Ref]
    refused: dict[str, str] = field(default_factory=dict)


def admitted(
    refs: Sequence[Ref],
    brief: Brief,
    terms: Terms,
    *,
    asked: int,
    missing: Mapping[str, str],
    least: int = 1,
) -> Admitted:
    """Check what arrived of so many handles asked; `missing` are those that did not answer at all,
    `least` is how many workers the aggregator needs.

    Raises:
        QuorumNotMet: too few are left.
        Diverged: too few are left because numbers are not finite.
    """
    layout = Layout.of(brief.model.averaged)
    found, broken = Admitted([], []), set[str]()
    for ref in refs:
        try:
            sealed = fetch(ref, Sealed)
        except CheckpointError as error:
            found.refused[ref.owner] = f"its answer cannot be read ({error})"
            continue
        reason = _fault(sealed, ref, brief, layout, terms=terms)
        names = [] if reason else _not_finite(sealed, layout)
        if names:
            broken.update(names)
            reason = f"NaN or infinity in {', '.join(names)}"
        if reason:
            found.refused[_whose(sealed, ref, finite=not names)] = reason
        else:
            found.sealed.append(sealed)
            found.refs.append(ref)
    quorum = terms.needed(asked)
    _suffice(found, broken, brief, quorum=quorum, missing=missing, least=least)
    return found


def _fault(sealed: Sealed, ref: Ref, brief: Brief, layout: Layout, *, terms: Terms) -> str:
    """Why an answer is not one to this brief; empty if it is."""
    counted, described = sealed.contributions, terms.described.get(ref.owner)
    answer = sealed.rows if sealed.rows is not None else sealed.sums
    parts = len(counted) if sealed.rows is not None else len(brief.weightings)
    if sealed.ticket != brief.ticket:
        return f"it answers round {sealed.ticket.round}, attempt {sealed.ticket.attempt}"
    others = [w for w in counted.workers if w != ref.owner and w in terms.described]
    if described is None or others:
        return f"it speaks for {', '.join(others) or 'nobody'} that it does not stand for"
    # Hosts of simulated workers share whoever is drawn: any of them may train any worker.
    apart = described.workers == 1 and len(terms.described) == terms.workers
    held = [described] if apart else list(terms.described.values())
    workers, records = sum(d.workers for d in held), sum(d.records for d in held)
    if len(counted) > workers:
        return f"it speaks for {len(counted)} workers and stands for {workers}"
    if answer is None or answer.shape != (parts, layout.size):
        given = None if answer is None else list(answer.shape)
        return f"it must be [{parts}, {layout.size}], and is {given}"
    if not len(counted):
        return "it is empty"
    if not bool((counted.weights > 0).all()):
        return "its weight is not a positive number"
    if (claimed := float(counted.weights.sum())) > records:
        return f"it claims {claimed:g} records and described {records}"
    return ""


def _not_finite(sealed: Sealed, layout: Layout) -> list[str]:
    """Tensors, or measures, in which a number is not finite."""
    held = sealed.rows if sealed.rows is not None else sealed.sums
    assert held is not None, "what has a shape is there"
    names: set[str] = set()
    if not all_finite(held):
        names |= {name for row in held for name in not_finite(layout.unflatten(row))}
    return sorted(names) or [
        name for name, column in sealed.contributions.measures.items() if not _fine(column)
    ]


def _fine(column: Tensor) -> bool:
    return bool(torch.isfinite(column).all())


def _whose(sealed: Sealed, ref: Ref, *, finite: bool) -> str:
    """Whom to name: of a cohort whose sum is not finite, those whose loss shows it."""
    counted = sealed.contributions
    if finite or len(counted) < 2:
        return ref.owner
    shown = ~torch.isfinite(counted.train_losses)
    if sealed.rows is not None:
        shown |= ~torch.isfinite(sealed.rows).all(dim=1)
    names = [w for w, bad in zip(counted.workers, shown.tolist(), strict=True) if bad]
    return ", ".join(names) or ref.owner


def _suffice(
    found: Admitted,
    broken: set[str],
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
    if broken and not missing:
        raise Diverged(round=round, tensors=sorted(broken), workers=sorted(found.refused))
    raise QuorumNotMet(
        round=round,
        quorum=max(quorum, least),
        arrived=len(found.sealed),
        missing={**missing, **{w: f"refused: {why}" for w, why in found.refused.items()}},
    )
