"""Who takes part in a round, when a round counts, and when a training ends."""

from typing import Annotated, Literal

from pydantic import Field

from fedcore.settings.choice import Settings, by_kind

__all__ = [
    "All",
    "Always",
    "Availability",
    "Clock",
    "Daily",
    "Poisson",
    "PowerOfChoice",
    "RandomAvailability",
    "RealClock",
    "RoundRobin",
    "Sampling",
    "SimulatedClock",
    "StopSettings",
    "TermsSettings",
    "Uniform",
    "Weighted",
]


class All(Settings):
    """Every worker in every round."""

    kind: Literal["all"] = "all"


class Counted(Settings):
    """What samplings of a fixed size have in common."""

    count: int = Field(5, ge=1)
    """Workers in a round."""


class Uniform(Counted):
    """So many workers, drawn anew for every round."""

    kind: Literal["uniform"] = "uniform"


class Weighted(Counted):
    """So many workers, drawn by how many records they have, none twice.

    Efraimidis and Spirakis 2006, Weighted Random Sampling with a Reservoir.
    """

    kind: Literal["weighted"] = "weighted"


class Poisson(Settings):
    """Each worker by a throw of its own: the number differs from round to round.

    A draw of nobody is thrown again. Abadi et al. 2016, Deep Learning with Differential Privacy,
    section 3.1 (of records; McMahan et al. 2018 of workers).
    """

    kind: Literal["poisson"] = "poisson"
    rate: float = Field(0.1, gt=0, le=1)
    """Probability that a worker takes part in a round."""


class RoundRobin(Counted):
    """So many workers in turn: everybody takes part before anybody does again."""

    kind: Literal["round_robin"] = "round_robin"


class PowerOfChoice(Counted):
    """Those with the highest last train loss among some that are drawn by their records.

    Workers that never trained count as the highest. Cho et al. 2022, Towards Understanding Biased
    Client Selection in Federated Learning, section 4 (rpow-d).
    """

    kind: Literal["power_of_choice"] = "power_of_choice"
    candidates: int = Field(10, ge=1)
    """How many are drawn; of them `count` take part."""


Sampling = Annotated[
    All | Uniform | Weighted | Poisson | RoundRobin | PowerOfChoice,
    by_kind(All, Uniform, Weighted, Poisson, RoundRobin, PowerOfChoice),
]


class Always(Settings):
    """Every worker can be reached at any time."""

    kind: Literal["always"] = "always"


class RandomAvailability(Settings):
    """Each worker can be reached in a round by a throw of its own."""

    kind: Literal["random"] = "random"
    share: float = Field(0.8, gt=0, le=1)
    """Probability that it can."""


class Daily(Settings):
    """Each worker can be reached for a part of the day, which begins at an hour of its own.

    Yang et al. 2021, Characterizing Impacts of Heterogeneity in Federated Learning (FLASH).
    """

    kind: Literal["daily"] = "daily"
    hours: float = Field(8.0, gt=0, le=24)
    """How long, in simulated hours."""


Availability = Annotated[
    Always | RandomAvailability | Daily, by_kind(Always, RandomAvailability, Daily)
]


class RealClock(Settings):
    """Workers take as long as they take."""

    kind: Literal["real"] = "real"


class SimulatedClock(Settings):
    """How long workers would take and when they could be reached: nobody waits for it.

    Who would answer too late is not asked.
    """

    kind: Literal["simulated"] = "simulated"
    seconds_per_record: float = Field(0.01, ge=0, le=1e6)
    """Median time that a worker needs for one record of one pass."""
    spread: float = Field(0.5, ge=0, le=5)
    """How workers differ in speed: standard deviation of its logarithm. 0: all the same."""
    jitter: float = Field(0.1, ge=0, le=5)
    """How one worker differs from round to round, likewise."""
    bytes_per_second: float = Field(1e6, ge=1, le=1e12)
    """Of each worker's network, down and up."""
    deadline: float = Field(3600.0, gt=0, le=1e9)
    """Simulated seconds after which a round goes on without those that have not answered."""
    availability: Availability = Always()
    """When workers can be reached."""


Clock = Annotated[RealClock | SimulatedClock, by_kind(RealClock, SimulatedClock)]


class TermsSettings(Settings):
    """When a round counts."""

    quorum: int = Field(0, ge=0)
    """Fewest workers that must answer; 0: all that were asked, less `spare`."""
    deadline: float = Field(600, ge=0.1, le=604_800)
    """Seconds that a worker may take for a verb (send, train, fetch) before the round goes on."""
    retries: int = Field(2, ge=0, le=20)
    """How often an unreachable or late worker is asked again within the round."""
    backoff: float = Field(0.5, ge=0, le=3600)
    """Seconds before a worker is asked again; twice as long each time, 30 at most."""
    spare: int = Field(0, ge=0, le=100_000)
    """Ask so many more workers than are sampled, and go on when enough have trained."""
    replace: bool = False
    """Ask another worker in place of each one that cannot be reached at the start of a round."""
    exclude_after: int | None = Field(None, ge=1, le=1000)
    """Leave a worker out when it failed so many times in a row."""
    readmit_after: int = Field(10, ge=1, le=100_000)
    """Rounds after which a worker that was left out is asked again; one failure, and it is out."""
    repeats: int = Field(0, ge=0, le=100)
    """How often a round that failed is repeated before the training ends."""


class StopSettings(Settings):
    """When a training ends before its last round."""

    metric: str = Field("test_loss", pattern=r"^[a-z][a-z0-9_]{0,59}$")
    """What is watched: a metric of the rounds. Losses should fall, everything else rise."""
    patience: int | None = Field(None, ge=1, le=1_000_000)
    """End when it has not improved for so many rounds."""
    least_change: float = Field(0.0, ge=0)
    """What counts as an improvement."""
    target: float | None = None
    """End when it is as good as this."""
    minutes: float | None = Field(None, gt=0, le=10_000_000)
    """End when the rounds took as long as this, together."""
