"""The Worker contract."""

from typing import Protocol

from fedcore.values import Description, Ref, Ticket

__all__ = ["Worker"]


class Worker(Protocol):
    """A data holder, used through a few verbs; its records never leave it.

    A handle is small and picklable: it names the worker, its store and its data, and holds none.
    Each verb does a ticket's work once: asked again, it returns the same pointer. What comes back
    is a pointer; only what `fetch` and `evaluate` return may be read by the coordinator.

    Every verb raises WorkerRefused for a pointer that is not its own or not of the right kind (a
    pointer to data is never the right kind), and WorkerFailed when its own code fails.
    """

    @property
    def id(self) -> str:
        """The worker's name, distinct within a training."""

    @property
    def count(self) -> int:
        """Data holders behind this handle."""

    def describe(self) -> Description:
        """Counts and schema that the owner lets out, never records."""

    def send(self, brief: Ref) -> Ref:
        """Receive a brief; the model now lives at the worker."""

    def train(self, model: Ref) -> Ref:
        """Train as the brief says; the update stays at the worker."""

    def fetch(self, update: Ref) -> Ref:
        """Seal the update: the pointer returned is to what its disclosure lets out."""

    def evaluate(self, model: Ref) -> Ref:
        """Measure the model on the worker's records; the pointer is to sums, sealed likewise."""

    def forget(self, ticket: Ticket) -> None:
        """The ticket's round is committed: what was kept for retries may go."""
