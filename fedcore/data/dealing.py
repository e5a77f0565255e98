"""From settings to every worker's records: load, hold out, scale, deal."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The module, not its names: it imports Dataset from this package, which may be what comes first.
from fedcore import losses
from fedcore.data.dataset import Dataset
from fedcore.data.feature_noise import with_feature_noise
from fedcore.data.holdings import Holdings
from fedcore.data.holdout import hold_out
from fedcore.data.partitions import partition
from fedcore.data.sources import load
from fedcore.settings.data import BreastCancer, ByColumn, DataSettings, FeatureNoise, Files
from fedcore.settings.model import Loss
from fedcore.settings.training import Workers

__all__ = ["Dealt", "deal"]


@dataclass(frozen=True)
class Dealt:
    """The records of a training, with targets in the form that its loss wants.

    `parts` has each worker's positions, in the order of the workers' names; `train` those that
    are theirs, `held_out` those that no worker has.
    """

    records: Dataset
    parts: Mapping[str, NDArray[np.int64]]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @cached_property
    def workers(self) -> dict[str, Dataset]:
        """Each worker's own records."""
        return {name: self.records.take(part) for name, part in self.parts.items()}

    @cached_property
    def pooled(self) -> Dataset:
        """All training records in the source's order: what a centralised training sees."""
        return self.records.take(self.train)

    @property
    def sample(self) -> Dataset:
        """Two training records (one, if there is one): what records look like."""
        return self.records.take(self.train[:2])

    @cached_property
    def test(self) -> Dataset | None:
        """The coordinator's own records, if it has any."""
        return self.records.take(self.held_out) if len(self.held_out) else None

    @property
    def holdings(self) -> Holdings:
        """All workers' records in one place, in the order of the roster."""
        parts = list(self.parts.values())
        return Holdings(
            tuple(self.parts),
            torch.tensor([len(part) for part in parts]),
            self.records.take(np.concatenate(parts)),
        )


def deal(data: DataSettings, workers: Workers, loss: Loss, *, seed: int) -> Dealt:
    """Everybody's records; the same settings and seed deal the same way.

    Scaling uses mean and variance over all training records, as whoever prepares a simulation
    can; workers that are other parties would have to agree on them first. Noise that a partition
    adds comes after it, before anybody holds the records: it is the same for virtual and simulated
    workers and in the pooled records of a centralised training.

    Raises:
        DataError: the source cannot be used, or not be dealt out as asked.
        Incompatible: the loss or the partition wants classes and there are none.
    """
    how = workers.partition
    without = (how.column,) if isinstance(how, ByColumn) else ()
    table = load(data.source, seed=seed, without=without)
    train, test = hold_out(table, share=data.test_share, seed=seed)
    records = losses.prepare(table.records, loss)
    if isinstance(data.source, BreastCancer | Files) and data.source.standardise:
        records = replace(records, features=_standardised(records.features, train))
    parts = partition(table, how, names=workers.names(), seed=seed, among=train)
    if isinstance(how, FeatureNoise):
        records = with_feature_noise(records, parts, sigma=how.sigma, seed=seed)
    return Dealt(records, parts, train, test)


def _standardised(features: Tensor, train: NDArray[np.int64]) -> Tensor:
    """(x - mean) / deviation, both over the training records; constant features as they are."""
    seen = features[torch.from_numpy(train)].double()
    mean = seen.mean(dim=0)
    deviation = seen.std(dim=0, correction=0)
    # Compared exactly: the deviation of a constant column can come out as a tiny rounding error,
    # and dividing by that would blow noise up to the size of a feature.
    varies = (seen.amax(dim=0) > seen.amin(dim=0)) & (deviation > 0)
    scaled = (features.double() - mean) / deviation.where(varies, torch.ones_like(deviation))
    return scaled.float().where(varies, features)
