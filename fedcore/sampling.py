"""Samplings: in which order workers are asked for a round, and how many are wanted.

Deterministic in (seed, round), and for power of choice in the losses that the rounds before found.
Letters: N workers in the roster.
"""

import torch
from torch import Tensor

from fedcore.seeds import derive
from fedcore.settings.participation import (
    All,
    Poisson,
    PowerOfChoice,
    RoundRobin,
    Uniform,
    Weighted,
)
from fedcore.terms import Terms
from fedcore.values import ServerState

__all__ = ["preferred"]


def preferred(terms: Terms, state: ServerState, eligible: Tensor) -> tuple[Tensor, int]:
    """Positions in the order in which they would be asked, int64, and how many are wanted.

    `eligible` bool [N] are those who can be asked at all; only they are in the answer.
    """
    sampling, count = terms.sampling, terms.workers
    generator = derive(terms.seed, state.round + 1, "", "sampling")
    match sampling:
        case All():
            order = torch.arange(count)
            wanted = count
        case Uniform():
            order, wanted = torch.randperm(count, generator=generator), sampling.count
        case Weighted():
            order, wanted = _by_records(terms, generator), sampling.count
        case RoundRobin():
            turn = state.round * sampling.count % count
            order, wanted = torch.arange(count).roll(-turn), sampling.count
        case PowerOfChoice():
            drawn = _by_records(terms, generator)
            candidates = drawn[eligible[drawn]][: sampling.candidates]
            return _by_loss(terms, state, candidates), sampling.count
        case Poisson():
            return _thrown(sampling.rate, eligible, generator)
    order = order[eligible[order]]
    return order, min(wanted, len(order))


def _by_records(terms: Terms, generator: torch.Generator) -> Tensor:
    """Everybody, in the order of a draw by records without replacement: by log(u) / n."""
    # A float32 draw can be 0, whose logarithm has no order among others.
    u = torch.rand(terms.workers, generator=generator, dtype=torch.float64).clamp(min=1e-300)
    return (u.log() / terms.roster.records).argsort(descending=True, stable=True)


def _by_loss(terms: Terms, state: ServerState, candidates: Tensor) -> Tensor:
    names, known = terms.roster.names, state.attendance.losses
    losses = [known.get(names[place], float("inf")) for place in candidates.tolist()]
    ranks = torch.tensor(losses, dtype=torch.float64).argsort(descending=True, stable=True)
    return candidates[ranks]


def _thrown(rate: float, eligible: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    if not bool(eligible.any()):
        return torch.zeros(0, dtype=torch.int64), 0
    while True:
        u = torch.rand(len(eligible), generator=generator, dtype=torch.float64)
        taken = torch.nonzero((u < rate) & eligible).flatten()
        if len(taken):
            return taken, len(taken)
