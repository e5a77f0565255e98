"""Before the command ends: every task run that was executed is on the server.

Prefect sends the states of task runs in the background and the server stores them in batches.
A command that ends at once loses what is still on its way.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.worker import EventsWorker

__all__ = ["Drained", "TaskRunCount", "counted_task_runs", "drain"]

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# Ids asked for in one request; SQLite takes at most 32,766 values in a statement.
CHUNK = 5_000


@dataclass(frozen=True)
class TaskRunCount:
    """The ids of the task runs that this process has finished."""

    finished: set[str] = field(default_factory=set)

    def add(self, event: Event) -> None:
        """Take note of `event` where it is a task run's final state."""
        if event.resource.get("prefect.state-type") in FINAL:
            kind, _, identity = event.resource.id.rpartition(".")
            if kind == "prefect.task-run":
                self.finished.add(identity)


@contextmanager
def counted_task_runs() -> Iterator[TaskRunCount]:
    """Count the task runs that finish in this process during the block.

    Prefect has no such count, and offers no place to listen: it refuses clients of events that
    are not its own. So the method through which all its events go is wrapped for the while.
    """
    count = TaskRunCount()
    send = EventsWorker.send

    def counting(worker: EventsWorker, item: Event) -> None:
        send(worker, item)
        count.add(item)

    setattr(EventsWorker, "send", counting)  # noqa: B010 - a method, which mypy guards
    try:
        yield count
    finally:
        delattr(EventsWorker, "send")  # the inherited one shows again


@dataclass(frozen=True)
class Drained:
    """How many task runs were executed here, and how many of these the server holds."""

    executed: int
    recorded: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing on the server."""
        return self.recorded == self.executed


def drain(count: TaskRunCount, *, timeout: float = 30.0) -> Drained:
    """Send what waits in this process, then wait until the server has stored it.

    Takes as long as the server's batch interval, about a second. Returns what there is after
    `timeout` seconds; a training is none the worse for a missing record, so this never raises
    for one.
    """
    deadline = time.monotonic() + timeout
    EventsWorker.drain_all(timeout=timeout, at_exit=False)  # the log lines, too
    executed = len(count.finished)
    while True:
        drained = Drained(executed, _recorded(count))
        if drained.complete or time.monotonic() > deadline:
            return drained
        time.sleep(0.1)


def _recorded(count: TaskRunCount) -> int:
    waiting, total = iter(count.finished), 0
    with get_client(sync_client=True) as client:
        while ids := list(islice(waiting, CHUNK)):
            task_runs = {"id": {"any_": ids}, "state": {"type": {"any_": FINAL}}}
            answer = client.request("POST", "/task_runs/count", json={"task_runs": task_runs})
            total += int(answer.json())
    return total
