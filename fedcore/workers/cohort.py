"""CohortWorker: many simulated data holders behind one handle, trained together."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.cohort import CohortUpdate, Engine, participate_together
from fedcore.cohort.evaluation import evaluate_together, measures_together
from fedcore.contributions import Contributions
from fedcore.data.holdings import Holdings
from fedcore.remembering import Remembered
from fedcore.shares import share
from fedcore.store import LIVE, fetch, put
from fedcore.values import Brief, Description, Ref, Sealed, Ticket
from fedcore.workers.custody import Custody
from fedcore.workers.memory import Memory
from fedcore.workers.virtual import evaluated_on

__all__ = ["CohortWorker"]

MOST_TOLD = 1000
"""Workers up to which each one's labels are told: nobody looks at those of more."""


RECORDS = "simulated"
"""The store of the records that all hosts read."""


@dataclass(frozen=True)
class CohortWorker:
    """Simulated workers whose records lie in one store: the same numbers as as many virtual ones.

    A round asks the handle once, however many workers it stands for; it answers with their sum
    where the aggregator is linear, and with a row for each where it is not.

    The roster of `roster` workers may be shared by several `hosts`, of which this is number `host`,
    from 0. All of them read the same records, so each trains an equal share of whoever is drawn
    (`fedcore.sampling.choose`). Where everybody counts, as in an evaluation, a host stands for
    `count` neighbours in the roster.
    """

    id: str
    store: str
    data: Ref
    roster: int
    host: int = 0
    hosts: int = 1
    engine: Engine = "auto"
    memory: Memory = Memory(LIVE)

    @classmethod
    def holding(
        cls,
        id: str,
        data: Holdings,
        *,
        engine: Engine = "auto",
        stores: str = LIVE,
        memories: str = LIVE,
    ) -> "CohortWorker":
        """A handle for all of these workers."""
        (alone,) = cls.sharing([id], data, engine=engine, stores=stores, memories=memories)
        return alone

    @classmethod
    def sharing(
        cls,
        ids: Sequence[str],
        data: Holdings,
        *,
        engine: Engine = "auto",
        stores: str = LIVE,
        memories: str = LIVE,
    ) -> list["CohortWorker"]:
        """A handle of each name, for all of these workers between them.

        The URLs of the store of the records and of each handle's own begin with `stores`, that of
        what the workers remember with `memories`.
        """
        kept = put(f"{stores}{RECORDS}", f"data/{data.fingerprint}", data, owner=RECORDS)
        memory, hosts = Memory(memories), len(ids)
        return [
            cls(id, f"{stores}{id}", kept, len(data), host, hosts, engine, memory)
            for host, id in enumerate(ids)
        ]

    @property
    def count(self) -> int:
        """Workers that this host stands for."""
        return len(self._range)

    @property
    def custody(self) -> Custody:
        """What it keeps between verbs."""
        return Custody(self.id, self.store)

    def describe(self) -> Description:
        """Counts, schema and fingerprint of all its workers' records together."""
        data = self._own
        return Description(
            worker=self.id,
            records=len(data.records),
            inputs=data.records.inputs,
            labels=data.records.label_counts,
            fingerprint=data.fingerprint,
            workers=len(data),
            members=_labels_of_each(data),
        )

    def send(self, brief: Ref) -> Ref:
        """Receive a brief, once for all."""
        return self.custody.receive(brief)

    def train(self, model: Ref) -> Ref:
        """Train the workers that the brief has chosen, all at once."""
        with self.custody.guarded("train", model):
            brief = self.custody.own(model, Brief, verb="train")

            def work() -> CohortUpdate:
                data, members = fetch(self.data, Holdings), self._members(brief)
                names = [data.workers[k] for k in members]
                before = self.memory.recall(brief, names)
                made, after = participate_together(
                    brief, data, members, engine=self.engine, remembered=before
                )
                self.memory.keep(brief, dict(zip(names, after, strict=False)))
                return made

            return self.custody.once(brief.ticket, work, kind=CohortUpdate)

    def fetch(self, update: Ref) -> Ref:
        """Seal the update: a sum or rows, as the brief asked."""
        with self.custody.guarded("fetch", update):
            made = self.custody.own(update, CohortUpdate, verb="fetch")

            def seal() -> Sealed:
                return Sealed(
                    made.ticket,
                    made.contributions,
                    rows=made.rows,
                    sums=made.sums,
                    engine=made.engine,
                )

            return self.custody.once(made.ticket, seal, kind=Sealed)

    def evaluate(self, model: Ref) -> Ref:
        """Loss and metrics of the received model on each worker's records, as sums."""
        with self.custody.guarded("evaluate", model):
            brief = self.custody.own(model, Brief, verb="evaluate")

            def work() -> Contributions:
                data = self._own
                if measures_together(brief):
                    return evaluate_together(brief, data)
                own = self.memory.recall(brief, data.workers) or [Remembered()] * len(data)
                found = [
                    evaluated_on(brief, own[k], data.of(k), worker=worker)
                    for k, worker in enumerate(data.workers)
                ]
                return Contributions.of(found)

            return self.custody.once(brief.ticket, work, kind=Contributions)

    def forget(self, ticket: Ticket) -> None:
        """Drop what was kept for retries of this ticket."""
        self.custody.forget(ticket)

    def _members(self, brief: Brief) -> Sequence[int]:
        """Positions in the roster of those whom it trains."""
        if brief.chosen is None:
            return self._range
        drawn: list[int] = brief.chosen.tolist()
        if self.hosts == self.roster:
            return [worker for worker in drawn if worker == self.host]
        own = share(len(drawn), host=self.host, hosts=self.hosts)
        return drawn[own.start : own.stop]

    @property
    def _range(self) -> range:
        return share(self.roster, host=self.host, hosts=self.hosts)

    @property
    def _own(self) -> Holdings:
        return fetch(self.data, Holdings).part(self._range)


def _labels_of_each(data: Holdings) -> dict[str, dict[str, int]]:
    """Records per class, none without classes, by worker; empty of too many workers."""
    if len(data) > MOST_TOLD:
        return {}
    if (counts := data.label_counts) is None:
        return {worker: {} for worker in data.workers}
    rows = zip(data.workers, counts.tolist(), strict=True)
    return {worker: dict(zip(data.records.classes, row, strict=True)) for worker, row in rows}
