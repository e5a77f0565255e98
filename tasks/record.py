"""Committing a round, in this order: checkpoint, then MLflow, then what people look at.

A round counts when its checkpoint is there. Everything after that is told again from the
checkpoints if it is lost.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from fedcore.checkpoint import RunFolder
from fedcore.rounds import FEW_WORKERS
from fedcore.values import Contributions, Description, RoundRecord, ServerState
from tasks import report
from tasks.tracking import Run, Tracker

__all__ = ["Recorder", "logger", "record"]

# The command line listens to this logger, and Prefect carries it into the flow run's log.
logger = logging.getLogger("fedrounds")
logger.setLevel(logging.INFO)  # the root's WARNING would keep every round from being told

FEW = 4
"""As many workers as get their losses on a round's line."""
TABLES_EVERY_S = 3.0
"""Tables of all rounds grow with the rounds: sending them this often is enough to watch."""
PROGRESS_EVERY_S = 0.5
"""A call to the server costs as much as a task run."""


@dataclass
class Recorder:
    """Where a running training is recorded. Not a value: it holds what has been told so far."""

    run: Run
    folder: RunFolder
    tracker: Tracker
    rounds: int
    descriptions: Sequence[Description]
    progress: UUID
    records: list[RoundRecord] = field(default_factory=list)
    tables_at: float = 0.0
    progress_at: float = 0.0
    forgotten: int = 0
    engines: dict[str, str] = field(default_factory=dict)

    def tables(self) -> None:
        """The tables of rounds and workers, as of now."""
        report.rounds_table(self.records)
        report.workers_table(self.descriptions, self.records)
        self.tables_at = time.monotonic()

    def let_go(self) -> None:
        """Of many workers, forget each one's part in the rounds that MLflow has been told of: it
        lies in the checkpoints, and thousands of them a round would fill the memory."""
        if self.run.workers <= FEW_WORKERS:
            return
        told = self.tracker.progress.curves
        for place in range(self.forgotten, told):
            self.records[place] = replace(
                self.records[place], contributions=Contributions(), evaluated=Contributions()
            )
        self.forgotten = max(self.forgotten, told)


def record(run: Recorder, state: ServerState) -> None:
    """Commit the round that `state` ends with."""
    assert state.record is not None, "only a finished round can be recorded"
    run.folder.save(state)
    run.records.append(state.record)
    run.tracker.round(run.records, state.model)
    run.let_go()
    for host, engine in state.record.engines.items():
        # What it shares in detail follows from who was drawn; that is in the table of workers.
        if run.engines.get(host, "").partition(":")[0] != engine.partition(":")[0]:
            logger.info("%s trains its workers %s", host, _how(engine))
    run.engines |= state.record.engines
    logger.info(_line(state.record, run.rounds), extra={"record": state.record})
    if time.monotonic() - run.progress_at > PROGRESS_EVERY_S:
        report.progress(run.progress, done=state.round, rounds=run.rounds)
        run.progress_at = time.monotonic()
    if time.monotonic() - run.tables_at > TABLES_EVERY_S:
        run.tables()


def _how(engine: str) -> str:
    """`low_rank: 2 of 3 ...` as what a person reads."""
    name, _, why = engine.partition(": ")
    words = {"low_rank": "together", "stacked": "together", "loop": "one by one"}
    return f"{words.get(name, 'in its own way')}, engine {name}: {why}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _line(record: RoundRecord, rounds: int) -> str:
    shown = [f"round {record.round} of {rounds}", f"train loss {record.metrics['train_loss']:.4f}"]
    told = [name for name in record.metrics if name.startswith("test_")]
    for name in record.metrics:
        if name.endswith("_worst"):  # of the workers' figures, what a person wants to see at once
            told += [name.removesuffix("_worst"), name]
    shown += [f"{name.replace('_', ' ')} {record.metrics[name]:.4f}" for name in told]
    if 1 < len(record.contributions) <= FEW:
        shown += [f"{c.worker} {c.train_loss:.4f}" for c in record.contributions]
    else:
        shown.append(_counted(len(record.contributions), "worker"))
    shown += [f"without {worker} ({why})" for worker, why in sorted(record.missing.items())]
    silent = sorted(record.unmeasured.items())
    shown += [f"not measured at {worker} ({why})" for worker, why in silent]
    return ", ".join(shown)
