"""Centred clipping: the mean of what is near to where the round before ended."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Aggregator, Context, refuse_too_few

__all__ = ["centred_clipping"]


def centred_clipping(*, radius: float, iterations: int = 1) -> Aggregator:
    """v <- v + 1/K sum_k (rows_k - v) min(1, radius / |rows_k - v|), `iterations` times, from the
    aggregate of the round before (0 in the first).

    Each faulty worker moves v by at most radius / K an iteration. Bears f < K / 2, f / K about
    0.1 with the guarantees of the paper, for a radius in the order of the honest rows' distance
    from their mean. Weights do not count. Karimireddy et al. 2021, Learning from History for
    Byzantine Robust Optimization, algorithm 2; its workers also keep momentum (local.optimiser).
    """
    return _CentredClipping(radius, iterations)


@dataclass(frozen=True)
class _CentredClipping:
    radius: float
    iterations: int
    least: int = 1
    follows: bool = True

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="centred_clipping")
        started = context.previous
        v = torch.zeros_like(rows[0]) if started is None else started.clone()
        for _ in range(self.iterations):
            away = rows - v
            scale = self.radius / away.norm(dim=1).clamp(min=self.radius)
            v += scale @ away / len(rows)
        return v
