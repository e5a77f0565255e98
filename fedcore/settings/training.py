"""How a training goes: local work, workers, strategy, sampling, terms; and all of it together."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fedcore.settings.backend import Backend, Threads
from fedcore.settings.choice import Settings, by_kind
from fedcore.settings.data import ByColumn, DataSettings, Dirichlet, Iid, Partition
from fedcore.settings.evaluation import EvaluationSettings
from fedcore.settings.model import Mlp, Model
from fedcore.settings.participation import (
    All,
    Clock,
    RealClock,
    Sampling,
    StopSettings,
    TermsSettings,
)
from fedcore.settings.strategies import Fedavg, StrategySettings

__all__ = [
    "Adam",
    "Constant",
    "Cosine",
    "Engine",
    "Exponential",
    "GroupedWorkers",
    "LocalSettings",
    "Momentum",
    "Optimiser",
    "Schedule",
    "Sgd",
    "SimulatedWorkers",
    "StepDecay",
    "TrainingConfig",
    "VirtualWorkers",
    "Workers",
]

Engine = Literal["auto", "low_rank", "stacked", "loop"]
"""How a cohort is trained: see fedcore.cohort."""


class Sgd(Settings):
    """Plain stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"


class Momentum(Settings):
    """Stochastic gradient descent with momentum; starts from zero every round."""

    kind: Literal["momentum"] = "momentum"
    momentum: float = Field(0.9, ge=0, le=0.9999)
    """Share of the last step that is kept."""
    nesterov: bool = False
    """Look ahead by the momentum before stepping."""


