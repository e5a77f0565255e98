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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fedcore.contributions import Contribution, Contributions
from fedcore.models import Blueprint
from fedcore.rules import Rule
from fedcore.settings.training import Optimiser
from fedcore.trees import Params, all_finite, digest, same

__all__ = [
    "Brief",
    "Contribution",
    "Contributions",
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
    """Everything that a worker is told in a round.

    `answer` says what the aggregator needs: each worker's row, or no more than their sum.
    `chosen` int64, ascending: who takes part, as positions in the roster of the federation; None
    where everybody does. Only a handle behind which several workers stand has to look at it.
    """

    ticket: Ticket
    model: ModelState
    blueprint: Blueprint
    rule: Rule
    plan: Plan
    disclosure: Literal["open"] = "open"
    answer: Literal["rows", "sum"] = "rows"
    chosen: Tensor | None = None


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
class Sealed:
    """What leaves a worker under the disclosure `open`.

    Either `rows` [K, P], trained weights of each worker behind the handle, or `sum` [P] in
    float64, sum_k weight_k trained_k: all that a mean needs, whatever K is. `engine` says how
    simulated workers were trained together.
    """

    ticket: Ticket
    contributions: Contributions
    rows: Tensor | None = None
    sum: Tensor | None = None
    engine: str = ""


@dataclass(frozen=True)
class Total:
    """What the coordinator learns of K workers, and who stands behind it.

    Either `rows` [K, P], trained weights sorted by worker, or `sum` [P] in float64,
    sum_k weight_k trained_k. `broken` names those whose numbers are not finite, as far as that
    can be told from a sum.
    """

    contributions: Contributions
    rows: Tensor | None = None
    sum: Tensor | None = None
    sources: tuple[Ref, ...] = ()
    broken: tuple[str, ...] = ()
    engines: Mapping[str, str] = field(default_factory=dict)
    """Of each handle that trained several workers together, how."""

    @classmethod
    def of(
        cls, sealed: Sequence[Sealed], *, answer: Literal["rows", "sum"], sources: Sequence[Ref]
    ) -> "Total":
        """The total of what arrived, added in the order given: by worker id, never by arrival.

        Raises:
            ValueError: a worker counts twice, or an aggregator that needs rows is given a sum.
        """
        every = Contributions.joined(part.contributions for part in sealed)
        order = every.order()
        rows, added = None, None
        if answer == "sum":
            added = _sum(sealed)
        elif any(part.rows is None for part in sealed):
            raise ValueError(
                "An aggregator of rows must be given rows; given: a sum; ask for rows in the brief."
            )
        else:
            rows = torch.cat([part.rows for part in sealed if part.rows is not None])[order]
        by_handle = zip(sources, sealed, strict=False)
        return cls(
            every.taken(order),
            rows=rows,
            sum=added,
            sources=tuple(sources),
            broken=_broken(sealed),
            engines={ref.owner: part.engine for ref, part in by_handle if part.engine},
        )


def _sum(sealed: Sequence[Sealed]) -> Tensor:
    """sum_k weight_k trained_k [P] of all parts, in their order."""
    if len(sealed) == 1 and sealed[0].sum is not None:
        return sealed[0].sum
    added = torch.zeros(_held(sealed[0]).shape[-1], dtype=torch.float64)
    for part in sealed:
        if part.rows is None:
            added.add_(_held(part))
        else:
            for row, weight in zip(part.rows, part.contributions.weights.tolist(), strict=True):
                added.add_(row, alpha=weight)
    return added


def _held(part: Sealed) -> Tensor:
    held = part.rows if part.rows is not None else part.sum
    assert held is not None, "what is sealed has rows or a sum"
    return held


def _broken(sealed: Sequence[Sealed]) -> tuple[str, ...]:
    """Workers whose row is not finite; of a sum that is not, those whose loss shows it."""
    found: list[str] = []
    for part in sealed:
        if all_finite(_held(part)):
            continue
        shown = (
            torch.isfinite(part.contributions.train_losses)
            if part.rows is None
            else torch.isfinite(part.rows).all(dim=1)
        )
        found += [w for w, fine in zip(part.contributions.workers, shown, strict=True) if not fine]
    return tuple(sorted(found))


@dataclass(frozen=True)
class RoundRecord:
    """One finished round as its history keeps it. Times are those of the first time it finished:
    logging it again stores the same points."""

    round: int
    timestamp_ms: int
    metrics: Mapping[str, float]
    contributions: Contributions
    missing: Mapping[str, str] = field(default_factory=dict)
    """Workers that were asked and did not count, and why."""
    engines: Mapping[str, str] = field(default_factory=dict)
    """Of each host of simulated workers, how it trained them."""


@dataclass(frozen=True, eq=False)
class ServerState:
    """Everything that the next round needs: `load(save(state)) == state`, bit for bit."""

    round: int
    """Rounds finished; 0 before the first."""
    model: ModelState
    slots: Params = field(default_factory=dict)
    """What the server optimiser remembers."""
    counted: Contributions = field(default_factory=Contributions)
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
        self,
        metrics: Mapping[str, float],
        *,
        timestamp_ms: int,
        missing: Mapping[str, str],
        engines: Mapping[str, str] | None = None,
    ) -> "ServerState":
        """The state after the round that is going on: its record is complete."""
        round = self.round + 1
        record = RoundRecord(
            round, timestamp_ms, dict(metrics), self.counted, dict(missing), dict(engines or {})
        )
        return replace(self, round=round, counted=Contributions(), record=record)


@dataclass(frozen=True)
class Description:
    """What a data owner lets out about its data: counts and schema, never a record.

    Behind the handle of a cohort stand several `workers`, described together.
    """

    worker: str
    records: int
    inputs: tuple[int, ...]
    """Shape of one record's features."""
    labels: Mapping[str, int]
    """Records per class; empty where there are no classes."""
    fingerprint: str
    """sha256 of the data: says whether two trainings saw the same records."""
    workers: int = 1
    """Data holders that this speaks of."""
