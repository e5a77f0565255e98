"""Keeping MLflow up with a training that never waits for it for long, and never stops for it.

Checkpoints are the truth; MLflow is told from them what it does not have yet. When it cannot be
told, that is remembered and tried again at a later round, and at the end more patiently.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from fedcore.checkpoint import RunFolder
from fedcore.errors import FedroundsError
from fedcore.values import ModelState, RoundRecord
from tasks.tracking.curves import log_workers
from tasks.tracking.rounds import log_history, log_round_model, model_bytes, model_rounds
from tasks.tracking.runs import Run
from tasks.tracking.server import TROUBLE, first_line, public, tracking_uri

__all__ = ["Progress", "Tracker", "attempt", "keep_up", "settle"]

METRICS_EVERY_S = 1.0
"""A call takes 3 ms of a core: rounds that are faster than this are told several at a time."""
CURVES_EVERY_S = 5.0
"""Often enough to watch; ten workers' curves take ten calls."""
LONGEST_PAUSE_S = 60.0
PATIENCE_S = 30.0
"""How long the end of a training waits for an MLflow that is away."""


@dataclass(frozen=True)
class Progress:
    """Up to which round MLflow has what; `Progress()` knows nothing, so all is told again."""

    metrics: int = 0
    models: int = 0
    curves: int = 0
    curves_at: float = 0.0
    metrics_at: float = 0.0
    trouble: str = ""
    """Why it is behind; empty when the last try worked."""
    failures: int = 0
    """Tries in a row that failed."""
    retry_at: float = 0.0
    """Not tried before this time (seconds since 1970)."""


def keep_up(
    run: Run,
    records: Sequence[RoundRecord],
    *,
    progress: Progress,
    folder: RunFolder,
    latest: ModelState | None = None,
    at_once: bool = False,
) -> Progress:
    """Tell MLflow what it lacks of these rounds; returns how far it got. Never raises for MLflow.

    Models come from the checkpoints in `folder`; `latest`, the model after the last record, saves
    reading that one back. Metrics are told once a second at most and workers' curves every few
    seconds, or all of it now with `at_once`.
    After a failure, tries pause for 1, 2, 4 ... 60 seconds, so that a server which hangs instead
    of refusing does not hold up every round.
    """
    now = time.time()
    if progress.failures and now < progress.retry_at:
        return progress
    done = progress
    try:
        new = [record for record in records if record.round > done.metrics]
        if new and (at_once or now - done.metrics_at > METRICS_EVERY_S):
            log_history(run, new)
            done = replace(done, metrics=new[-1].round, metrics_at=now)
        for round, model in _missing(run, records, after=done.models, folder=folder, latest=latest):
            if model is not None:
                log_round_model(run, round, model)
            done = replace(done, models=round)
        new = [record for record in records if record.round > done.curves]
        if new and (at_once or now - done.curves_at > CURVES_EVERY_S):
            log_workers(run, new)
            done = replace(done, curves=new[-1].round, curves_at=now)
    except (*TROUBLE, FedroundsError) as error:
        failures = progress.failures + 1
        pause = min(2.0 ** (failures - 1), LONGEST_PAUSE_S)
        return replace(done, trouble=_cause(error), failures=failures, retry_at=time.time() + pause)
    return replace(done, trouble="", failures=0)


def _missing(
    run: Run,
    records: Sequence[RoundRecord],
    *,
    after: int,
    folder: RunFolder,
    latest: ModelState | None,
) -> Iterator[tuple[int, ModelState | None]]:
    """The rounds whose model is to be told, with None for one that is there or is gone."""
    rounds = [record.round for record in records if record.round > after]
    if latest is not None and rounds == [records[-1].round]:
        yield rounds[0], latest
        return
    # Several: a run goes on, or MLflow was away. A file of the right size is whole.
    there = model_rounds(run) if rounds else {}
    kept = set(folder.rounds()) if rounds else set()
    for round in rounds:
        model = folder.load(round).model if round in kept else None
        whole = model is not None and there.get(round) == len(model_bytes(model))
        yield round, None if whole else model


def settle(
    run: Run,
    records: Sequence[RoundRecord],
    *,
    progress: Progress,
    folder: RunFolder,
    patience: float = PATIENCE_S,
) -> Progress:
    """Catch up at the end, trying for `patience` seconds; `trouble` tells if it did not work."""
    until = time.time() + patience
    done = replace(progress, retry_at=0.0)
    while True:
        done = keep_up(run, records, progress=done, folder=folder, at_once=True)
        if not done.trouble or done.retry_at > until:
            return done
        time.sleep(max(0.0, done.retry_at - time.time()))


def attempt(action: Callable[[], object], *, doing: str, patience: float = PATIENCE_S) -> str:
    """Do something with MLflow, trying for `patience` seconds. Returns why it failed, or nothing.

    >>> attempt(lambda: None, doing="close the run")
    ''
    """
    until, pause = time.time() + patience, 1.0
    while True:
        try:
            action()
        except TROUBLE as error:
            if time.time() + pause > until:
                return f"MLflow must answer to {doing}; {_cause(error)}"
        else:
            return ""
        time.sleep(pause)
        pause *= 2


def _cause(error: BaseException) -> str:
    uri = tracking_uri()
    return f"{public(uri)} failed: {type(error).__name__}: {first_line(error, uri)}"


@dataclass
class Tracker:
    """How far MLflow is with one training. Not a value: it holds what has been told so far."""

    run: Run
    folder: RunFolder
    progress: Progress = field(default_factory=Progress)
    _alone: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Two threads that tell of the same workers at once would open two runs for each."""

    def round(self, records: Sequence[RoundRecord], model: ModelState | None = None) -> None:
        """A round is committed: tell MLflow of it, and of what it missed. Never raises for MLflow.

        `records` are all rounds so far; `model` is the one after the last of them.
        """
        with self._alone:
            self.progress = keep_up(
                self.run, records, progress=self.progress, folder=self.folder, latest=model
            )

    def settle(self, records: Sequence[RoundRecord], *, patience: float = PATIENCE_S) -> str:
        """The last round is committed: catch up. Returns the trouble in one message, or nothing."""
        with self._alone:
            self.progress = settle(
                self.run, records, progress=self.progress, folder=self.folder, patience=patience
            )
        if not self.progress.trouble:
            return ""
        last = records[-1].round if records else 0
        return (
            f"MLflow must hold all {last} rounds; it holds {self.progress.metrics} of them: "
            f"{self.progress.trouble}; the checkpoints are complete, resume {self.run.id} when "
            "MLflow is back to tell it the rest."
        )
