"""Aggregators by the order of the values of every coordinate. Weights do not count in any of them:
one worker, one vote, as in their papers, or who claims many records would outvote the others."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Aggregator, Context, refuse_too_few

__all__ = ["coordinate_median", "mean_around_median", "mean_of_nearest", "trimmed_mean"]


def coordinate_median() -> Aggregator:
    """The middle value of every coordinate, of an even number the mean of the two in the middle.

    Bears f < K / 2. Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates, definition 1.
    """
    return _Median()


def trimmed_mean(*, faulty: int) -> Aggregator:
    """Of every coordinate the mean without the f smallest and the f largest values, f = faulty.

    Bears f < K / 2. Yin et al. 2018, definition 2, whose beta K is f.
    """
    return _TrimmedMean(faulty)


def mean_around_median(*, faulty: int) -> Aggregator:
    """Of every coordinate the mean of the K - f values nearest to its median, f = faulty; of two
    values as near, the smaller.

    Bears f < K / 2. Xie et al. 2018, Generalized Byzantine-tolerant SGD (mean around median).
    """
    return _MeanAroundMedian(faulty)


@dataclass(frozen=True)
class _Median:
    least: int = 1

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="median")
        return torch.from_numpy(_middle(_ordered(rows)))


@dataclass(frozen=True)
class _TrimmedMean:
    faulty: int

    @property
    def least(self) -> int:
        return 2 * self.faulty + 1

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="trimmed_mean")
        return torch.from_numpy(_ordered(rows)[self.faulty : len(rows) - self.faulty].mean(axis=0))


@dataclass(frozen=True)
class _MeanAroundMedian:
    faulty: int

    @property
    def least(self) -> int:
        return 2 * self.faulty + 1

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="mean_around_median")
        return mean_of_nearest(rows, keep=len(rows) - self.faulty)


def mean_of_nearest(rows: Tensor, *, keep: int) -> Tensor:
    """Of every coordinate [P] the mean of the `keep` values of rows [K, P] nearest to its median;
    of two as near, the smaller.

    In order they stand side by side, so what is farthest is at one of the ends, which are dropped
    one by one.
    """
    ordered = _ordered(rows)
    middle = _middle(ordered)
    first = np.zeros(ordered.shape[1], dtype=np.intp)
    for count in range(len(ordered), keep, -1):
        first += middle - _at(ordered, first) > _at(ordered, first + count - 1) - middle
    # Summed value by value: differences of running sums would lose digits to a huge outlier.
    total = np.zeros_like(middle)
    for place in range(keep):
        total += _at(ordered, first + place)
    return torch.from_numpy(total / keep)


def _at(ordered: NDArray[np.float64], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """[P]: of every column the value at its own place."""
    found: NDArray[np.float64] = np.take_along_axis(ordered, places[None], axis=0)[0]
    return found


def _ordered(rows: Tensor) -> NDArray[np.float64]:
    # Along the short axis numpy sorts several times as fast as torch.
    return np.sort(rows.numpy(), axis=0)


def _middle(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    middle: NDArray[np.float64] = (low + high) / 2
    return middle
