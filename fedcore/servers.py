"""Server optimisers: how the aggregated step moves the global model.

A pair of pure functions. The step is the negative of a gradient (Reddi et al. 2021, algorithm 1):
`apply(step, slots, weights) -> (weights, slots)`. Slots are float64, for each parameter one, named
after it (`m/layer.weight`); a checkpoint keeps them.

Letters: w weights, step what the aggregator found, m its running mean, v that of its squares.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedcore.trees import Params

__all__ = ["ServerOptimiser", "adagrad", "adam", "momentum", "sgd", "yogi"]


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
        return {n: _moved(w, step[n], lr=lr) for n, w in weights.items()}, {}

    return ServerOptimiser(init, apply)


def momentum(*, lr: float = 1.0, momentum: float = 0.9, nesterov: bool = False) -> ServerOptimiser:
    """Past steps go on pushing. With m = 0 before the first round:

        m <- momentum * m + step
        w <- w + lr * m                        or, nesterov:  w + lr * (step + momentum * m)

    `momentum` 0 is sgd; it is at least 0 and below 1. Nesterov's form is the one of torch's SGD.

    Reference: Hsu, Qi, Brown 2019, Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification, section 4.3 (FedAvgM); Sutskever et al. 2013, section 2.
    """

    def init(weights: Params) -> dict[str, Tensor]:
        return {f"m/{n}": _filled(w, 0.0) for n, w in weights.items()}

    def apply(
        step: Params, slots: Params, weights: Params
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        moved, kept = {}, {}
        for n, w in weights.items():
            m = step[n].add(slots[f"m/{n}"], alpha=momentum)
            ahead = step[n].add(m, alpha=momentum) if nesterov else m
            moved[n], kept[f"m/{n}"] = _moved(w, ahead, lr=lr), m
        return moved, kept

    return ServerOptimiser(init, apply)


def adagrad(*, lr: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> ServerOptimiser:
    """v <- v + step^2; the rest as `adam`, where the letters and the reference stand.

    v only grows, so that steps get shorter from round to round. Reddi et al. take beta1 = 0 for
    it in their experiments.
    """
    return _adaptive(lambda v, squared: v + squared, lr=lr, beta1=beta1, tau=tau)


def adam(
    *, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> ServerOptimiser:
    """Every weight moves by about lr, however long its steps are. With m = 0 and v = tau^2
    before the first round:

        m <- beta1 * m + (1 - beta1) * step
        v <- beta2 * v + (1 - beta2) * step^2
        w <- w + lr * m / (sqrt(v) + tau)

    Unlike the Adam of local training it does not correct m and v for where they started. 0 <=
    beta1, beta2 < 1; tau > 0, in the units of a step: from where on a step counts as long.

    Reference: Reddi et al. 2021, Adaptive Federated Optimization, algorithm 2 (FedAdagrad,
    FedYogi, FedAdam), which asks for v >= tau^2 at the start.
    """

    def second(v: Tensor, squared: Tensor) -> Tensor:
        return beta2 * v + (1 - beta2) * squared

    return _adaptive(second, lr=lr, beta1=beta1, tau=tau)


def yogi(
    *, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> ServerOptimiser:
    """v <- v - (1 - beta2) * step^2 * sign(v - step^2); the rest as `adam`.

    v changes by no more than (1 - beta2) * step^2. Adam forgets long steps at a pace of its own,
    and where most rounds tell a weight little, the next round that tells it more is a leap.
    Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization, algorithm 2.
    """

    def second(v: Tensor, squared: Tensor) -> Tensor:
        return v - (1 - beta2) * squared * torch.sign(v - squared)

    return _adaptive(second, lr=lr, beta1=beta1, tau=tau)


def _adaptive(
    second: Callable[[Tensor, Tensor], Tensor], *, lr: float, beta1: float, tau: float
) -> ServerOptimiser:
    """Reddi et al. 2021, algorithm 2, for second(v, step^2) -> v."""

    def init(weights: Params) -> dict[str, Tensor]:
        m = {f"m/{n}": _filled(w, 0.0) for n, w in weights.items()}
        return {**m, **{f"v/{n}": _filled(w, tau**2) for n, w in weights.items()}}

    def apply(
        step: Params, slots: Params, weights: Params
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        moved, kept = {}, {}
        for n, w in weights.items():
            m = beta1 * slots[f"m/{n}"] + (1 - beta1) * step[n]
            v = second(slots[f"v/{n}"], step[n].square())
            moved[n] = _moved(w, m / (v.sqrt() + tau), lr=lr)
            kept[f"m/{n}"], kept[f"v/{n}"] = m, v
        return moved, kept

    return ServerOptimiser(init, apply)


def _filled(weight: Tensor, value: float) -> Tensor:
    return torch.full_like(weight, value, dtype=torch.float64)


def _moved(weight: Tensor, step: Tensor, *, lr: float) -> Tensor:
    """w + lr * step in the type of w."""
    # Steps come in float64: rounding once, at the end, costs at most half a unit in the last
    # place of the model's own type. Not in place: of a float64 weight `double` is no copy.
    return weight.double().add(step, alpha=lr).to(weight.dtype)
