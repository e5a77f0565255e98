"""Who takes part in a round: deterministic in (seed, round)."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from fedcore.seeds import derive
from fedcore.settings.training import Uniform
from fedcore.terms import Terms
from fedcore.values import ServerState

__all__ = ["choose"]

W = TypeVar("W")


def choose(workers: Sequence[W], terms: Terms, state: ServerState) -> list[W]:
    """The workers of the round after `state`, in the order of the roster."""
    if not isinstance(terms.sampling, Uniform):
        return list(workers)
    generator = derive(terms.seed, state.round + 1, "", "sampling")
    drawn = torch.randperm(len(workers), generator=generator)[: terms.sampling.count]
    return [workers[index] for index in sorted(drawn.tolist())]
