"""Totals: what the coordinator learns of a round's workers.

Letters: K workers, P elements of the flat vector, M weightings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedcore.contributions import Contributions
from fedcore.trees import all_finite
from fedcore.values import Ref, Sealed
from fedcore.weightings import Weighting

__all__ = ["Total", "add_rows"]


@dataclass(frozen=True)
class Total:
    """What the coordinator learns of K workers, and who stands behind it.

    Either `rows` [K, P], trained weights sorted by worker, or `sums` [M, P] in float64,
    sum_k each_k trained_k by each of M weightings.
    """

    contributions: Contributions
    rows: Tensor | None = None
    sums: Tensor | None = None
    sources: tuple[Ref, ...] = ()
    engines: Mapping[str, str] = field(default_factory=dict)
    """Of each handle that trained several workers together, how."""

    @classmethod
    def of(
        cls,
        sealed: Sequence[Sealed],
        *,
        answer: Literal["rows", "sum"],
        weightings: Sequence[Weighting],
        sources: Sequence[Ref] = (),
    ) -> "Total":
        """The total of what arrived, added in the order given: by worker id, never by arrival.

        Raises:
            ValueError: a worker counts twice, or an aggregator that needs rows is given a sum.
        """
        every = Contributions.joined(part.contributions for part in sealed)
        order = every.order()
        rows, sums = None, None
        if answer == "sum":
            sums = _added(sealed, weightings)
        elif any(part.rows is None for part in sealed):
            raise ValueError(
                "An aggregator of rows must be given rows; given: a sum; ask for rows in the brief."
            )
        else:
            rows = torch.cat([part.rows for part in sealed if part.rows is not None])[order]
        by_handle = zip(sources, sealed, strict=False)
        return cls(
            every.taken(order),
            rows=rows,
            sums=sums,
            sources=tuple(sources),
            engines={ref.owner: part.engine for ref, part in by_handle if part.engine},
        )

    def mean(self, start: Tensor, weighting: Weighting, *, place: int) -> Tensor:
        """sum_k each_k (w_k - w0) / total [P] in float64, by the weighting at this place in the
        brief; w0 is `start`."""
        each, divisor = weighting.each(self.contributions), weighting.total(self.contributions)
        if self.sums is not None:
            added = self.sums[place].div(divisor)
        else:
            assert self.rows is not None, "a total has rows or sums"
            added = torch.zeros_like(start)
            add_rows(added, self.rows, each / divisor)
        return added.sub_(start * (each.sum() / divisor))

    @property
    def finite(self) -> bool:
        """Whether no number of it is NaN or infinite."""
        held = self.rows if self.rows is not None else self.sums
        assert held is not None, "a total has rows or sums"
        return all_finite(held)


def add_rows(to: Tensor, rows: Tensor, each: Tensor) -> None:
    """Add sum_k each_k rows_k to `to` [P], float64, in place and in the order of the rows."""
    for row, weight in zip(rows, each.tolist(), strict=True):
        to.add_(row, alpha=weight)


def _added(sealed: Sequence[Sealed], weightings: Sequence[Weighting]) -> Tensor:
    """sum_k each_k trained_k [M, P] of all parts, in their order."""
    if len(sealed) == 1 and sealed[0].sums is not None:
        return sealed[0].sums
    first = sealed[0].rows if sealed[0].rows is not None else sealed[0].sums
    assert first is not None, "what is sealed has rows or sums"
    added = torch.zeros(len(weightings), first.shape[-1], dtype=torch.float64)
    for part in sealed:
        if part.sums is not None:
            added.add_(part.sums)
        elif part.rows is not None:
            for to, weighting in zip(added, weightings, strict=True):
                add_rows(to, part.rows, weighting.each(part.contributions))
    return added
