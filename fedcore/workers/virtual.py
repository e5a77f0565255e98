"""VirtualWorker: a data holder in this process (bob, alice)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fedcore.data.dataset import Dataset
from fedcore.errors import FedroundsError, WorkerFailed, WorkerRefused
from fedcore.initial import load_into
from fedcore.local import module_for, train_locally
from fedcore.metrics import measure as sums_of
from fedcore.store import fetch, open_store, put
from fedcore.trees import Layout
from fedcore.values import Brief, Contribution, Description, Ref, Sealed, Ticket, Update

__all__ = ["VirtualWorker"]

T = TypeVar("T")


@dataclass(frozen=True)
class VirtualWorker:
    """A worker whose records lie in a store of this process.

    >>> import torch
    >>> bob = VirtualWorker.holding("bob", Dataset(torch.zeros(2, 3), torch.zeros(2, 1)))
    >>> bob.describe().records
    2
    """

    id: str
    store: str
    data: Ref
    count: int = 1

    @classmethod
    def holding(cls, id: str, data: Dataset) -> "VirtualWorker":
        """A worker that holds these records: they are put in its store, the handle points there."""
        url = f"live:{id}"
        # The key names the content, so two trainings in one process may both have a bob.
        return cls(id, url, put(url, f"data/{data.fingerprint}", data, owner=id))

    def describe(self) -> Description:
        """Counts, schema and fingerprint of the records."""
        data = fetch(self.data, Dataset)
        return Description(
            worker=self.id,
            records=len(data),
            inputs=data.inputs,
            labels=data.label_counts,
            fingerprint=data.fingerprint,
        )

    def send(self, brief: Ref) -> Ref:
        """Receive a brief."""
        with self._guarded("send", brief):
            received = fetch(brief, Brief)
            if received.disclosure != "open":
                raise self._refusal("send", brief, "only the disclosure `open` is known here")
            return self._once(received.ticket, lambda: received, kind=Brief)

    def train(self, model: Ref) -> Ref:
        """Train as the brief says."""
        with self._guarded("train", model):
            brief = self._own(model, Brief, verb="train")

            def work() -> Update:
                return train_locally(brief, fetch(self.data, Dataset), worker=self.id)

            return self._once(brief.ticket, work, kind=Update)

    def fetch(self, update: Ref) -> Ref:
        """Seal the update; under `open` that is the update in the clear, as one row."""
        with self._guarded("fetch", update):
            made = self._own(update, Update, verb="fetch")

            def seal() -> Sealed:
                row = Layout.of(made.trained).flatten(made.trained)
                who = Contribution(self.id, made.weight, dict(made.measures))
                return Sealed(made.ticket, row.unsqueeze(0), (who,))

            return self._once(made.ticket, seal, kind=Sealed)

    def evaluate(self, model: Ref) -> Ref:
        """Loss and metrics of the received model on the worker's records, as sums."""
        with self._guarded("evaluate", model):
            brief = self._own(model, Brief, verb="evaluate")

            def measure() -> Contribution:
                data = fetch(self.data, Dataset)
                module = module_for(brief.blueprint)
                load_into(module, brief.model)
                settings = brief.blueprint.model
                found = sums_of(module, data, loss=settings.loss, metrics=settings.metrics)
                return Contribution(
                    self.id, float(len(data)), {**found.sums, "seen": float(found.count)}
                )

            return self._once(brief.ticket, measure, kind=Contribution)

    def forget(self, ticket: Ticket) -> None:
        """Drop what was kept for retries of this ticket."""
        open_store(self.store).drop(f"{ticket.key}/")

    def _once(self, ticket: Ticket, make: Callable[[], object], *, kind: type) -> Ref:
        key = f"{ticket.key}/{kind.__name__}"
        open_store(self.store).once(key, make)
        return Ref(owner=self.id, kind=kind.__name__, store=self.store, key=key, ticket=ticket)

    def _own(self, ref: Ref, kind: type[T], *, verb: str) -> T:
        if ref.owner != self.id or ref.kind != kind.__name__:
            raise self._refusal(
                verb,
                ref,
                f"{verb} needs a pointer to a {kind.__name__} of {self.id}; "
                f"given: a pointer to a {ref.kind} of {ref.owner}",
            )
        return fetch(ref, kind)

    def _refusal(self, verb: str, ref: Ref, reason: str) -> WorkerRefused:
        round = ref.ticket.round if ref.ticket else 0
        return WorkerRefused(
            f"{reason}; pass on what the verb before returned",
            worker=self.id,
            verb=verb,
            round=round,
        )

    @contextmanager
    def _guarded(self, verb: str, ref: Ref) -> Iterator[None]:
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
                worker=self.id,
                verb=verb,
                round=round,
            ) from error
