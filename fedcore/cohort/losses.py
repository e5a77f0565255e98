"""The losses of many workers' batches at once, with the gradient that each record has in them.

Letters: n workers, m records of a batch, C outputs.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from fedcore.cohort.batches import Batch
from fedcore.cohort.unfit import Unfit
from fedcore.losses import LossFunction

__all__ = ["pads", "record_losses", "slopes", "sums", "worker_losses"]


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.ndim != 2 or targets.ndim != 1:
        raise Unfit("outputs and targets do not fit the loss")
    return functional.cross_entropy(outputs, targets, reduction="none")


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    _refuse_unlike(outputs, targets)
    return functional.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)


def _bce_with_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    _refuse_unlike(outputs, targets)
    found = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return found.flatten(1).mean(1)


def _sum_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    _refuse_unlike(outputs, targets)
    return ((outputs - targets) ** 2).flatten(1).sum(1)


def _refuse_unlike(outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape != targets.shape or outputs.ndim < 2:
        raise Unfit("outputs and targets do not fit the loss")


_PER_RECORD: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "bce_with_logits": _bce_with_logits,
    "sum_squared_error": _sum_squared_error,
}


def pads(loss: LossFunction) -> bool:
    """Whether its batches may be padded: only a loss that is known record by record."""
    return loss.settings.kind in _PER_RECORD


def record_losses(loss: LossFunction, outputs: Tensor, targets: Tensor) -> Tensor:
    """[N] of outputs [N, C] and their targets; a batch's loss is their mean, or their sum."""
    return _PER_RECORD[loss.settings.kind](outputs, targets)


def worker_losses(loss: LossFunction, outputs: Tensor, targets: Tensor) -> Tensor:
    """[n], any loss, from outputs [n, m, C] and targets [n, m, ...] without padding."""
    return torch.func.vmap(loss, randomness="error")(outputs, targets)


def slopes(loss: LossFunction, batch: Batch, like: Tensor) -> Tensor:
    """[n m]: what each record's loss counts in the loss of its worker's batch; padding 0."""
    n, m = batch.workers, batch.size
    if loss.reduction == "sum":
        return batch.real.to(like.dtype).flatten() if batch.padded else like.new_ones(n * m)
    if batch.padded:
        return (batch.real.to(like.dtype) / batch.counts[:, None].to(like.dtype)).flatten()
    return like.new_full((n * m,), 1 / m)


def sums(loss: LossFunction, each: Tensor, batch: Batch) -> Tensor:
    """float64 [n]: the loss of each worker's batch times its records, from `record_losses`."""
    rows = each.view(batch.workers, batch.size)
    if batch.padded:
        rows = rows * batch.real
    found = rows.sum(1, dtype=torch.float64)
    return found * batch.counts if loss.reduction == "sum" else found
