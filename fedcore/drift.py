"""Corrections of client drift: what the server shares, and what it learns from the workers' sums.

Workers with different data pull the model to different places while they train. A correction
shares with all of them where they go together; each remembers where it goes itself
(`fedcore.remembering`). Letters: N workers in all, K of them counted, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedcore.remembering import ControlVariates, DynamicRegulariser, Remembering
from fedcore.trees import Params
from fedcore.weightings import BySteps, Evenly, Weighting

__all__ = ["Correction", "Counted", "DynamicRegularisation", "VarianceReduction"]


@dataclass(frozen=True)
class Counted:
    """Of a round: K workers counted of N in all; they trained at `learning_rate`."""

    counted: int
    workers: int
    learning_rate: float

    @property
    def share(self) -> float:
        """K / N."""
        return self.counted / self.workers


class Correction(Protocol):
    """The server's side of a strategy against drift; pure."""

    @property
    def sums(self) -> tuple[Weighting, ...]:
        """The means that it needs beyond the strategy's own step."""

    def start(self, parameters: Params) -> dict[str, Tensor]:
        """What is shared in the first round."""

    def remembering(self, shared: Params, parameters: Params) -> Remembering:
        """What the workers are sent of it, in the types of the parameters that they compute in."""

    def apply(
        self, shared: Params, means: Sequence[Params], step: Params, counted: Counted
    ) -> tuple[dict[str, Tensor], Params]:
        """What is shared from now on, and the step that the server takes; all float64."""


@dataclass(frozen=True)
class VarianceReduction:
    """c <- c + K / N (mean_k (w0 - w_k) / (t_k lr) - c): the mean of the workers' c_k.

    Karimireddy et al. 2020, SCAFFOLD, algorithm 1, line 17 with option II.
    """

    sums: tuple[Weighting, ...] = (BySteps(),)

    def start(self, parameters: Params) -> dict[str, Tensor]:
        """0."""
        return _zeros(parameters)

    def remembering(self, shared: Params, parameters: Params) -> Remembering:
        """c."""
        return ControlVariates({name: c.to(parameters[name].dtype) for name, c in shared.items()})

    def apply(
        self, shared: Params, means: Sequence[Params], step: Params, counted: Counted
    ) -> tuple[dict[str, Tensor], Params]:
        """The next c; the step stays as it is. At a learning rate of 0 no c_k changes."""
        if not counted.learning_rate:
            return dict(shared), step
        (moved,) = means
        # sum_k of the change -c + (w0 - w_k) / (t_k lr) that each c_k makes, over N.
        after = {
            name: c + counted.share * (moved[name] / -counted.learning_rate - c)
            for name, c in shared.items()
        }
        return after, step


@dataclass(frozen=True)
class DynamicRegularisation:
    """h <- h - alpha K / N mean_k (w_k - w0); w <- mean_k w_k - h / alpha.

    Acar et al. 2021, Federated Learning Based on Dynamic Regularization, algorithm 1.
    """

    alpha: float
    sums: tuple[Weighting, ...] = (Evenly(),)

    def start(self, parameters: Params) -> dict[str, Tensor]:
        """0."""
        return _zeros(parameters)

    def remembering(self, shared: Params, parameters: Params) -> Remembering:
        """Nothing of h: the workers' penalties are their own."""
        return DynamicRegulariser(self.alpha, tuple(shared))

    def apply(
        self, shared: Params, means: Sequence[Params], step: Params, counted: Counted
    ) -> tuple[dict[str, Tensor], Params]:
        """The next h, and the step less h / alpha."""
        (moved,) = means
        after = {name: h - self.alpha * counted.share * moved[name] for name, h in shared.items()}
        lessened = {
            name: s - after[name] / self.alpha if name in after else s for name, s in step.items()
        }
        return after, lessened


def _zeros(parameters: Params) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
