"""Modules in float64, where rounding hides nothing: agreement is to ten digits."""

import torch
from torch import Tensor, nn

__all__ = ["Fine", "line", "normed", "perceptron"]


class Fine(nn.Sequential):
    """Layers that compute in float64, whatever the records come in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


def perceptron() -> nn.Module:
    """3 features, 3 classes."""
    return Fine(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def normed() -> nn.Module:
    """The same with batch normalisation."""
    return Fine(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


def line(*, outputs: int = 1) -> nn.Module:
    """Linear regression from zero, without an intercept."""
    module = Fine(nn.Linear(2, outputs, bias=False, dtype=torch.float64))
    nn.init.zeros_(module[0].weight)
    return module
