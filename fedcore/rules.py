"""Rules: what a strategy changes in local training.

A rule corrects the gradient of one tensor elementwise, so the same rule serves any model and any
number of workers at once. Symbols: g gradient, w current weight, w0 the weight received, o offset.
A worker steps along correct(g, w, w0) + o.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedcore.trees import Params

__all__ = ["ControlVariate", "Plain", "Proximal", "Rule"]


class Rule(Protocol):
    """correct(g, w, w0) -> what depends on the weights; offset -> what does not."""

    @property
    def offset(self) -> Params:
        """o by parameter name; empty: nothing is added."""

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The corrected gradient, in the shape of g; must not change its arguments."""


@dataclass(frozen=True)
class Plain:
    """g."""

    @property
    def offset(self) -> Params:
        """Nothing."""
        return {}

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The gradient as it is."""
        return g


@dataclass(frozen=True)
class Proximal:
    """g + mu (w - w0): the gradient of mu/2 |w - w0|^2 added.

    Li et al. 2020, Federated Optimization in Heterogeneous Networks, equation 2.
    """

    mu: float

    @property
    def offset(self) -> Params:
        """Nothing."""
        return {}

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The gradient with a pull towards the weight received."""
        return g.add(w - w0, alpha=self.mu)


@dataclass(frozen=True, eq=False)
class ControlVariate:
    """g + o with o = c - c_k: where all workers drift to, less where this one does.

    `offset` has the shapes of the parameters, or [K, ...] for the members of a cohort. Each
    worker has its own, so no weight can be shared between them while they train.
    Karimireddy et al. 2020, SCAFFOLD, algorithm 1, line 10.
    """

    offset: Params

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The gradient as it is: the offset does not depend on the weights."""
        return g

    def of(self, members: int | Sequence[int]) -> "ControlVariate":
        """The rule of one member of the cohort, or of some."""
        which = members if isinstance(members, int) else list(members)
        return ControlVariate({name: o[which] for name, o in self.offset.items()})
