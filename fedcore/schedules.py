"""The learning rate of a round."""

import math

from fedcore.settings.training import Constant, Cosine, Exponential, Schedule, StepDecay

__all__ = ["learning_rate"]


def learning_rate(base: float, schedule: Schedule, *, round: int, rounds: int) -> float:
    """The learning rate of `round` (from 1) of `rounds`.

    >>> learning_rate(1.0, StepDecay(every=2, factor=0.5), round=3, rounds=9)
    0.5
    """
    match schedule:
        case Constant():
            return base
        case StepDecay(every=every, factor=factor):
            return base * factor ** ((round - 1) // every)
        case Exponential(factor=factor):
            return base * factor ** (round - 1)
        case Cosine(floor=floor):
            done = (round - 1) / max(rounds - 1, 1)
            return base * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
