"""What holds in every round of one training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.models import Blueprint
from fedcore.roster import Roster
from fedcore.settings import EvaluationSettings, LocalSettings, Sampling, TrainingConfig
from fedcore.settings.participation import SimulatedClock
from fedcore.values import Description, Ref, Ticket

__all__ = ["Terms"]


@dataclass(frozen=True)
class Terms:
    """The settings of a round, and where its values lie.

    `store` is the coordinator's; `shared` is where it lays out what workers read, if these are in
    other processes; `workers` is how many data holders there are; `described` is what each handle
    said of its data before the first round, `roster` who stands behind them; `test` points at the
    central test records, if there are any, and `root` at those that the coordinator trains on
    itself. `attempt` counts how often the round was started: a repeated round is a new attempt.
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
    backoff_s: float
    spare: int
    replace: bool
    exclude_after: int | None
    readmit_after: int
    clock: SimulatedClock | None
    roster: Roster
    evaluation: EvaluationSettings = EvaluationSettings()
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
        roster: Roster,
        blueprint: Blueprint,
        test: Ref | None,
    ) -> "Terms":
        """The terms that these settings ask for."""
        return cls(
            store=store,
            blueprint=blueprint,
            seed=config.seed,
            rounds=config.rounds,
            workers=len(roster),
            described={description.worker: description for description in descriptions},
            local=config.local,
            sampling=config.sampling,
            quorum=config.terms.quorum,
            deadline_s=config.terms.deadline,
            retries=config.terms.retries,
            backoff_s=config.terms.backoff,
            spare=config.terms.spare,
            replace=config.terms.replace,
            exclude_after=config.terms.exclude_after,
            readmit_after=config.terms.readmit_after,
            clock=config.clock if isinstance(config.clock, SimulatedClock) else None,
            roster=roster,
            evaluation=config.evaluation,
            test=test,
        )

    def needed(self, asked: int) -> int:
        """How many of those asked must count."""
        # By the clock, only those are asked who are wanted and will answer.
        spare = self.spare if self.clock is None else 0
        return min(self.quorum or max(asked - spare, 1), asked)

    @property
    def outbox(self) -> str:
        """The store that workers read."""
        return self.shared or self.store

    def ticket(self, round: int, *, purpose: str = "") -> Ticket:
        """The ticket of a round's training, or of other work in it."""
        return Ticket(run=self.run, round=round, attempt=self.attempt, purpose=purpose)
