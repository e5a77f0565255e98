"""What holds in every round of one training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.models import Blueprint
from fedcore.settings import LocalSettings, Sampling, TrainingConfig
from fedcore.values import Description, Ref, Ticket

__all__ = ["Terms"]


@dataclass(frozen=True)
class Terms:
    """The settings of a round, and where its values lie.

    `store` is the coordinator's; `shared` is where it lays out what workers read, if these are in
    other processes; `workers` is how many data holders there are; `described` is what each handle
    said of its data before the first round; `test` points at the central test records, if there
    are any, and `root` at those that the coordinator trains on itself. `attempt` counts how often
    the run was started: a repeated round is a new attempt.
    """

    store: str
    blueprint: Blueprint
    seed: int
    rounds: int
    workers: int
    local: LocalSettings
    sampling: Sampling
    quorum: int
    deadline_s: float
    retries: int
    described: Mapping[str, Description] = field(default_factory=dict)
    test: Ref | None = None
    root: Ref | None = None
    shared: str | None = None
    run: str = "unnamed"
    attempt: int = 1

    @classmethod
    def of(
        cls,
        config: TrainingConfig,
        *,
        store: str,
        descriptions: Sequence[Description],
        blueprint: Blueprint,
        test: Ref | None,
    ) -> "Terms":
        """The terms that these settings ask for."""
        return cls(
            store=store,
            blueprint=blueprint,
            seed=config.seed,
            rounds=config.rounds,
            workers=sum(description.workers for description in descriptions),
            described={description.worker: description for description in descriptions},
            local=config.local,
            sampling=config.sampling,
            quorum=config.terms.quorum,
            deadline_s=config.terms.deadline,
            retries=config.terms.retries,
            test=test,
        )

    @property
    def outbox(self) -> str:
        """The store that workers read."""
        return self.shared or self.store

    def ticket(self, round: int) -> Ticket:
        """The ticket of a round."""
        return Ticket(run=self.run, round=round, attempt=self.attempt)
