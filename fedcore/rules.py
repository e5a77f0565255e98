"""Rules: what a strategy changes in local training.

A rule corrects the gradient of one tensor elementwise, so the same rule serves any model and any
number of workers at once. Symbols: g gradient, w current weight, w0 the weight received.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Plain", "Proximal", "Rule"]


class Rule(Protocol):
    """correct(g, w, w0) -> the gradient to step along."""

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The corrected gradient, in the shape of g; must not change its arguments."""


@dataclass(frozen=True)
class Plain:
    """g."""

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The gradient as it is."""
        return g


@dataclass(frozen=True)
class Proximal:
    """g + mu (w - w0): the gradient of mu/2 |w - w0|^2 added.

    Li et al. 2020, Federated Optimization in Heterogeneous Networks, equation 2.
    """

    mu: float

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The gradient with a pull towards the weight received."""
        return g.add(w - w0, alpha=self.mu)
