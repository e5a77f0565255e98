"""What an aggregator is, what it may look at, and what it says of itself."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = [
    "NOTHING",
    "Aggregator",
    "Context",
    "fewest_rows",
    "needs_previous",
    "needs_trusted",
    "refuse_too_few",
]


@dataclass(frozen=True, eq=False)
class Context:
    """What an aggregator may look at beside the rows.

    `seed` is the training's; `previous` [P] float64 is the aggregate of the round before, None in
    the first; `trusted` [P] float64 is what the coordinator's own training changed, on records
    that it vouches for, None where it has none.
    """

    round: int = 1
    seed: int = 0
    previous: Tensor | None = None
    trusted: Tensor | None = None


NOTHING = Context()
"""The context of an aggregator that is called with rows and weights alone."""


class Aggregator(Protocol):
    """rows [K, P] float64, what each worker changed (trained minus received), sorted by worker;
    weights [K] float64, records, not negative -> step [P] float64.

    Pure: it never changes its arguments. It may say `least`, the fewest rows that it can work
    with, `trusts`, that it needs `context.trusted`, and `follows`, that it wants
    `context.previous`. Rows are finite: others are refused before.
    """

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        """The step.

        Raises:
            ValueError: fewer rows than `least`, or a context without what it needs.
        """


def fewest_rows(aggregator: Aggregator) -> int:
    """The fewest workers that must count in a round; 1 for one that says nothing of it."""
    return int(getattr(aggregator, "least", 1))


def needs_trusted(aggregator: Aggregator) -> bool:
    """Whether the coordinator must train on records of its own."""
    return bool(getattr(aggregator, "trusts", False))


def needs_previous(aggregator: Aggregator) -> bool:
    """Whether it starts from the aggregate of the round before, which is kept for it."""
    return bool(getattr(aggregator, "follows", False))


def refuse_too_few(rows: Tensor, *, least: int, rule: str) -> None:
    """Raises ValueError if there are fewer than `least` rows."""
    if len(rows) < least:
        raise ValueError(
            f"The aggregator {rule} must have at least {least} workers in a round; given: "
            f"{len(rows)}; add workers, or count on fewer faulty ones."
        )
