"""Who counted in a round, with what each worker lets be known of itself."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["Contribution", "Contributions"]


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class Contribution:
    """That one worker counted in a round: its records, and sums that it measured."""

    worker: str
    weight: float
    measures: Mapping[str, float]

    @property
    def train_loss(self) -> float:
        """Mean of the batch losses, weighted by records, each taken before its step."""
        return self.measures["loss"] / self.measures["seen"]


@dataclass(frozen=True, eq=False)
class Contributions:
    """The contributions of K workers as columns, so that thousands of them stay cheap.

    `weights` [K] and each of `measures` [K] are float64, in the order of `workers`. Iterating
    gives one Contribution for each worker.

    >>> both = Contributions.of([Contribution("bob", 3.0, {"loss": 1.5, "seen": 3.0})])
    >>> len(both), [c.train_loss for c in both]
    (1, [0.5])
    """

    workers: tuple[str, ...] = ()
    weights: Tensor = field(default_factory=_nothing)
    measures: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, contributions: Iterable[Contribution]) -> "Contributions":
        """Columns from single contributions, which must all have the same measures."""
        each = list(contributions)
        names = list(each[0].measures) if each else []
        return cls(
            tuple(c.worker for c in each),
            torch.tensor([c.weight for c in each], dtype=torch.float64),
            {n: torch.tensor([c.measures[n] for c in each], dtype=torch.float64) for n in names},
        )

    @property
    def train_losses(self) -> Tensor:
        """[K], as Contribution.train_loss."""
        return self.measures["loss"] / self.measures["seen"]

    def __len__(self) -> int:
        return len(self.workers)

    def __iter__(self) -> Iterator[Contribution]:
        weights = self.weights.tolist()
        columns = {name: column.tolist() for name, column in self.measures.items()}
        for k, worker in enumerate(self.workers):
            yield Contribution(worker, weights[k], {n: column[k] for n, column in columns.items()})

    def __getitem__(self, k: int) -> Contribution:
        measures = {name: float(column[k]) for name, column in self.measures.items()}
        return Contribution(self.workers[k], float(self.weights[k]), measures)

    def __add__(self, other: "Contributions") -> "Contributions":
        """These, then the others."""
        if not self.workers or not other.workers:
            return self if self.workers else other
        return Contributions.joined([self, other])

    @classmethod
    def joined(cls, parts: Iterable["Contributions"]) -> "Contributions":
        """One after the other."""
        some = [part for part in parts if part.workers]
        names = list(some[0].measures) if some else []
        return cls(
            tuple(worker for part in some for worker in part.workers),
            torch.cat([_nothing(), *(part.weights for part in some)]),
            {name: torch.cat([part.measures[name] for part in some]) for name in names},
        )

    def order(self) -> list[int]:
        """Positions [K] that sort by worker.

        Raises:
            ValueError: a worker counts twice.
        """
        order = sorted(range(len(self.workers)), key=self.workers.__getitem__)
        names = [self.workers[k] for k in order]
        twice = sorted({a for a, b in pairwise(names) if a == b})
        if twice:
            raise ValueError(
                f"Totals must be over disjoint workers; given: {', '.join(twice)} twice; "
                "count each worker once."
            )
        return order

    def taken(self, order: list[int]) -> "Contributions":
        """Those at these positions, in this order."""
        return Contributions(
            tuple(self.workers[k] for k in order),
            self.weights[order],
            {name: column[order] for name, column in self.measures.items()},
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Contributions)
            and self.workers == other.workers
            and self.measures.keys() == other.measures.keys()
            and all(
                torch.equal(mine.view(torch.int64), theirs.view(torch.int64))  # NaN equals NaN
                for mine, theirs in (
                    (self.weights, other.weights),
                    *((self.measures[n], other.measures[n]) for n in self.measures),
                )
            )
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, and tensors can change
