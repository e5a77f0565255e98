"""Dropout of many workers at once, each drawing exactly what it would draw alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedcore.cohort.batches import Batch

__all__ = ["noise"]


def noise(like: Tensor, batch: Batch, *, p: float, streams: Sequence[torch.Generator]) -> Tensor:
    """What inputs [n, m, ...] are multiplied by: 0, or 1 / (1 - p).

    Every worker draws from its own stream ("layers") for its real records alone, step by step
    and layer by layer, as torch.nn.functional.dropout does on a CPU. Padding repeats the mask of
    the record that it repeats.
    """
    drawn = torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)
    for k, count in enumerate(batch.counts.tolist()):
        drawn[k, :count].bernoulli_(1 - p, generator=streams[k])
        if count < batch.size:
            drawn[k, count:] = drawn[k, 0]
    return drawn.div_(1 - p)
