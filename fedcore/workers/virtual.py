"""VirtualWorker: a data holder in this process (bob, alice)."""

from dataclasses import dataclass

from fedcore.contributions import Contribution, Contributions
from fedcore.data.dataset import Dataset
from fedcore.initial import load_into
from fedcore.local import module_for, train_locally
from fedcore.metrics import measure as sums_of
from fedcore.participation import participate, used_by
from fedcore.remembering import Remembered
from fedcore.store import LIVE, fetch, put
from fedcore.trees import Layout
from fedcore.values import Brief, Description, Ref, Sealed, Ticket, Update
from fedcore.workers.custody import Custody
from fedcore.workers.memory import Memory

__all__ = ["VirtualWorker"]


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
    memory: Memory = Memory(LIVE)
    count: int = 1

    @classmethod
    def holding(
        cls, id: str, data: Dataset, *, stores: str = LIVE, memories: str = LIVE
    ) -> "VirtualWorker":
        """A worker that holds these records: they are put in its store, the handle points there.

        The store's URL is its name after `stores`; what it remembers of a training lies at a URL
        that begins with `memories`.
        """
        url = f"{stores}{id}"
        # The key names the content, so two trainings in one process may both have a bob.
        kept = put(url, f"data/{data.fingerprint}", data, owner=id)
        return cls(id, url, kept, Memory(memories))

    @property
    def custody(self) -> Custody:
        """What it keeps between verbs."""
        return Custody(self.id, self.store)

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
        return self.custody.receive(brief)

    def train(self, model: Ref) -> Ref:
        """Train as the brief says."""
        with self.custody.guarded("train", model):
            brief = self.custody.own(model, Brief, verb="train")

            def work() -> Update:
                data = fetch(self.data, Dataset)
                if not (brief.remembers or brief.needs):
                    return train_locally(brief, data, worker=self.id)
                (before,) = self.memory.recall(brief, [self.id]) or [Remembered()]
                made, after = participate(brief, data, worker=self.id, remembered=before)
                if brief.remembers:
                    self.memory.keep(brief, {self.id: after})
                return made

            return self.custody.once(brief.ticket, work, kind=Update)

    def fetch(self, update: Ref) -> Ref:
        """Seal the update; under `open` that is the update in the clear, as one row."""
        with self.custody.guarded("fetch", update):
            made = self.custody.own(update, Update, verb="fetch")

            return self.custody.once(
                made.ticket, lambda: sealed_alone(made, worker=self.id), kind=Sealed
            )

    def evaluate(self, model: Ref) -> Ref:
        """Loss and metrics of the received model on the worker's records, as sums."""
        with self.custody.guarded("evaluate", model):
            brief = self.custody.own(model, Brief, verb="evaluate")

            def work() -> Contributions:
                (own,) = self.memory.recall(brief, [self.id]) or [Remembered()]
                data = fetch(self.data, Dataset)
                return Contributions.of([evaluated_on(brief, own, data, worker=self.id)])

            return self.custody.once(brief.ticket, work, kind=Contributions)

    def forget(self, ticket: Ticket) -> None:
        """Drop what was kept for retries of this ticket."""
        self.custody.forget(ticket)


def sealed_alone(update: Update, *, worker: str) -> Sealed:
    """An update in the clear, as the one row of whoever made it."""
    row = Layout.of(update.trained).flatten(update.trained)
    who = Contribution(worker, update.weight, dict(update.measures))
    return Sealed(update.ticket, Contributions.of([who]), rows=row.unsqueeze(0))


def evaluated_on(
    brief: Brief, remembered: Remembered, data: Dataset, *, worker: str
) -> Contribution:
    """Loss and metrics on these records, as sums over `seen`: of the brief's model, or of the
    worker's own where it has one."""
    module = module_for(brief.blueprint)
    load_into(module, used_by(brief, remembered))
    settings = brief.blueprint.model
    found = sums_of(module, data, loss=settings.loss, metrics=settings.metrics)
    return Contribution(worker, float(len(data)), {**found.sums, "seen": float(found.count)})
