"""What a worker keeps between verbs, and whom it answers: shared by every kind of worker here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fedcore.errors import FedroundsError, WorkerFailed, WorkerRefused
from fedcore.store import fetch, open_store
from fedcore.values import Brief, Ref, Ticket

__all__ = ["Custody"]

T = TypeVar("T")


@dataclass(frozen=True)
class Custody:
    """A worker's store: each ticket's work is done once, and only its own pointers are taken."""

    owner: str
    store: str

    def receive(self, brief: Ref) -> Ref:
        """Take a brief in, if its disclosure is one that is kept here.

        Raises:
            WorkerRefused: it is not.
        """
        with self.guarded("send", brief):
            received = fetch(brief, Brief)
            if received.disclosure != "open":
                reason = "only the disclosure `open` is known here"
                raise self.refusal("send", brief, reason)
            return self.once(received.ticket, lambda: received, kind=Brief)

    def once(self, ticket: Ticket, make: Callable[[], object], *, kind: type) -> Ref:
        """A pointer to what `make` returns, which is called for a ticket once."""
        key = f"{ticket.key}/{kind.__name__}"
        open_store(self.store).once(key, make)
        return Ref(owner=self.owner, kind=kind.__name__, store=self.store, key=key, ticket=ticket)

    def own(self, ref: Ref, kind: type[T], *, verb: str) -> T:
        """What a pointer names, if it is this worker's and of this kind.

        Raises:
            WorkerRefused: it is not; a pointer to data never is.
        """
        if ref.owner != self.owner or ref.kind != kind.__name__:
            raise self.refusal(
                verb,
                ref,
                f"{verb} needs a pointer to a {kind.__name__} of {self.owner}; "
                f"given: a pointer to a {ref.kind} of {ref.owner}",
            )
        return fetch(ref, kind)

    def forget(self, ticket: Ticket) -> None:
        """Drop what was kept for retries of this ticket."""
        open_store(self.store).drop(f"{ticket.key}/")

    def refusal(self, verb: str, ref: Ref, reason: str) -> WorkerRefused:
        """The error that says who refused what."""
        return WorkerRefused(
            f"{reason}; pass on what the verb before returned",
            worker=self.owner,
            verb=verb,
            round=ref.ticket.round if ref.ticket else 0,
        )

    @contextmanager
    def guarded(self, verb: str, ref: Ref) -> Iterator[None]:
        """Name worker, verb and round on whatever the worker's own code raises."""
        try:
            yield
        except FedroundsError:
            raise
        except Exception as error:
            round = ref.ticket.round if ref.ticket else 0
            first = (str(error).splitlines() or [""])[0]
            raise WorkerFailed(
                f"its code raised {type(error).__name__}: {first}",
                worker=self.owner,
                verb=verb,
                round=round,
            ) from error
