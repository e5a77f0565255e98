"""What can be wrong with a worker's answer, so that it must not enter a sum.

Letters: K workers, P elements of the flat vector, M weightings.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.contributions import Contributions
from fedcore.terms import Terms
from fedcore.trees import Layout, not_finite
from fedcore.values import Brief, Description, Sealed

__all__ = ["Fault", "fault"]

MEASURES = frozenset({"loss", "seen", "steps"})
"""What every worker measures; a brief may need more."""


@dataclass(frozen=True)
class Fault:
    """Why an answer does not count. `broken` are the tensors, or measures, in which a number is
    not finite, if that is all; `workers` those of a cohort that show it."""

    reason: str
    broken: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()


def fault(sealed: Sealed, worker: str, brief: Brief, *, terms: Terms) -> Fault | None:
    """What is wrong with an answer that this worker, or host, gave to this brief, if anything."""
    described = terms.described.get(worker)
    if described is None:
        return Fault("it never described its records")
    # Hosts of simulated workers share whoever is drawn: any of them may train any worker.
    apart = described.workers == 1 and len(terms.described) == terms.workers
    behind = [described] if apart else list(terms.described.values())
    records = sum(each.records for each in behind)
    layout = Layout.of(brief.model.averaged)
    reason = (
        _speaks(sealed, brief, behind)
        or _form(sealed, brief, layout)
        or _claims(sealed.contributions, records=records)
    )
    if reason:
        return Fault(reason)
    if broken := _not_finite(sealed, layout):
        shown = _who(sealed)
        by = f", from {', '.join(shown)}" if shown else ""
        return Fault(f"NaN or infinity in {', '.join(broken)}{by}", broken, shown)
    turns = max(each.turns for each in behind)
    reason = _measures(sealed.contributions, brief, records=records, turns=turns) or _size(
        sealed, brief, terms
    )
    return Fault(reason) if reason else None


def _speaks(sealed: Sealed, brief: Brief, behind: Sequence[Description]) -> str:
    """Whether it is an answer to this brief, for workers that the handle may stand for."""
    ticket, names = sealed.ticket, sealed.contributions.workers
    if ticket != brief.ticket:
        run = "" if ticket.run == brief.ticket.run else f" of run {ticket.run}"
        return f"it answers round {ticket.round}, attempt {ticket.attempt}{run}"
    if not names:
        return "it is empty"
    if len(set(names)) < len(names):
        return "it speaks for a worker twice"
    workers = sum(each.workers for each in behind)
    roster = {name for each in behind for name in each.labels_of_each}
    # Of a crowd, the names are not told.
    if len(roster) == workers and (others := [name for name in names if name not in roster]):
        return f"it speaks for {', '.join(others)}"
    most = workers if brief.chosen is None else min(workers, len(brief.chosen))
    return f"it speaks for {len(names)} workers and stands for {most}" * (len(names) > most)


def _form(sealed: Sealed, brief: Brief, layout: Layout) -> str:
    """Whether the tensors are those that the brief asks for, in shape and type."""
    counted = sealed.contributions
    if (sealed.rows is None) == (sealed.sums is None):
        return "it must be either rows or sums"
    if sealed.rows is None and brief.answer == "rows":
        return "it is a sum, and the strategy needs rows"
    names = MEASURES | brief.needs
    if counted.measures.keys() != names:
        given = ", ".join(sorted(counted.measures)) or "none"
        return f"its measures must be {', '.join(sorted(names))}, and are {given}"
    for name, tensor, shape, dtype in _tensors(sealed, brief, layout):
        if not (
            tensor.shape == shape
            and tensor.dtype == dtype
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and not tensor.requires_grad
        ):
            return f"{name} must be {_shown(shape, dtype)}, and is {_given(tensor)}"
    return ""


def _tensors(
    sealed: Sealed, brief: Brief, layout: Layout
) -> Iterator[tuple[str, Tensor, tuple[int, ...], torch.dtype]]:
    """Each tensor of an answer, with what it must be."""
    counted, workers = sealed.contributions, len(sealed.contributions)
    if sealed.rows is not None:
        yield "rows", sealed.rows, (workers, layout.size), layout.dtype
    if sealed.sums is not None:
        yield "sums", sealed.sums, (len(brief.weightings), layout.size), torch.float64
    yield "weights", counted.weights, (workers,), torch.float64
    for name, column in counted.measures.items():
        yield name, column, (workers,), torch.float64


def _shown(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"


def _given(tensor: Tensor) -> str:
    more = [_shown(tuple(tensor.shape), tensor.dtype)]
    if tensor.layout != torch.strided:
        more.append(str(tensor.layout).removeprefix("torch."))
    if tensor.device.type != "cpu":
        more.append(f"on {tensor.device.type}")
    if tensor.requires_grad:
        more.append("with a gradient")
    return " ".join(more)


def _claims(counted: Contributions, *, records: int) -> str:
    """Whether the weights are counts of records that were described."""
    if not bool((counted.weights > 0).all()):
        return "its weight is not a positive number"
    if (claimed := float(counted.weights.sum())) > records:
        return f"it claims {claimed:g} records and described {records}"
    return ""


def _not_finite(sealed: Sealed, layout: Layout) -> tuple[str, ...]:
    """Tensors, or else measures, in which a number is not finite.

    A row has the widest of the model's types; what a narrower one cannot hold is infinite there.
    """
    held = sealed.rows if sealed.rows is not None else sealed.sums
    assert held is not None, "what has a form is there"
    kinds = [kind for _, _, kind in layout.entries] if sealed.sums is None else []
    if not _reach(held) <= min(torch.finfo(kind).max for kind in (*kinds, held.dtype)):
        kept = None if kinds else held.dtype
        names = {n for row in held for n in not_finite(layout.unflatten(row, dtype=kept))}
        if names:
            return tuple(sorted(names))
    columns = sealed.contributions.measures.items()
    return tuple(name for name, column in columns if not math.isfinite(_reach(column)))


def _who(sealed: Sealed) -> tuple[str, ...]:
    """Of a cohort whose numbers are not finite, the workers that show it."""
    counted = sealed.contributions
    if len(counted) < 2:
        return ()
    bad = ~torch.isfinite(counted.train_losses)
    if sealed.rows is not None:
        bad |= ~torch.isfinite(sealed.rows).all(dim=1)
    return tuple(w for w, shown in zip(counted.workers, bad.tolist(), strict=True) if shown)


def _measures(counted: Contributions, brief: Brief, *, records: int, turns: int) -> str:
    """Whether a worker can have measured that, and counts by it as much as a number can say."""
    plan = brief.plan
    batch = min(plan.batch_size or records, records)
    most = plan.steps if plan.steps is not None else plan.epochs * -(-records // batch)
    most *= turns
    for name, bound in (("steps", most), ("seen", most * batch)):
        column = counted.measures[name]
        if not bool(((column > 0) & (column <= bound)).all()):
            return f"{name} must be above 0 and at most {bound}, and is {_text(column)}"
    for weighting in brief.weightings:
        each, total = weighting.each(counted), weighting.total(counted)
        if not (bool((each > 0).all()) and math.isfinite(_reach(each)) and 0 < total < math.inf):
            return f"its measures give it no finite weight ({_text(each)} of {total:g})"
    return ""


def _size(sealed: Sealed, brief: Brief, terms: Terms) -> str:
    """Whether as many answers of this size as there are workers can be added in float64."""
    counted, factor = sealed.contributions, float(terms.workers)
    reaches = {name: _reach(column) for name, column in counted.measures.items()}
    if sealed.rows is not None:
        weights = max(_reach(weighting.each(counted)) for weighting in brief.weightings)
        reaches["rows"] = _reach(sealed.rows) * weights
    elif sealed.sums is not None:
        reaches["sums"] = _reach(sealed.sums)
    large = sorted(name for name, reach in reaches.items() if not math.isfinite(reach * factor))
    return f"too large to be summed: {', '.join(large)}" if large else ""


def _reach(tensor: Tensor) -> float:
    """The largest absolute value; NaN where there is one."""
    if not tensor.numel():
        return 0.0
    least, most = torch.aminmax(tensor)
    # NaN is in both; max() of Python would pass it over.
    return math.nan if math.isnan(float(most)) else max(-float(least), float(most))


def _text(column: Tensor) -> str:
    """The first of them."""
    shown = [f"{value:g}" for value in column[:4].tolist()]
    return ", ".join(shown + ["..."] * (len(column) > 4))
