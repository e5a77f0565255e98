"""Squared distances between the rows of [K, P], from products of matrices."""

import torch
from torch import Tensor

__all__ = ["squared_distances"]

_TOO_CLOSE = 1e-6
"""A difference below this share of its terms has lost six of its sixteen digits."""


def squared_distances(rows: Tensor) -> Tensor:
    """D [K, K] with D_ij = |rows_i - rows_j|^2, float64, exactly symmetric, 0 on the diagonal.

    D_ij = G_ii + G_jj - 2 G_ij with G = rows rows^T: one product of matrices instead of K^2 / 2
    passes over P. The difference cancels where two rows are close to each other and far from
    zero. Subtracting the mean first would help there, but one row of 1e9 takes the mean with it,
    and somebody may send that row. So rows that are close are measured again around one of them,
    whatever the others are.
    """
    found, norms = _around_zero(rows)
    doubtful = _doubtful(found, norms)
    while bool(doubtful.any()):
        centre = int(doubtful.sum(dim=1).argmax())
        near = doubtful[centre].nonzero()[:, 0]
        distances, norms = _around_zero(rows[near] - rows[centre])
        pairs = near[:, None], near
        again = doubtful[pairs]
        found[pairs] = torch.where(again, distances, found[pairs])
        doubtful[pairs] = again & _doubtful(distances, norms)
        # Seen from the centre itself, a distance is a norm, in which nothing cancels.
        found[centre, near] = found[near, centre] = norms
        doubtful[centre] = doubtful[:, centre] = False
    return found


def _around_zero(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [K, K] and squared norms [K]."""
    products = rows @ rows.T
    # The two triangles of a product may differ in their last bits, which would order equals.
    products = (products + products.T) / 2
    norms = products.diagonal()
    distances = norms[:, None] + norms - 2 * products
    return distances.clamp_(min=0).fill_diagonal_(0), norms


def _doubtful(distances: Tensor, norms: Tensor) -> Tensor:
    """[K, K]: which distances lost too many digits to cancellation."""
    return (distances < _TOO_CLOSE * (norms[:, None] + norms)).fill_diagonal_(False)
