"""What a cohort's training made; it stays where it was made, until it is sealed."""

from dataclasses import dataclass

from torch import Tensor

from fedcore.contributions import Contributions
from fedcore.values import Ticket

__all__ = ["CohortUpdate"]


@dataclass(frozen=True)
class CohortUpdate:
    """K workers' answer to one brief, as what the brief asked for.

    Either `rows` [K, P], trained weights as Layout.flatten gives them, or `sums` [M, P] in float64,
    sum_k each_k trained_k by each of the brief's M weightings. `engine` says in one line how it was
    computed, and why so.
    """

    ticket: Ticket
    contributions: Contributions
    rows: Tensor | None
    sums: Tensor | None
    engine: str
