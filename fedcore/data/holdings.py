"""The records of many simulated workers in one place: what a cohort trains on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedcore.data.dataset import Dataset

__all__ = ["Holdings"]


@dataclass(frozen=True)
class Holdings:
    """Records of K workers, worker after worker.

    `sizes` int64 [K]: worker k holds the rows starts[k] up to starts[k] + sizes[k] of `records`.
    """

    workers: tuple[str, ...]
    sizes: Tensor
    records: Dataset

    def __len__(self) -> int:
        return len(self.workers)

    @cached_property
    def starts(self) -> Tensor:
        """int64 [K], each worker's first row."""
        return self.sizes.cumsum(0) - self.sizes

    def of(self, k: int) -> Dataset:
        """One worker's records, as a view."""
        rows = slice(int(self.starts[k]), int(self.starts[k] + self.sizes[k]))
        records = self.records
        return Dataset(records.features[rows], records.targets[rows], records.classes)

    @property
    def label_counts(self) -> Tensor | None:
        """int64 [K, C], each worker's records per class; None without classes."""
        labels, count = self.records.labels, len(self.records.classes)
        if labels is None:
            return None
        cells = torch.arange(len(self)).repeat_interleave(self.sizes) * count + labels
        return torch.bincount(cells, minlength=len(self) * count).reshape(len(self), count)

    def part(self, workers: range) -> "Holdings":
        """What these neighbours hold, as a view."""
        held = slice(workers.start, workers.stop)
        first = int(self.sizes[: workers.start].sum())
        rows = slice(first, first + int(self.sizes[held].sum()))
        records = self.records
        return Holdings(
            self.workers[held],
            self.sizes[held],
            Dataset(records.features[rows], records.targets[rows], records.classes),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of who holds which records."""
        content = hashlib.sha256(self.records.fingerprint.encode())
        content.update("|".join(self.workers).encode())
        content.update(self.sizes.numpy().tobytes())
        return content.hexdigest()
