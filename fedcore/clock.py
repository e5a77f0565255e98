"""A simulated clock: how long each worker would take, and when it could be reached.

Nobody waits for it: a study of a thousand rounds with stragglers takes as long as their training.
Letters: N workers in the roster.
"""

import torch
from torch import Tensor

from fedcore.seeds import derive
from fedcore.settings.participation import Daily, RandomAvailability, SimulatedClock
from fedcore.terms import Terms
from fedcore.values import ServerState

__all__ = ["available", "durations"]

HOUR, DAY = 3600.0, 24.0


def durations(clock: SimulatedClock, terms: Terms, state: ServerState) -> Tensor:
    """Seconds float64 [N] that each worker would take for the round after `state`: its records,
    at a speed of its own, and the model down and up."""
    round, local, records = state.round + 1, terms.local, terms.roster.records
    seen = records * local.epochs
    if local.steps is not None:
        batch = records.clamp(max=local.batch_size) if local.batch_size else records
        seen = local.steps * batch
    speed = clock.spread * _normal(terms, 0, "speed")
    speed += clock.jitter * _normal(terms, round, "jitter")
    travel = 2 * state.travelling.size_bytes / clock.bytes_per_second
    return clock.seconds_per_record * seen * speed.exp() + travel


def available(clock: SimulatedClock, terms: Terms, state: ServerState) -> tuple[Tensor, float]:
    """Who can be reached, bool [N], and after how many seconds of waiting that somebody can."""
    kind = clock.availability
    if isinstance(kind, RandomAvailability):
        u = _uniform(terms, state.round + 1)
        return (u < kind.share) | (u == u.min()), 0.0
    if isinstance(kind, Daily):
        begins = DAY * _uniform(terms, 0)
        hour = state.attendance.seconds / HOUR % DAY
        there = (hour - begins) % DAY < kind.hours
        if bool(there.any()):
            return there, 0.0
        until = (begins - hour) % DAY
        return until == until.min(), float(until.min()) * HOUR
    return torch.ones(terms.workers, dtype=torch.bool), 0.0


def _normal(terms: Terms, round: int, purpose: str) -> Tensor:
    generator = derive(terms.seed, round, "", purpose)
    return torch.randn(terms.workers, generator=generator, dtype=torch.float64)


def _uniform(terms: Terms, round: int) -> Tensor:
    generator = derive(terms.seed, round, "", "availability")
    return torch.rand(terms.workers, generator=generator, dtype=torch.float64)
