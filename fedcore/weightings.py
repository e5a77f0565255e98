"""Weightings: how much each worker's weights count in a sum over workers.

    sum_k each_k (w_k - w0) / total

`each_k` follows from what worker k knows of itself, so the worker, or the host of a cohort, can
multiply before anything is added; `total` follows from the sums of all. Letters: K workers.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedcore.contributions import Contributions
from fedcore.errors import Incompatible
from fedcore.settings.training import Momentum, Optimiser, Sgd

__all__ = ["ByRecords", "BySteps", "Evenly", "Fairly", "Normalised", "Weighting", "positive_sum"]


class Weighting(Protocol):
    """A coefficient for each worker, and what their sum is divided by."""

    @property
    def needs(self) -> frozenset[str]:
        """What a worker has to measure for it, beyond its loss: `norm`, `start_loss`."""

    def each(self, counted: Contributions) -> Tensor:
        """Coefficients float64 [K], each from its own worker's contribution alone."""

    def total(self, counted: Contributions) -> float:
        """The divisor, from sums over the workers."""


@dataclass(frozen=True)
class ByRecords:
    """n_k / sum n: every record counts the same. McMahan et al. 2017, algorithm 1."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def each(self, counted: Contributions) -> Tensor:
        """n_k."""
        return counted.weights

    def total(self, counted: Contributions) -> float:
        """sum n."""
        return positive_sum(counted.weights)


@dataclass(frozen=True)
class Evenly:
    """1 / K: every worker counts the same."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def each(self, counted: Contributions) -> Tensor:
        """1."""
        return torch.ones_like(counted.weights)

    def total(self, counted: Contributions) -> float:
        """K."""
        return float(len(counted))


@dataclass(frozen=True)
class BySteps:
    """1 / t_k with t_k local steps: the sum is one of mean gradients.

    Karimireddy et al. 2020, SCAFFOLD, equation 4, option II.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def each(self, counted: Contributions) -> Tensor:
        """1 / t_k."""
        return 1 / counted.measures["steps"]

    def total(self, counted: Contributions) -> float:
        """K."""
        return float(len(counted))


@dataclass(frozen=True)
class Normalised:
    """p_k tau_eff / |a_k|: what a worker moved, per effective step, times the mean number of them.

    |a_k| of t local steps with momentum rho and proximal pull mu at learning rate lr is the sum
    of how much each gradient moved the weights, over lr; p_k = n_k / n; tau_eff = sum p_k |a_k|.
    Wang et al. 2020, Tackling the Objective Inconsistency Problem (FedNova), equations 6 and 8,
    section 4.
    """

    momentum: float = 0.0
    shrinks: float = 0.0
    """lr mu: by what share of its distance from the weights received a step shrinks."""
    needs: ClassVar[frozenset[str]] = frozenset()

    def each(self, counted: Contributions) -> Tensor:
        """n_k / |a_k|."""
        return counted.weights / self._moved(counted)

    def total(self, counted: Contributions) -> float:
        """n / tau_eff = n^2 / sum n_k |a_k|."""
        n = positive_sum(counted.weights)
        return n * n / float((counted.weights * self._moved(counted)).sum())

    def _moved(self, counted: Contributions) -> Tensor:
        """|a_k| [K]."""
        steps = counted.measures["steps"]
        moved = torch.zeros_like(steps)
        velocity = torch.zeros_like(steps)
        # A unit gradient in every step: where it takes the weights is the sum of the a_k.
        for step in range(int(steps.max()) if len(steps) else 0):
            velocity = self.momentum * velocity + 1 - self.shrinks * moved
            moved = torch.where(steps > step, moved + velocity, moved)
        return moved

    @classmethod
    def of(cls, optimiser: Optimiser, *, learning_rate: float, mu: float) -> "Normalised":
        """For this local training.

        Raises:
            Incompatible: an optimiser whose steps are not linear in the gradients.
        """
        if isinstance(optimiser, Momentum) and not optimiser.nesterov:
            return cls(optimiser.momentum, learning_rate * mu)
        if isinstance(optimiser, Sgd):
            return cls(0.0, learning_rate * mu)
        raise Incompatible(
            "fednova must know how far each gradient moves the weights; given: local.optimiser "
            f"{optimiser.kind}{' with nesterov' if isinstance(optimiser, Momentum) else ''}; "
            "choose sgd, or momentum without nesterov."
        )


@dataclass(frozen=True)
class Fairly:
    """F_k^q / sum h_k with h_k = q F_k^(q-1) L |w_k - w0|^2 + F_k^q and L = 1 / lr: the paper's,
    both over L, so that they are finite at a learning rate of 0 too, where nobody moves.

    F_k is the worker's loss before training: those that do badly count more.
    Li et al. 2020, Fair Resource Allocation in Federated Learning, algorithm 2 (q-FedAvg).
    """

    q: float
    learning_rate: float
    needs: ClassVar[frozenset[str]] = frozenset({"norm", "start_loss"})

    def each(self, counted: Contributions) -> Tensor:
        """F_k^q."""
        return _loss(counted) ** self.q

    def total(self, counted: Contributions) -> float:
        """sum h_k."""
        loss, h = _loss(counted), self.each(counted)
        if self.learning_rate:
            squares = counted.measures["norm"] ** 2 / self.learning_rate
            h = h + self.q * loss ** (self.q - 1) * squares
        return float(h.sum())


def _loss(counted: Contributions) -> Tensor:
    # The paper's own code keeps the loss from 0, whose power q - 1 has no value.
    return counted.measures["start_loss"].clamp(min=1e-10)


def positive_sum(weights: Tensor) -> float:
    """sum_k weights_k.

    Raises:
        ValueError: a weight is negative, or they sum to nothing.
    """
    total = float(weights.sum())
    if not (total > 0 and bool((weights >= 0).all())):
        raise ValueError(
            f"Weights must be counts of records and sum to more than 0; given: "
            f"{weights.tolist()}; leave out workers without records."
        )
    return total
