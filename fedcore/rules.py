"""Rules: what a strategy changes in local training.

A rule corrects the gradient of one tensor elementwise, so the same rule serves any model and any
number of workers at once. Symbols: g gradient, w current weight, w0 the weight received, o offset.
A worker steps along correct(g, w, w0) + o.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from torch import Tensor

from fedcore.trees import Params

__all__ = ["Anchored", "ControlVariate", "Dynamic", "Plain", "Proximal", "Rule"]

Members = int | Sequence[int]
"""Places in a cohort: of one member, or of some."""


class Rule(Protocol):
    """correct(g, w, w0) -> what depends on the weights; offset -> what does not."""

    @property
    def offset(self) -> Params:
        """o by parameter name; empty: nothing is added. [K, ...] for the members of a cohort."""

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The corrected gradient, in the shape of g; must not change its arguments."""

    def of(self, members: Members) -> "Rule":
        """The rule of one member of the cohort, or of some."""


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

    def of(self, members: Members) -> Self:
        """The same for everybody."""
        return self


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

    def of(self, members: Members) -> Self:
        """The same for everybody."""
        return self


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

    def of(self, members: Members) -> "ControlVariate":
        """The rule of one member of the cohort, or of some."""
        return ControlVariate(_taken(self.offset, members))


@dataclass(frozen=True, eq=False)
class Dynamic:
    """g + alpha (w - w0) + o with o = -g_k: a penalty that each worker adapts to what it learnt.

    `offset` as for ControlVariate. Acar et al. 2021, Federated Learning Based on Dynamic
    Regularization, algorithm 1.
    """

    alpha: float
    offset: Params

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The gradient with a pull towards the weight received."""
        return g.add(w - w0, alpha=self.alpha)

    def of(self, members: Members) -> "Dynamic":
        """The rule of one member of the cohort, or of some."""
        return Dynamic(self.alpha, _taken(self.offset, members))


@dataclass(frozen=True, eq=False)
class Anchored:
    """g + mu (w - a): a pull towards an anchor that is not where training starts.

    Li et al. 2021, Ditto, equation 1 and algorithm 1.
    """

    mu: float
    anchor: Params
    offset: Params = field(init=False)

    def __post_init__(self) -> None:
        pull = {name: a.mul(-self.mu) for name, a in self.anchor.items()}
        object.__setattr__(self, "offset", pull)

    def correct(self, g: Tensor, w: Tensor, w0: Tensor) -> Tensor:
        """The part of the pull that depends on the weight."""
        return g.add(w, alpha=self.mu)

    def of(self, members: Members) -> "Anchored":
        """The rule of one member of the cohort, or of some."""
        return Anchored(self.mu, _taken(self.anchor, members))


def _taken(tensors: Params, members: Members) -> Params:
    which = members if isinstance(members, int) else list(members)
    return {name: tensor[which] for name, tensor in tensors.items()}
