"""What a worker remembers from round to round: private to it, never sent.

A round that does not count leaves nothing behind: what is remembered lies under the round it was
learnt in, and the brief says which round of a worker counted last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from fedcore.rules import ControlVariate, Dynamic, Rule
from fedcore.trees import Params

__all__ = ["ControlVariates", "DynamicRegulariser", "Remembered", "Remembering", "Step"]


@dataclass(frozen=True)
class Remembered:
    """One worker's memory: what its rule learnt, and the tensors that are its own."""

    rule: Params = field(default_factory=dict)
    own: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What local training did: from `received` to `trained` in `steps` at `learning_rate`.

    Of one worker `steps` is a scalar; for a cohort, `trained` is [K, ...] and `steps` [K].
    """

    received: Params
    trained: Params
    steps: Tensor
    learning_rate: float

    def moved(self, name: str) -> Tensor:
        """w_k - w0 of one tensor."""
        return self.trained[name] - self.received[name]

    def mean_gradient(self, name: str) -> Tensor:
        """(w0 - w_k) / (t_k lr): the mean of the gradients that were stepped along."""
        moved = self.moved(name)
        each = self.steps.to(moved.dtype).view(*self.steps.shape, *[1] * self.received[name].dim())
        return moved / (each * -self.learning_rate)


class Remembering(Protocol):
    """A rule that each worker completes with what it remembers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that are remembered: shaped like the model's, zero at first."""

    def completed(self, memory: Params) -> Rule:
        """The rule of a worker, or [K, ...] of a cohort's."""

    def learnt(self, memory: Params, step: Step) -> Mapping[str, Tensor]:
        """What is remembered after this training."""


@dataclass(frozen=True, eq=False)
class ControlVariates:
    """c - c_k is added to every gradient; `c` is the server's, c_k is remembered.

    Karimireddy et al. 2020, SCAFFOLD, algorithm 1 with option II of equation 4:
    c_k <- c_k - c + (w0 - w_k) / (t_k lr).
    """

    c: Params

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the server's."""
        return tuple(self.c)

    def completed(self, memory: Params) -> Rule:
        """c - c_k."""
        return ControlVariate({name: c - memory[name] for name, c in self.c.items()})

    def learnt(self, memory: Params, step: Step) -> Mapping[str, Tensor]:
        """The next c_k; at a learning rate of 0 no gradient can be told, and it stays."""
        if not step.learning_rate:
            return memory
        return {name: memory[name] - c + step.mean_gradient(name) for name, c in self.c.items()}


@dataclass(frozen=True, eq=False)
class DynamicRegulariser:
    """alpha (w - w0) - g_k is added to every gradient; g_k is remembered.

    Acar et al. 2021, Federated Learning Based on Dynamic Regularization, algorithm 1:
    g_k <- g_k - alpha (w_k - w0).
    """

    alpha: float
    names: tuple[str, ...]
    """All parameters that travel."""

    def completed(self, memory: Params) -> Rule:
        """The pull, less g_k."""
        return Dynamic(self.alpha, {name: -memory[name] for name in self.names})

    def learnt(self, memory: Params, step: Step) -> Mapping[str, Tensor]:
        """The next g_k."""
        return {name: memory[name] - self.alpha * step.moved(name) for name in self.names}
