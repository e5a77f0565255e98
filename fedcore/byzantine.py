"""Byzantine workers to try aggregators with: what an attacker sends in the place of its update.

An attack knows what all honest workers send, as the papers assume. These are for simulations:
`attacked` stands between the workers and an aggregator, so no worker needs to be touched, except
for flipped labels, which are an honest training on `flip_labels` of a worker's records.

Letters: H honest workers, F attackers, P elements of the flat vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from fedcore.aggregators.aggregator import (
    NOTHING,
    Aggregator,
    Context,
    fewest_rows,
    needs_trusted,
)
from fedcore.data.dataset import Dataset
from fedcore.errors import DataError
from fedcore.seeds import derive

__all__ = [
    "Attack",
    "a_little_is_enough",
    "attacked",
    "flip_labels",
    "gaussian",
    "inner_product_manipulation",
    "mimic",
    "sign_flip",
]


class Attack(Protocol):
    """honest rows [H, P], the number of attackers F, a generator -> their rows [F, P]."""

    def __call__(self, honest: Tensor, attackers: int, generator: Generator) -> Tensor:
        """The attackers' rows; the honest ones stay as they are."""


def sign_flip(*, scale: float = 10.0) -> Attack:
    """-scale times the honest mean: away from where training goes, and far. Scaled up it is what
    a mean cannot bear. Li et al. 2019, RSA (sign-flipping attack)."""
    return _Opposite(scale)


def inner_product_manipulation(*, tau: float = 2.0) -> Attack:
    """-tau times the honest mean, so that its inner product with the aggregate turns negative
    while it is no longer than honest rows. Xie et al. 2020, Fall of Empires: Breaking
    Byzantine-tolerant SGD by Inner Product Manipulation."""
    return _Opposite(tau)


def a_little_is_enough(*, tau: float = 1.5) -> Attack:
    """mean + tau deviation of every coordinate over the honest rows (over H - 1): inside of what
    honest workers differ by. Baruch et al. 2019, A Little Is Enough: Circumventing Defenses For
    Distributed Learning, with a fixed z = tau."""
    return _ALittle(tau)


def gaussian(*, deviation: float = 1.0) -> Attack:
    """Normal noise with mean 0. Blanchard et al. 2017, section 6 (Gaussian byzantine workers)."""
    return _Gaussian(deviation)


def mimic() -> Attack:
    """All attackers send what the first honest worker sends: nothing is out of range, but one
    worker's records count F + 1 times. Karimireddy et al. 2022, Byzantine-Robust Learning on
    Heterogeneous Datasets via Bucketing, with a fixed worker."""
    return _Mimic()


def flip_labels(dataset: Dataset) -> Dataset:
    """The same records with label y as C - 1 - y, C classes, whatever the form of the targets.

    Tolpegin et al. 2020, Data Poisoning Attacks Against Federated Learning Systems; all classes.

    Raises:
        DataError: records without classes.
    """
    if not dataset.classes:
        raise DataError(
            "Flipped labels must be of classes; given: records without classes; choose another "
            "attack, or a source with classes."
        )
    targets = dataset.targets
    if targets.ndim == 1:
        return replace(dataset, targets=len(dataset.classes) - 1 - targets)
    return replace(dataset, targets=1 - targets if targets.shape[1] == 1 else targets.flip(1))


def attacked(aggregator: Aggregator, attack: Attack, *, attackers: Sequence[int]) -> Aggregator:
    """`aggregator` of rows of which those at these places, counted from 0 in the order of the
    workers, are the attack's; the weights stay. It draws from (seed, round)."""
    return _Attacked(aggregator, attack, tuple(attackers))


@dataclass(frozen=True)
class _Opposite:
    scale: float

    def __call__(self, honest: Tensor, attackers: int, generator: Generator) -> Tensor:
        return honest.mean(dim=0).mul(-self.scale).repeat(attackers, 1)


@dataclass(frozen=True)
class _ALittle:
    tau: float

    def __call__(self, honest: Tensor, attackers: int, generator: Generator) -> Tensor:
        return (honest.mean(dim=0) + self.tau * honest.std(dim=0)).repeat(attackers, 1)


@dataclass(frozen=True)
class _Gaussian:
    deviation: float

    def __call__(self, honest: Tensor, attackers: int, generator: Generator) -> Tensor:
        shape = attackers, honest.shape[1]
        return torch.randn(shape, generator=generator, dtype=honest.dtype) * self.deviation


@dataclass(frozen=True)
class _Mimic:
    def __call__(self, honest: Tensor, attackers: int, generator: Generator) -> Tensor:
        return honest[0].repeat(attackers, 1)


@dataclass(frozen=True)
class _Attacked:
    aggregator: Aggregator
    attack: Attack
    attackers: tuple[int, ...]

    @property
    def least(self) -> int:
        return max(fewest_rows(self.aggregator), len(self.attackers) + 1)

    @property
    def trusts(self) -> bool:
        return needs_trusted(self.aggregator)

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        generator = derive(context.seed, context.round, "", "attack")
        honest = torch.ones(len(rows), dtype=torch.bool)
        honest[list(self.attackers)] = False
        sent = rows.clone()
        sent[~honest] = self.attack(rows[honest], len(self.attackers), generator)
        return self.aggregator(sent, weights, context)
