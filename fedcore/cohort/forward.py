"""What both ways of running the model for many workers share.

Letters: K workers, n of them still training, m records of a batch, r rows of a layer, S all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fedcore.cohort.batches import Batch
from fedcore.cohort.low_rank import LowRank, Tabled

__all__ = ["Forward", "Moment", "Use"]


@dataclass(frozen=True)
class Use:
    """That a layer was used: its inputs a [n, r, in] and its products z [n, r, out], to
    differentiate by: nothing that follows may change z in place."""

    layer: str
    inputs: Tensor
    products: Tensor
    version: int
    """Of the inputs, to notice when something changes them in place."""


@dataclass(frozen=True)
class Moment:
    """One step in progress."""

    batch: Batch
    share: float
    leaves: Mapping[str, Tensor]
    """The stacked parameters [n, ...]."""
    layers: Mapping[str, LowRank | Tabled]
    """By the name of their weight."""
    streams: Sequence[torch.Generator]
    """[K], what each worker's dropout draws from."""
    uses: list[Use] = field(default_factory=list)

    def product(self, name: str, a: Tensor) -> Tensor:
        """z [n, r, out] of a layer that is not stacked, noted as used."""
        layer = self.layers[name]
        if isinstance(layer, Tabled):
            a = self.batch.of(layer.inputs)
            z = layer.product(self.batch, share=self.share)
        else:
            z = layer.product(a, self.batch, share=self.share)
        if not z.requires_grad:
            z.requires_grad_()
        self.uses.append(Use(name, a.detach(), z, a._version))
        return z


class Forward(Protocol):
    """Runs the model for the workers of a batch."""

    def __call__(self, records: Tensor, moment: Moment) -> Tensor:
        """Outputs [n, m, ...] of records [n, m, ...]."""
