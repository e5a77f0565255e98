"""Bucketing: means of a few workers, drawn anew every round, in the place of the workers."""

from dataclasses import dataclass

import torch
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
from fedcore.seeds import derive

__all__ = ["bucketing"]


def bucketing(inner: Aggregator, *, size: int) -> Aggregator:
    """`inner` of the means of buckets of `size` workers (the last may be smaller), in the order of
    a permutation drawn from (seed, round).

    Honest buckets differ less than honest workers, but each faulty worker spoils a bucket:
    f faulty workers must be fewer than `inner` bears among ceil(K / size) rows. Within a bucket
    weights do not count; `inner` is given their sum. Karimireddy et al. 2022, Byzantine-Robust
    Learning on Heterogeneous Datasets via Bucketing, algorithm 1.
    """
    return _Bucketing(inner, size)


@dataclass(frozen=True)
class _Bucketing:
    inner: Aggregator
    size: int

    @property
    def least(self) -> int:
        return (fewest_rows(self.inner) - 1) * self.size + 1

    @property
    def trusts(self) -> bool:
        return needs_trusted(self.inner)

    @property
    def follows(self) -> bool:
        return needs_previous(self.inner)

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="bucketing")
        generator = derive(context.seed, context.round, "", "bucketing")
        order = torch.randperm(len(rows), generator=generator)
        buckets = [order[i : i + self.size] for i in range(0, len(rows), self.size)]
        means = torch.stack([rows[bucket].mean(dim=0) for bucket in buckets])
        sums = torch.stack([weights[bucket].sum() for bucket in buckets])
        return self.inner(means, sums, context)
