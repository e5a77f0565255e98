"""The geometric median: the point with the smallest sum of distances to the rows."""

from dataclasses import dataclass

from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Aggregator, Context, refuse_too_few
from fedcore.aggregators.distances import squared_distances
from fedcore.weightings import positive_sum

__all__ = ["geometric_median"]


def geometric_median(*, smoothing: float = 1e-6, iterations: int = 100) -> Aggregator:
    """argmin_z sum_k weights_k |rows_k - z|, by `iterations` of Weiszfeld's step

        z <- sum_k a_k rows_k / sum_k a_k,   a_k = weights_k / max(smoothing, |rows_k - z|)

    from z = 0, no change, which no worker can move. Weights count: they are the records, as in
    RFA, and it bears faulty workers with less than half of the records. RFA makes few iterations,
    each of which asks all workers; here an iteration costs K^2, so there are enough to converge.
    Pillutla et al. 2022, Robust Aggregation for Federated Learning, algorithm 2.
    """
    return _GeometricMedian(smoothing, iterations)


@dataclass(frozen=True)
class _GeometricMedian:
    smoothing: float
    iterations: int
    least: int = 1

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="geometric_median")
        positive_sum(weights)
        # z = sum_k a_k rows_k with sum_k a_k = 1 is never formed before the end:
        # |rows_i - z|^2 = sum_j a_j D_ij - 1/2 sum_ij a_i a_j D_ij.
        distances = squared_distances(rows)
        away = rows.norm(dim=1)
        for _ in range(self.iterations):
            pull = weights / away.clamp(min=self.smoothing)
            a = pull / pull.sum()
            apart = distances @ a
            away = (apart - a @ apart / 2).clamp(min=0).sqrt()
        middle: Tensor = a @ rows
        return middle
