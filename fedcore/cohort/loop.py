"""The engine `loop`: one worker after the other, each exactly as a virtual worker trains."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedcore.cohort.update import CohortUpdate
from fedcore.contributions import Contribution, Contributions
from fedcore.data.holdings import Holdings
from fedcore.local import train_locally
from fedcore.trees import Layout
from fedcore.values import Brief
from fedcore.weightings import Weighting

__all__ = ["add_member", "for_members", "train_in_turn"]


def train_in_turn(
    brief: Brief, holdings: Holdings, members: Sequence[int], *, why: str
) -> CohortUpdate:
    """Train the members one by one; of a sum, no more than one worker's weights are kept."""
    layout = Layout.of(brief.model.averaged)
    added = torch.zeros(len(brief.weightings), layout.size, dtype=torch.float64)
    rows, counted = [], []
    for place, k in enumerate(members):
        worker = holdings.workers[k]
        own = for_members(brief, place)
        update = train_locally(own, holdings.of(k), worker=worker)
        row = layout.flatten(update.trained)
        counted.append(Contribution(worker, update.weight, update.measures))
        if brief.answer == "rows":
            rows.append(row)
        else:
            add_member(added, row, counted[-1], brief.weightings)
    return CohortUpdate(
        ticket=brief.ticket,
        contributions=Contributions.of(counted),
        rows=_stacked(rows, layout) if brief.answer == "rows" else None,
        sums=added if brief.answer == "sum" else None,
        engine=f"loop: {why}",
    )


def _stacked(rows: list[Tensor], layout: Layout) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, layout.size, dtype=layout.dtype)


def for_members(brief: Brief, places: int | Sequence[int]) -> Brief:
    """The brief as it is for one of the cohort's members, or for some: with their own rule."""
    return replace(brief, rule=brief.rule.of(places))


def add_member(
    sums: Tensor, row: Tensor, who: Contribution, weightings: Sequence[Weighting]
) -> None:
    """Add one worker's weights [P] to the sums [M, P], in place, by each of M weightings."""
    counted = Contributions.of([who])
    for to, weighting in zip(sums, weightings, strict=True):
        to.add_(row, alpha=float(weighting.each(counted)))
