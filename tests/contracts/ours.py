"""What a person might bring of their own: a model, an aggregator, a strategy."""

from torch import Tensor, nn

from fedcore.aggregators import Context
from fedcore.aggregators.aggregator import NOTHING
from fedcore.rules import Proximal
from fedcore.servers import momentum
from fedcore.strategy import Strategy

__all__ = ["even_mean", "held", "normed"]


def normed() -> nn.Module:
    """30 features, 2 classes, with batch normalisation."""
    return nn.Sequential(nn.Linear(30, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def even_mean(rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
    """The mean in which every worker counts the same."""
    return rows.mean(dim=0)


def held(*, mu: float = 0.1) -> Strategy:
    """Its parts are of every kind."""
    return Strategy("held", rule=Proximal(mu), aggregator=even_mean, server=momentum(lr=0.5))
