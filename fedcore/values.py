"""The values of a round. All are frozen; a round is a function from one ServerState to the next.

What travels, and where it lives:

    Brief       coordinator -> worker     the model and what to do with it
    Update      stays at the worker       what its training changed
    Sealed      worker -> coordinator     as much of the update as its disclosure lets out
    Total       at the coordinator        what the coordinator learns (fedcore.totals)
    ServerState at the coordinator        everything that the next round needs

A Ref points at one of them without holding it: it is what tasks take and return.
Letters: K workers, P elements of the flat vector.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from fedcore.contributions import Contribution, Contributions
from fedcore.models import Blueprint
from fedcore.remembering import Remembering
from fedcore.rules import Rule
from fedcore.settings.training import Optimiser
from fedcore.trees import Params, digest, same
from fedcore.weightings import ByRecords, Weighting

__all__ = [
    "Attendance",
    "Brief",
    "Contribution",
    "Contributions",
    "Description",
    "ModelState",
    "Personal",
    "Plan",
    "Ref",
    "RoundRecord",
    "Sealed",
    "ServerState",
    "Ticket",
    "Update",
]


@dataclass(frozen=True)
class Ticket:
    """Which piece of work is meant: every worker verb does it once, however often it is asked."""

    run: str
    round: int
    attempt: int = 1
    purpose: str = ""
    """What beside training is done in the round; empty: the training."""

    @property
    def key(self) -> str:
        """Where the values of this ticket lie in a store; those of a round's training before all
        others of the round, which are forgotten with it."""
        key = f"{self.run}/{self.round}/{self.attempt}"
        return f"{key}/{self.purpose}" if self.purpose else key


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

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self.tensors)

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

    def without(self, names: Collection[str]) -> "ModelState":
        """The model less the tensors of these names."""
        if not names:
            return self
        return ModelState(
            {name: p for name, p in self.parameters.items() if name not in names},
            {name: b for name, b in self.buffers.items() if name not in names},
        )

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
class Personal:
    """What each worker keeps to itself. Tensors that the brief's model lacks never travel: each
    worker trains its own. With `anchor`, it also trains a whole model of its own, held near the
    one received as strongly as that says.

    Arivazhagan et al. 2019 (FedPer), algorithm 1; Li et al. 2021 (Ditto), algorithm 1.
    """

    anchor: float | None = None


@dataclass(frozen=True)
class Brief:
    """Everything that a worker is told in a round.

    `model` has the tensors that travel; with `personal`, a worker has others of its own. Each
    worker completes `remembering`, which then takes the place of `rule`.
    `answer` says what the aggregator needs: each worker's row, or no more than their sums, one for
    each of `weightings`. `recall` is the round that each worker last counted in, where it
    remembers something from then: what it learnt in a round that did not count is void.
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
    weightings: tuple[Weighting, ...] = (ByRecords(),)
    chosen: Tensor | None = None
    remembering: Remembering | None = None
    personal: Personal | None = None
    recall: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """What a worker measures beyond its loss."""
        return frozenset().union(*(weighting.needs for weighting in self.weightings))

    @property
    def remembers(self) -> bool:
        """Whether workers keep something from round to round."""
        return self.personal is not None or self.remembering is not None


@dataclass(frozen=True)
class Update:
    """One worker's answer before it is sealed; it stays where it was made.

    `trained` has the names of `ModelState.averaged` and their values after training. What changed
    is its difference to the model received, taken in float64 where it is needed: a difference
    rounded to float32 does not lead back to the trained weights (docs/decisions/0002).
    `weight` is the number of records; `measures` are sums: `loss` (loss times records) over
    `seen` (records, counted once per pass), `steps` taken, and what the weightings need.
    """

    ticket: Ticket
    trained: Params
    weight: float
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Sealed:
    """What leaves a worker under the disclosure `open`.

    Either `rows` [K, P], trained weights of each worker behind the handle, or `sums` [M, P] in
    float64, sum_k each_k trained_k by each of the brief's M weightings: all that a mean needs,
    whatever K is. `engine` says how simulated workers were trained together.
    """

    ticket: Ticket
    contributions: Contributions
    rows: Tensor | None = None
    sums: Tensor | None = None
    engine: str = ""


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
    evaluated: Contributions = field(default_factory=Contributions)
    """What the new model reaches on each worker's own records: `measures` are the values that are
    reported. Nobody in a round whose model the workers did not measure."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Workers that were asked to measure it and did not, and why."""


@dataclass(frozen=True)
class Attendance:
    """Who took part and who did not, as far as later rounds go by it."""

    seconds: float = 0.0
    """Since the start, by the simulated clock."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often in a row each worker failed."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Until the end of which round a worker is left out."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Each worker's last train loss, where the sampling goes by it."""


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
    shared: Params = field(default_factory=dict)
    """What a strategy against drift sends to all workers beside the model."""
    aggregate: Tensor | None = None
    """[P] float64, the last round's aggregate, where the aggregator starts from it."""
    personal: tuple[str, ...] = ()
    """Names of the tensors that never travel; `model` has them as they were at the start."""
    attendance: Attendance = Attendance()
    recall: Mapping[str, int] = field(default_factory=dict)
    """The round that each worker last counted in, where workers remember what they learnt then."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ServerState)
            and (self.round, self.counted, self.record, self.personal)
            == (other.round, other.counted, other.record, other.personal)
            and (self.attendance, self.recall) == (other.attendance, other.recall)
            and self.model == other.model
            and same(self.slots, other.slots)
            and same(self.shared, other.shared)
            and same(_tree(self.aggregate), _tree(other.aggregate))
        )

    __hash__ = None  # type: ignore[assignment]  # as for ModelState

    @property
    def travelling(self) -> ModelState:
        """The part of the model that workers receive and answer with."""
        return self.model.without(self.personal)

    def finish(
        self,
        metrics: Mapping[str, float],
        *,
        timestamp_ms: int,
        missing: Mapping[str, str],
        engines: Mapping[str, str] | None = None,
        attendance: Attendance | None = None,
        evaluated: Contributions | None = None,
        unmeasured: Mapping[str, str] | None = None,
    ) -> "ServerState":
        """The state after the round that is going on: its record is complete."""
        round = self.round + 1
        record = RoundRecord(
            round,
            timestamp_ms,
            dict(metrics),
            self.counted,
            dict(missing),
            dict(engines or {}),
            evaluated or Contributions(),
            dict(unmeasured or {}),
        )
        attendance = attendance or self.attendance
        return replace(
            self, round=round, counted=Contributions(), record=record, attendance=attendance
        )


def _tree(tensor: Tensor | None) -> Params:
    return {} if tensor is None else {"": tensor}


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
    turns: int = 1
    """How often, at most, somebody behind a worker starts local training in a round: more than once
    where it coordinates workers of its own."""
    members: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """`labels` of each of a cohort's workers, if these are not too many to be told apart."""

    @property
    def labels_of_each(self) -> Mapping[str, Mapping[str, int]]:
        """Records per class of each worker that this speaks of, as far as they are told."""
        return self.members or ({self.worker: self.labels} if self.workers == 1 else {})
