"""The values of a round. All are frozen; a round is a function from one ServerState to the next.

What travels, and where it lives:

    Brief       coordinator -> worker     the model and what to do with it
    Update      stays at the worker       what its training changed
    Sealed      worker -> coordinator     as much of the update as its disclosure lets out
    Total       at the coordinator        what the coordinator learns
    ServerState at the coordinator        everything that the next round needs

A Ref points at one of them without holding it: it is what tasks take and return.
Letters: K workers, P elements of the flat vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fedcore.models import Blueprint
from fedcore.rules import Rule
from fedcore.settings.training import Optimiser
from fedcore.trees import Params, digest, same

__all__ = [
    "Brief",
    "Contribution",
    "Description",
    "ModelState",
    "Plan",
    "Ref",
    "RoundRecord",
    "Sealed",
    "ServerState",
    "Ticket",
    "Total",
    "Update",
]


@dataclass(frozen=True)
class Ticket:
    """Which piece of work is meant: every worker verb does it once, however often it is asked."""

    run: str
    round: int
    attempt: int = 1

    @property
    def key(self) -> str:
        """Where the values of this ticket lie in a store."""
        return f"{self.run}/{self.round}/{self.attempt}"


@dataclass(frozen=True)
class Ref:
    """A pointer to a value in a store: small, JSON, safe in logs. It names, it does not hold."""

    owner: str
    kind: str
    store: str
    key: str
    ticket: Ticket | None = None


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model's parameters and buffers (batch-norm statistics, counters) by name."""

    parameters: Params
    buffers: Params = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers together."""
        return {**self.parameters, **self.buffers}

    @property
    def averaged(self) -> dict[str, Tensor]:
        """What workers change and the server averages: parameters and float buffers."""
        floats = {name: b for name, b in self.buffers.items() if b.is_floating_point()}
        return {**self.parameters, **floats}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ModelState)
            and same(self.parameters, other.parameters)
            and same(self.buffers, other.buffers)
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, and tensors can change

    @cached_property
    def digest(self) -> str:
        """sha256 over the name, dtype, shape and bytes of every tensor."""
        return digest(self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def replaced(self, tensors: Params) -> "ModelState":
        """The same model with some of its tensors exchanged."""
        return ModelState(
            {name: tensors.get(name, old) for name, old in self.parameters.items()},
            {name: tensors.get(name, old) for name, old in self.buffers.items()},
        )


@dataclass(frozen=True)
class Plan:
    """The local training of one round, with the round's learning rate already worked out."""

    epochs: int
    steps: int | None
    batch_size: int
    shuffle: bool
    optimiser: Optimiser
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    seed: int


@dataclass(frozen=True)
class Brief:
    """Everything that a worker is told in a round."""

    ticket: Ticket
    model: ModelState
    blueprint: Blueprint
    rule: Rule
    plan: Plan
    disclosure: Literal["open"] = "open"


@dataclass(frozen=True)
class Update:
    """One worker's answer before it is sealed; it stays where it was made.

    `trained` has the names of `ModelState.averaged` and their values after training. What changed
    is its difference to the model received, taken in float64 where it is needed: a difference
    rounded to float32 does not lead back to the trained weights (docs/decisions/0002).
    `weight` is the number of records; `measures` are sums: `loss` (loss times records) over
    `seen` (records, counted once per pass).
    """

    ticket: Ticket
    trained: Params
    weight: float
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Contribution:
    """That a worker counted in a round, with what it lets be known of itself."""

    worker: str
    weight: float
    measures: Mapping[str, float]

    @property
    def train_loss(self) -> float:
        """Mean of the batch losses, weighted by records, each taken before its step."""
        return self.measures["loss"] / self.measures["seen"]


@dataclass(frozen=True)
class Sealed:
    """What leaves a worker: under the disclosure `open`, its update as one row [1, P]."""

    ticket: Ticket
    rows: Tensor
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class Total:
    """What the coordinator learns: trained weights as rows [K, P], and who stands behind each.

    Sorted by worker; totals over disjoint workers add, and the order of arrival changes no bit.
    """

    rows: Tensor
    contributions: tuple[Contribution, ...]
    sources: tuple[Ref, ...] = ()

    @property
    def weights(self) -> Tensor:
        """[K], in the order of the rows."""
        return torch.tensor([c.weight for c in self.contributions], dtype=torch.float64)

    @property
    def workers(self) -> tuple[str, ...]:
        """Who counts, in the order of the rows."""
        return tuple(c.worker for c in self.contributions)

    def __add__(self, other: "Total") -> "Total":
        rows = torch.cat([self.rows, other.rows])
        contributions = self.contributions + other.contributions
        order = sorted(range(len(contributions)), key=lambda i: contributions[i].worker)
        names = [contributions[i].worker for i in order]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Totals must be over disjoint workers; given: {', '.join(names)}; "
                "count each worker once."
            )
        return Total(
            rows[order], tuple(contributions[i] for i in order), self.sources + other.sources
        )


@dataclass(frozen=True)
class RoundRecord:
    """One finished round as its history keeps it. Times are those of the first time it finished:
    logging it again stores the same points."""

    round: int
    timestamp_ms: int
    metrics: Mapping[str, float]
    contributions: tuple[Contribution, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Workers that were asked and did not count, and why."""


@dataclass(frozen=True, eq=False)
class ServerState:
    """Everything that the next round needs: `load(save(state)) == state`, bit for bit."""

    round: int
    """Rounds finished; 0 before the first."""
    model: ModelState
    slots: Params = field(default_factory=dict)
    """What the server optimiser remembers."""
    counted: tuple[Contribution, ...] = ()
    """Who counted so far in the round that is going on; empty between rounds."""
    record: RoundRecord | None = None
    """The last finished round."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ServerState)
            and (self.round, self.counted, self.record)
            == (other.round, other.counted, other.record)
            and self.model == other.model
            and same(self.slots, other.slots)
        )

    __hash__ = None  # type: ignore[assignment]  # as for ModelState

    def finish(
        self, metrics: Mapping[str, float], *, timestamp_ms: int, missing: Mapping[str, str]
    ) -> "ServerState":
        """The state after the round that is going on: its record is complete."""
        round = self.round + 1
        record = RoundRecord(round, timestamp_ms, dict(metrics), self.counted, dict(missing))
        return replace(self, round=round, counted=(), record=record)


@dataclass(frozen=True)
class Description:
    """What a data owner lets out about its data: counts and schema, never a record."""

    worker: str
    records: int
    inputs: tuple[int, ...]
    """Shape of one record's features."""
    labels: Mapping[str, int]
    """Records per class; empty where there are no classes."""
    fingerprint: str
    """sha256 of the data: says whether two trainings saw the same records."""
