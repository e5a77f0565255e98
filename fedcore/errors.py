"""Every error that fedrounds raises on purpose.

    FedroundsError
      ConfigError            your settings; raised before any worker is contacted
        Incompatible         two choices that cannot go together
        DataError            the data cannot be used as the settings ask
        UnknownRun           no such run, or one that cannot be resumed
      WorkerError            worker, verb, round; the model is unchanged
        WorkerUnreachable    no connection                        (retried)
        WorkerTimeout        no answer in time                    (retried)
        WorkerRefused        its own rules forbid it              (final)
        WorkerFailed         its code raised                      (final)
      RoundError             round; the model is unchanged
        QuorumNotMet         who is missing, and why
        Diverged             not finite, and which tensors
      CheckpointError        a checkpoint that cannot be read, or is not of this run

Messages have one grammar: *what must hold; what was given; what to do*.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Diverged",
    "FedroundsError",
    "Incompatible",
    "QuorumNotMet",
    "RoundError",
    "UnknownRun",
    "WorkerError",
    "WorkerFailed",
    "WorkerRefused",
    "WorkerTimeout",
    "WorkerUnreachable",
    "nearest",
]


class FedroundsError(Exception):
    """The root: catching it catches everything that fedrounds raises on purpose."""


class ConfigError(FedroundsError, ValueError):
    """The settings cannot be used. Nothing was started and nothing was written."""


class Incompatible(ConfigError):
    """Two choices that cannot go together; the message names the way out."""


class DataError(ConfigError):
    """The data cannot be used as the settings ask."""


class UnknownRun(ConfigError):
    """No run of that name here, or one that cannot be resumed."""


class WorkerError(FedroundsError):
    """Something went wrong at one worker. The global model is unchanged."""

    def __init__(self, reason: str, *, worker: str, verb: str, round: int) -> None:
        self.reason, self.worker, self.verb, self.round = reason, worker, verb, round
        super().__init__(reason, worker, verb, round)

    def __str__(self) -> str:
        return (
            f"{self.worker} in round {self.round}, {self.verb}: {self.reason}. "
            "The global model is unchanged."
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and
        # task runners that use processes send exceptions home pickled.
        return (_rebuild, (type(self), self.reason, self.worker, self.verb, self.round))


def _rebuild(
    kind: type[WorkerError], reason: str, worker: str, verb: str, round: int
) -> WorkerError:
    return kind(reason, worker=worker, verb=verb, round=round)


class WorkerUnreachable(WorkerError):
    """No connection to the worker. A retry can mend it."""


class WorkerTimeout(WorkerError):
    """No answer in time. A retry can mend it."""


class WorkerRefused(WorkerError):
    """The worker's own rules forbid what was asked. Asking again will not change that."""


class WorkerFailed(WorkerError):
    """The worker's code raised: the type and the first line of the message, no stack trace."""


class RoundError(FedroundsError):
    """A round could not be finished. The global model is unchanged."""


class QuorumNotMet(RoundError):
    """Fewer workers answered than the terms ask for; names each missing one and why."""

    def __init__(self, *, round: int, quorum: int, arrived: int, missing: dict[str, str]) -> None:
        self.round, self.quorum, self.arrived, self.missing = round, quorum, arrived, missing
        lost = ", ".join(f"{worker} ({why})" for worker, why in sorted(missing.items()))
        super().__init__(
            f"Round {round} needs {quorum} workers; "
            f"{arrived} of {arrived + len(missing)} answered. Missing: {lost}. "
            "The global model is unchanged; mend the workers and resume, or lower terms.quorum."
        )


class Diverged(RoundError):
    """The new model would not be finite."""

    def __init__(self, *, round: int, tensors: Iterable[str], workers: Iterable[str] = ()) -> None:
        self.round, self.tensors, self.workers = round, tuple(tensors), tuple(workers)
        by = f" from {', '.join(self.workers)}" if self.workers else ""
        super().__init__(
            f"Round {round} must end in finite weights; given: NaN or infinity in "
            f"{', '.join(self.tensors)}{by}. The global model is unchanged; "
            "start a new run with a lower local.learning_rate or with local.clip_norm."
        )


class CheckpointError(FedroundsError):
    """A checkpoint cannot be read, or belongs to something else."""


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ` (nearest: 'x')` for the known name closest to `given`, or nothing.

    >>> nearest("fedavgg", ["fedavg", "fedprox"])
    " (nearest: 'fedavg')"
    """
    found = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (nearest: {found[0]!r})" if found else ""
