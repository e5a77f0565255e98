"""The mean weighted by records: best among honest workers, moved anywhere by one that is not."""

import torch
from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Context
from fedcore.weightings import positive_sum

__all__ = ["weighted_mean"]


def weighted_mean(rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
    """sum_k weights_k rows_k / sum_k weights_k, added in the order of the rows, in float64.

    Weights count, the context does not. McMahan et al. 2017, algorithm 1. In float64 the mean of
    identical rows is that row, and the order in which hundreds of workers are added moves no
    bit of a float32 model.

    Raises:
        ValueError: no rows, or weights that sum to nothing.

    >>> weighted_mean(torch.tensor([[0.0], [4.0]]), torch.tensor([3.0, 1.0]))
    tensor([1.], dtype=torch.float64)
    """
    total = positive_sum(weights)
    mean = torch.zeros(rows.shape[1], dtype=torch.float64)
    for row, weight in zip(rows, weights.tolist(), strict=True):
        mean.add_(row, alpha=weight / total)
    return mean
