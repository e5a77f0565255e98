"""Records as tensors (Dataset) and, before they are dealt out, with their columns (Table)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Dataset", "Table", "class_numbers"]


@dataclass(frozen=True)
class Dataset:
    """One holder's records.

    `features` [N, ...] float32. `targets` int64 [N] where `classes` are named, else float32
    [N, outputs]. `fedcore.losses.prepare` brings targets into the form that a loss wants, which
    for named classes can be values too: [N, 1] of 0 and 1, or one-hot [N, classes].
    """

    features: Tensor
    targets: Tensor
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of one record's features."""
        return tuple(self.features.shape[1:])

    @property
    def labels(self) -> Tensor | None:
        """int64 [N], class numbers whatever the form of the targets; None without classes."""
        return class_numbers(self.targets) if self.classes else None

    @property
    def label_counts(self) -> dict[str, int]:
        """Records per class, classes without records included; empty without classes."""
        labels = self.labels
        if labels is None:
            return {}
        counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def fingerprint(self) -> str:
        """sha256 of the records: two data sets with equal fingerprints are the same."""
        content = hashlib.sha256("|".join(self.classes).encode())
        for tensor in (self.features, self.targets):
            content.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return content.hexdigest()

    def take(self, index: NDArray[np.int64]) -> "Dataset":
        """The records at these positions, in this order."""
        where = torch.from_numpy(np.ascontiguousarray(index))
        return Dataset(self.features[where], self.targets[where], self.classes)


def class_numbers(targets: Tensor) -> Tensor:
    """int64 [N] from class numbers [N], from 0 and 1 in [N, 1], or from one-hot [N, classes]."""
    if targets.ndim == 1:
        return targets
    if targets.shape[1] == 1:
        return (targets[:, 0] > 0.5).long()
    return targets.argmax(dim=1)


@dataclass(frozen=True)
class Table:
    """A source's records with named columns to split by.

    `columns` maps names to arrays [N] of any type: feature columns, the label, and others that
    the model never sees (hospital, region).
    """

    records: Dataset
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
