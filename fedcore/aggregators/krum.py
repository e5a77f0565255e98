"""Krum and its family: take the rows that have the nearest neighbours.

Weights do not count, as in the papers. Of rows with equal scores the first by worker is taken.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Aggregator, Context, refuse_too_few
from fedcore.aggregators.distances import squared_distances
from fedcore.aggregators.order import mean_of_nearest

__all__ = ["bulyan", "krum", "multi_krum"]


def krum(*, faulty: int) -> Aggregator:
    """The row with the smallest score; score_i = sum of |rows_i - rows_j|^2 over the K - f - 2
    other rows j nearest to i, f = faulty.

    Needs K >= 2f + 3. One worker's row is taken as it is, so the others' records are not learnt
    from: for teaching, or for workers with the same data. Blanchard et al. 2017, Machine Learning
    with Adversaries: Byzantine Tolerant Gradient Descent, section 4.
    """
    return _Krum(faulty)


def multi_krum(*, faulty: int, keep: int | None = None) -> Aggregator:
    """The mean of the `keep` rows with the smallest scores of `krum`; None: of K - f, f = faulty.

    Needs K >= 2f + 3, and `keep` of at most K - f. Blanchard et al. 2017, section 6 (Multi-Krum).
    """
    return _MultiKrum(faulty, keep)


def bulyan(*, faulty: int) -> Aggregator:
    """theta = K - 2f times the row that `krum` takes of those that are left; then of every
    coordinate the mean of the theta - 2f values nearest to the median of these, f = faulty.

    Krum counts K' - f - 2 neighbours among the K' rows that are left, and at least one: the sum
    over none would call all rows equal. Needs K >= 4f + 3. El Mhamdi et al. 2018, The Hidden
    Vulnerability of Distributed Learning in Byzantium (Bulyan of Krum).
    """
    return _Bulyan(faulty)


@dataclass(frozen=True)
class _Krum:
    faulty: int

    @property
    def least(self) -> int:
        return 2 * self.faulty + 3

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="krum")
        return rows[_scores(squared_distances(rows), faulty=self.faulty).argmin()].clone()


@dataclass(frozen=True)
class _MultiKrum:
    faulty: int
    keep: int | None

    @property
    def least(self) -> int:
        return max(2 * self.faulty + 3, (self.keep or 0) + self.faulty)

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="multi_krum")
        keep = len(rows) - self.faulty if self.keep is None else self.keep
        best = _scores(squared_distances(rows), faulty=self.faulty).argsort(stable=True)[:keep]
        # A product with shares instead of a mean of rows[best], which would copy them all.
        step: Tensor = rows.new_zeros(len(rows)).index_fill_(0, best, 1 / keep) @ rows
        return step


@dataclass(frozen=True)
class _Bulyan:
    faulty: int

    @property
    def least(self) -> int:
        return 4 * self.faulty + 3

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="bulyan")
        distances = squared_distances(rows)
        left, taken = list(range(len(rows))), []
        for _ in range(len(rows) - 2 * self.faulty):
            among = distances[left][:, left]
            taken.append(left.pop(int(_scores(among, faulty=self.faulty).argmin())))
        return mean_of_nearest(rows[sorted(taken)], keep=len(taken) - 2 * self.faulty)


def _scores(distances: Tensor, *, faulty: int) -> Tensor:
    """[K]: the sum over the K - f - 2 nearest others, at least one of them."""
    others = distances.clone().fill_diagonal_(torch.inf)
    nearest = min(max(1, len(others) - faulty - 2), len(others) - 1)
    return others.sort(dim=1).values[:, :nearest].sum(dim=1)
