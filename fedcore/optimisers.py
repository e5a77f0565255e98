"""Local optimisers: SGD, momentum and Adam over a list of tensors, in place.

Ours, not torch.optim: the first step of any torch.optim optimiser imports the compiler, which
takes over a second, and its bookkeeping costs more than the arithmetic of a small model. The
numbers are the same to the last bit (a test compares them).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedcore.settings.training import Adam, Momentum, Optimiser

__all__ = ["Step", "stepper"]

Step = Callable[[Sequence[Tensor], Sequence[Tensor]], None]
"""step(weights, gradients): moves the weights in place."""


def stepper(settings: Optimiser, *, learning_rate: float, weight_decay: float) -> Step:
    """An optimiser with no memory of earlier rounds.

    Weight decay is the L2 penalty: `weight_decay * w` is added to the gradient.
    """
    match settings:
        case Momentum(momentum=momentum, nesterov=nesterov):
            step = _momentum(learning_rate, momentum=momentum, nesterov=nesterov)
        case Adam(beta1=beta1, beta2=beta2, epsilon=epsilon):
            step = _adam(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon)
        case _:
            step = _sgd(learning_rate)

    def decayed(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        if weight_decay:
            gradients = [
                g.add(w, alpha=weight_decay) for g, w in zip(gradients, weights, strict=True)
            ]
        step(weights, gradients)

    return decayed


def _sgd(learning_rate: float) -> Step:
    def step(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for w, g in zip(weights, gradients, strict=True):
            w.add_(g, alpha=-learning_rate)

    return step


def _momentum(learning_rate: float, *, momentum: float, nesterov: bool) -> Step:
    velocities: list[Tensor] = []

    def step(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        if not velocities:
            velocities.extend(g.clone() for g in gradients)
        else:
            for v, g in zip(velocities, gradients, strict=True):
                v.mul_(momentum).add_(g)
        for w, v, g in zip(weights, velocities, gradients, strict=True):
            w.add_(g.add(v, alpha=momentum) if nesterov else v, alpha=-learning_rate)

    return step


def _adam(learning_rate: float, *, beta1: float, beta2: float, epsilon: float) -> Step:
    """Kingma and Ba 2015, algorithm 1."""
    means: list[Tensor] = []
    squares: list[Tensor] = []
    count = 0

    def step(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        nonlocal count
        if not means:
            means.extend(torch.zeros_like(g) for g in gradients)
            squares.extend(torch.zeros_like(g) for g in gradients)
        count += 1
        scale = learning_rate / (1 - beta1**count)
        root = (1 - beta2**count) ** 0.5
        for w, m, s, g in zip(weights, means, squares, gradients, strict=True):
            m.lerp_(g, 1 - beta1)
            s.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            w.addcdiv_(m, (s.sqrt() / root).add_(epsilon), value=-scale)

    return step
