"""Nearest-neighbour mixing: what makes rows of different workers alike before they are judged."""

from dataclasses import dataclass

from torch import Tensor

from fedcore.aggregators.aggregator import (
    NOTHING,
    Aggregator,
    Context,
    fewest_rows,
    needs_previous,
    needs_trusted,
    refuse_too_few,
)
from fedcore.aggregators.distances import squared_distances

__all__ = ["nearest_neighbour_mixing"]


def nearest_neighbour_mixing(inner: Aggregator, *, faulty: int) -> Aggregator:
    """`inner` of rows of which each is the mean of the K - f rows nearest to it, itself included,
    f = faulty; of two as near, the first by worker.

    For workers whose records differ, where a rule alone takes the rare ones for faulty: with it
    the trimmed mean, the geometric median, the median and Krum are within a constant of the best
    that is possible. Bears f < K / 2. The mixing itself does not weigh. Allouah et al. 2023,
    Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity (NNM).
    """
    return _Mixing(inner, faulty)


@dataclass(frozen=True)
class _Mixing:
    inner: Aggregator
    faulty: int

    @property
    def least(self) -> int:
        return max(2 * self.faulty + 1, fewest_rows(self.inner))

    @property
    def trusts(self) -> bool:
        return needs_trusted(self.inner)

    @property
    def follows(self) -> bool:
        return needs_previous(self.inner)

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="nearest_neighbour_mixing")
        count = len(rows) - self.faulty
        nearest = squared_distances(rows).argsort(dim=1, stable=True)[:, :count]
        shares = rows.new_zeros(len(rows), len(rows)).scatter_(1, nearest, 1 / count)
        return self.inner(shares @ rows, weights, context)
