"""Server optimisers: how the aggregated step moves the global model.

A pair of pure functions. The step is the negative of a gradient (Reddi et al. 2021, algorithm 1):
`apply(step, slots, weights) -> (weights, slots)`.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fedcore.trees import Params

__all__ = ["ServerOptimiser", "sgd"]


class ServerOptimiser(NamedTuple):
    """init(weights) -> slots; apply(step, slots, weights) -> (weights, slots)."""

    init: Callable[[Params], dict[str, Tensor]]
    apply: Callable[[Params, Params, Params], tuple[dict[str, Tensor], dict[str, Tensor]]]


def sgd(*, lr: float = 1.0) -> ServerOptimiser:
    """w + lr * step. With lr = 1 the new model is the mean of the workers' models."""

    def init(weights: Params) -> dict[str, Tensor]:
        return {}

    def apply(
        step: Params, slots: Params, weights: Params
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # Steps come in float64: rounding once, at the end, costs at most half a unit in the
        # last place of the model's own type.
        moved = {n: w.double().add_(step[n], alpha=lr).to(w.dtype) for n, w in weights.items()}
        return moved, {}

    return ServerOptimiser(init, apply)
