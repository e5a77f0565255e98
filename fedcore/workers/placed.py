"""A worker whose verbs run in another process of the coordinator's own: on Dask or Ray."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from fedcore.errors import WorkerUnreachable
from fedcore.values import Description, Ref, Ticket
from fedcore.workers.worker import Worker

__all__ = ["Placed", "Processes"]


class Processes(Protocol):
    """Processes that do what they are given."""

    @property
    def count(self) -> int:
        """How many verbs run at a time."""

    def call(self, verb: Callable[[Ref], Ref], ref: Ref) -> Ref:
        """What `verb` makes of `ref`, in whichever process is free.

        Both are pickled on the way, which is safe between processes of one owner: they are
        handles and pointers, and hold neither records nor tensors.

        Raises:
            ConnectionError: the process died, or the cluster cannot be reached.
            Whatever the verb raises.
        """


@dataclass(frozen=True)
class Placed:
    """The same worker, whose computing is done elsewhere.

    Its store must be one that these processes can reach. Any process can then serve any verb, so
    only those that compute are worth a trip of some milliseconds.
    """

    worker: Worker
    processes: Processes

    @property
    def id(self) -> str:
        """The worker's name."""
        return self.worker.id

    @property
    def count(self) -> int:
        """Data holders behind the handle."""
        return self.worker.count

    def describe(self) -> Description:
        """Counts and schema, read here: the coordinator has dealt the records out."""
        return self.worker.describe()

    def send(self, brief: Ref) -> Ref:
        """Receive a brief, here."""
        return self.worker.send(brief)

    def train(self, model: Ref) -> Ref:
        """Train as the brief says."""
        return self._there(self.worker.train, model, verb="train")

    def fetch(self, update: Ref) -> Ref:
        """Seal the update, here."""
        return self.worker.fetch(update)

    def evaluate(self, model: Ref) -> Ref:
        """Measure the model on the worker's records."""
        return self._there(self.worker.evaluate, model, verb="evaluate")

    def forget(self, ticket: Ticket) -> None:
        """Drop what was kept for retries of this ticket."""
        self.worker.forget(ticket)

    def _there(self, run: Callable[[Ref], Ref], ref: Ref, *, verb: str) -> Ref:
        try:
            return self.processes.call(_Alone(run), ref)
        except ConnectionError as lost:
            round = ref.ticket.round if ref.ticket else 0
            raise WorkerUnreachable(str(lost), worker=self.id, verb=verb, round=round) from None


@dataclass(frozen=True)
class _Alone:
    """A verb on one intra-op thread, as in every process that trains: a sum that is split over
    threads has other bits on another machine."""

    run: Callable[[Ref], Ref]

    def __call__(self, ref: Ref) -> Ref:
        torch.set_num_threads(1)
        return self.run(ref)