class Adam(Settings):
    """Adam (Kingma and Ba 2015, algorithm 1); starts from zero every round."""

    kind: Literal["adam"] = "adam"
    beta1: float = Field(0.9, ge=0, le=0.9999)
    """Decay of the mean of gradients."""
    beta2: float = Field(0.999, ge=0, le=0.99999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(1e-8, ge=1e-16, le=1)
    """Added to the root of the second mean."""


Optimiser = Annotated[Sgd | Momentum | Adam, by_kind(Sgd, Momentum, Adam)]


class Constant(Settings):
    """The same learning rate in every round."""

    kind: Literal["constant"] = "constant"


class StepDecay(Settings):
    """Multiplied by a factor every so many rounds."""

    kind: Literal["step"] = "step"
    every: int = Field(10, ge=1)
    """Rounds between two changes."""
    factor: float = Field(0.5, ge=0.0001, le=1)
    """What the learning rate is multiplied by."""


class Exponential(Settings):
    """Multiplied by a factor after every round."""

    kind: Literal["exponential"] = "exponential"
    factor: float = Field(0.99, ge=0.0001, le=1)
    """What the learning rate is multiplied by."""


class Cosine(Settings):
    """From the learning rate down to a share of it along half a cosine over all rounds."""

    kind: Literal["cosine"] = "cosine"
    floor: float = Field(0.0, ge=0, le=1)
    """Share of the learning rate that the last round ends at."""


Schedule = Annotated[
    Constant | StepDecay | Exponential | Cosine, by_kind(Constant, StepDecay, Exponential, Cosine)
]


class LocalSettings(Settings):
    """What a worker does between receiving the model and answering."""

    epochs: int = Field(5, ge=1, le=10_000)
    """Passes over the worker's records in a round."""
    steps: int | None = Field(None, ge=1, le=1_000_000)
    """If given, this many batches in a round instead of epochs."""
    batch_size: int = Field(16, ge=0)
    """Records per step; 0: all of the worker's records in one batch."""
    shuffle: bool = True
    """Draw a new order of the records for every pass."""
    optimiser: Optimiser = Sgd()
    """How a step is taken."""
    learning_rate: float = Field(0.3, ge=1e-12, le=1000)
    """Step size in the first round."""
    schedule: Schedule = Constant()
    """How the learning rate changes over the rounds."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """This times the weights is added to the gradient (L2 penalty)."""
    clip_norm: float | None = Field(None, ge=1e-12)
    """If given, gradients are scaled to at most this L2 norm before each step."""


class VirtualWorkers(Settings):
    """Workers in this process, each with its own part of the data: bob, alice, and others."""

    kind: Literal["virtual"] = "virtual"
    ids: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$")]] = Field(
        [], max_length=10_000
    )
    """Their names, in the order in which `sequential` visits them; none: `count` names are made."""
    count: int = Field(10, ge=1, le=10_000)
    """How many, when no names are given. A partition by column makes one for each value."""
    partition: Partition = Dirichlet()
    """How the records are dealt out."""

    @field_validator("ids")
    @classmethod
    def _distinct(cls, ids: list[str]) -> list[str]:
        if len(set(ids)) < len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise ValueError(f"names must be distinct; given twice: {', '.join(twice)}")
        return ids

    def names(self) -> list[str] | None:
        """The workers' ids; None when the values of a column decide."""
        if self.ids:
            return list(self.ids)
        return None if isinstance(self.partition, ByColumn) else _numbered(self.count)


class SimulatedWorkers(Settings):
    """Very many workers, trained together: a round's task runs do not grow with their number."""

    kind: Literal["simulated"] = "simulated"
    count: int = Field(1000, ge=1, le=10_000_000)
    """How many. A partition by column makes one for each value."""
    hosts: int = Field(1, ge=1, le=1000)
    """Handles that share whoever is drawn; each is asked once a round, all at the same time."""
    partition: Partition = Iid()
    """How the records are dealt out."""
    engine: Engine = "auto"
    """How a host trains them. low_rank: a weight they share plus what each has learnt; stacked:
    each one's weights side by side; loop: one after the other; auto: the cheapest of these."""

    def names(self) -> list[str] | None:
        """The workers' ids; None when the values of a column decide."""
        return None if isinstance(self.partition, ByColumn) else _numbered(self.count)


class GroupedWorkers(Settings):
    """Workers in groups: a group trains and averages on its own between two rounds, then answers
    as one worker, so that nobody above it learns of a single member.

    Liu et al. 2020, Client-Edge-Cloud Hierarchical Federated Learning, algorithm 1 (HierFAVG).
    """

    kind: Literal["grouped"] = "grouped"
    count: int = Field(12, ge=2, le=10_000)
    """How many members all groups have. A partition by column makes one for each value."""
    groups: int = Field(3, ge=1, le=5000)
    """Groups that share the members, neighbours together; each has two or more of them."""
    inner_rounds: int = Field(1, ge=1, le=1000)
    """Rounds that the members of a group train and are averaged in, for each round of the groups.
    local.learning_rate's schedule goes by the latter."""
    partition: Partition = Dirichlet()
    """How the records are dealt out to the members."""

    def names(self) -> list[str] | None:
        """The members' ids; None when the values of a column decide."""
        return None if isinstance(self.partition, ByColumn) else _numbered(self.count)


def _numbered(count: int) -> list[str]:
    width = len(str(count))
    return [f"worker-{number:0{width}d}" for number in range(1, count + 1)]


Workers = Annotated[
    VirtualWorkers | SimulatedWorkers | GroupedWorkers,
    by_kind(VirtualWorkers, SimulatedWorkers, GroupedWorkers),
]


class TrainingConfig(Settings):
    """One training: what is learnt, from whose data, and how."""

    name: str = Field("digits", pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,99}$")
    """What the run is called in Prefect and MLflow."""
    experiment: str | None = Field(None, min_length=1, max_length=200)
    """MLflow experiment; none: fedrounds/ and the name of the data source."""
    seed: int = Field(0, ge=0, le=2**53)
    """Every random number follows from it: the same settings give the same model, bit for bit."""
    rounds: int = Field(12, ge=1, le=1_000_000)
    """Federated rounds to train."""
    data: DataSettings = DataSettings()
    """What is learnt from."""
    model: Model = Mlp()
    """What is trained."""
    local: LocalSettings = LocalSettings()
    """What a worker does in a round."""
    workers: Workers = VirtualWorkers()
    """Who holds the data."""
    strategy: StrategySettings = Fedavg()
    """How the workers' training becomes one model."""
    sampling: Sampling = All()
    """Who takes part in a round."""
    terms: TermsSettings = TermsSettings()
    """What a round needs in order to count."""
    disclosure: Literal["open"] = "open"
    """What leaves a worker. open: its update in the clear, from which its data can be inferred."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Where the model is measured, and how often."""
    backend: Backend = Threads()
    """Where the workers' verbs run."""
    clock: Clock = RealClock()
    """A simulated clock is for the study of slow and absent workers."""
    stop: StopSettings = StopSettings()
    """When to end before the last round."""

    @property
    def experiment_name(self) -> str:
        """The MLflow experiment: the one given, or one for each data source."""
        return self.experiment or f"fedrounds/{self.data.source.kind}"
