"""How evenly a model serves its workers.

Letters: K workers.
"""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["fairness", "jain", "spread", "worst"]

WORST_SHARE = 10
"""One worker in so many is among the worst."""


def fairness(values: Tensor, *, better: Literal["higher", "lower"]) -> dict[str, float]:
    """`worst`, `spread` and `jain` of what the model reaches at each worker, [K].

    Li et al. 2020, Fair Resource Allocation in Federated Learning (q-FFL), section 4.1, compare
    models by the worst 10 % of workers and by the variance over workers, each worker counting once
    whatever it holds.
    """
    return {"worst": worst(values, better=better), "spread": spread(values), "jain": jain(values)}


def worst(values: Tensor, *, better: Literal["higher", "lower"]) -> float:
    """Mean over the worst tenth of the workers, rounded down, and at least one."""
    ordered = values.double().sort(descending=better == "lower").values
    return float(ordered[: max(1, len(values) // WORST_SHARE)].mean())


def spread(values: Tensor) -> float:
    """Standard deviation over these workers, which are all there are: divided by K, not K - 1."""
    return float(values.double().std(correction=0))


def jain(values: Tensor) -> float:
    """(sum_k x_k)^2 / (K sum_k x_k^2), from 1 / K (one worker has it all) to 1 (all alike).

    Of values that are all 0, which are alike, 1.
    Reference: Jain, Chiu and Hawe 1984, A Quantitative Measure of Fairness and Discrimination for
    Resource Allocation in Shared Computer Systems, equation 2.
    """
    largest = values.double().abs().max()
    if not largest:
        return 1.0
    x = values.double() / largest  # squares of very small or large values would not be exact
    return float(x.sum().square() / (len(x) * torch.dot(x, x)))
