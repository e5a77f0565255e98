"""The roster: who could take part, in the order of positions that a selection speaks of."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Roster"]


@dataclass(frozen=True)
class Roster:
    """N workers by name, and how many records each described, float64 [N]."""

    names: tuple[str, ...]
    records: Tensor

    def __len__(self) -> int:
        return len(self.names)
