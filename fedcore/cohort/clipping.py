"""Clipping each worker's whole gradient where part of it exists only as a product.

Letters: n workers, r rows of a step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Factors", "scales"]

Factors = tuple[Tensor, Tensor, bool]
"""Inputs a [n, r, in] and coefficients d [n, r, out] of a layer, and whether it has its bias with
it: the gradients are d^T a and the sum of d over rows."""


def scales(bound: float, factors: Sequence[Factors], gradients: Sequence[Tensor]) -> Tensor:
    """[n]: what brings each worker's gradient to an L2 norm of at most `bound`.

    |d^T a|^2 + |sum d|^2 = <d d^T, a a^T + 1>, without the product d^T a. In float64: where the
    records' gradients nearly cancel, what float32 would leave of the difference is rounding.
    """
    squares = [g.reshape(len(g), -1).double().square().sum(1) for g in gradients]
    for a, d, biased in factors:
        a, d = a.double(), d.double()
        gram = a @ a.mT + (1.0 if biased else 0.0)
        squares.append((gram * (d @ d.mT)).sum((1, 2)))
    norms = torch.stack(squares).sum(0).clamp(min=0).sqrt()
    # `<=` fails for NaN, which must not pass as if it were small: it makes the update NaN.
    return torch.where(norms <= bound, 1.0, bound / norms)
