"""GroupWorker: a worker that coordinates workers of its own, and answers for all of them as one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256

from torch import Tensor

from fedcore.contributions import Contribution, Contributions
from fedcore.errors import Incompatible, WorkerError, WorkerFailed
from fedcore.store import LIVE, fetch, put
from fedcore.totals import Total
from fedcore.trees import Layout
from fedcore.values import Brief, Description, ModelState, Ref, Sealed, Ticket, Update
from fedcore.weightings import ByRecords
from fedcore.workers.custody import Custody
from fedcore.workers.virtual import sealed_alone
from fedcore.workers.worker import Worker

__all__ = ["GroupWorker"]

FEWEST = 2
"""The mean of a group of one is that member's own weights."""


@dataclass(frozen=True)
class GroupWorker:
    """Workers whose training is averaged before the coordinator learns of it.

    Between two rounds of the coordinator, the members train and are averaged in `inner_rounds`
    rounds of their own, weighted by records; the last mean goes up, with the records of all. To
    the coordinator that is one worker: names, numbers and errors of single members stay here.

    A member may be any kind of worker, another group too. The group answers only when all of its
    members did, and fails as one worker otherwise: means over all and over all but one, side by
    side, would tell what that one adds.

    Liu et al. 2020, Client-Edge-Cloud Hierarchical Federated Learning, algorithm 1 (HierFAVG):
    the groups are its edge servers, `local` its kappa_1, `inner_rounds` its kappa_2.
    """

    id: str
    store: str
    members: tuple[Worker, ...]
    inner_rounds: int = 1
    count: int = 1

    @classmethod
    def of(
        cls, id: str, members: Sequence[Worker], *, inner_rounds: int = 1, stores: str = LIVE
    ) -> "GroupWorker":
        """A group of these workers. The URL of its store is its name after `stores`.

        Raises:
            Incompatible: fewer than two members, or two of one name.
        """
        names = [member.id for member in members]
        if len(members) < FEWEST or len(set(names)) < len(names):
            raise Incompatible(
                f"A group must have at least {FEWEST} members of distinct names; given: "
                f"{', '.join(names) or 'none'} in {id}; put more workers into it."
            )
        return cls(id, f"{stores}{id}", tuple(members), inner_rounds)

    @property
    def custody(self) -> Custody:
        """What it keeps between verbs."""
        return Custody(self.id, self.store)

    def describe(self) -> Description:
        """Counts, schema and fingerprint of all members' records, as if one worker held them.

        Raises:
            Incompatible: the members' features have different shapes.
        """
        each = [member.describe() for member in self.members]
        inputs = {description.inputs for description in each}
        if len(inputs) > 1:
            raise Incompatible(
                f"The members of {self.id} must have features of one shape; given: "
                f"{sorted(inputs)}; align their data."
            )
        labels: dict[str, int] = {}
        for description in each:
            for label, records in description.labels.items():
                labels[label] = labels.get(label, 0) + records
        return Description(
            worker=self.id,
            records=sum(description.records for description in each),
            turns=self.inner_rounds * sum(description.turns for description in each),
            inputs=each[0].inputs,
            labels=labels,
            fingerprint=sha256("".join(d.fingerprint for d in each).encode()).hexdigest(),
        )

    def send(self, brief: Ref) -> Ref:
        """Receive a brief."""
        return self.custody.receive(brief)

    def train(self, model: Ref) -> Ref:
        """Have the members train, and average them, `inner_rounds` times."""
        with self._speaking("train", model), self.custody.guarded("train", model):
            brief = self.custody.own(model, Brief, verb="train")
            return self.custody.once(brief.ticket, lambda: self._trained(brief), kind=Update)

    def fetch(self, update: Ref) -> Ref:
        """Seal the mean, as one row."""
        with self.custody.guarded("fetch", update):
            made = self.custody.own(update, Update, verb="fetch")
            return self.custody.once(
                made.ticket, lambda: sealed_alone(made, worker=self.id), kind=Sealed
            )

    def evaluate(self, model: Ref) -> Ref:
        """Loss and metrics of the received model on all members' records, as one worker's sums."""
        with self._speaking("evaluate", model), self.custody.guarded("evaluate", model):
            brief = self.custody.own(model, Brief, verb="evaluate")

            def work() -> Contributions:
                refs = [member.evaluate(member.send(model)) for member in self.members]
                found = Contributions.joined(fetch(ref, Contributions) for ref in refs)
                return Contributions.of([self._added([found], weight=found.weights)])

            return self.custody.once(brief.ticket, work, kind=Contributions)

    def forget(self, ticket: Ticket) -> None:
        """Drop what was kept for retries of this ticket, at the members too."""
        for each in (ticket, *self._inner(ticket)):
            self.custody.forget(each)
            for member in self.members:
                member.forget(each)

    def _trained(self, brief: Brief) -> Update:
        """The mean after the last inner round; measures are sums over all of them."""
        model, found = brief.model, list[Contributions]()
        for ticket in self._inner(brief.ticket):
            told = replace(
                brief, ticket=ticket, model=model, answer="sum", weightings=(ByRecords(),),
                chosen=None,
            )  # fmt: skip
            model, contributions = self._round(told)
            found.append(contributions)
        all_in = self._added(found, weight=found[-1].weights)
        return Update(brief.ticket, model.averaged, all_in.weight, all_in.measures)

    def _round(self, brief: Brief) -> tuple[ModelState, Contributions]:
        """sum_k n_k / n w_k over the members, and who they were."""
        key = f"{brief.ticket.key}/Brief"
        told = put(self.store, key, brief, owner=self.id, ticket=brief.ticket)
        refs = [member.fetch(member.train(member.send(told))) for member in self.members]
        sealed = [fetch(ref, Sealed) for ref in refs]
        total = Total.of(sealed, answer=brief.answer, weightings=brief.weightings)
        layout = Layout.of(brief.model.averaged)
        start = layout.flatten(brief.model.averaged).double()
        mean = start + total.mean(start, ByRecords(), place=0)
        return brief.model.replaced(layout.unflatten(mean)), total.contributions

    def _inner(self, ticket: Ticket) -> list[Ticket]:
        """The tickets of the inner rounds, which count on through the training: no two of them
        draw the same random numbers, and with one in each round they draw those of no group."""
        before = (ticket.round - 1) * self.inner_rounds
        numbers = range(before + 1, before + self.inner_rounds + 1)
        return [Ticket(f"{ticket.run}/{self.id}", n, ticket.attempt) for n in numbers]

    def _added(self, found: Sequence[Contributions], *, weight: Tensor) -> Contribution:
        """All of them as this one worker's contribution."""
        measures = {
            name: sum(float(each.measures[name].sum()) for each in found)
            for name in found[0].measures
        }
        return Contribution(self.id, float(weight.sum()), measures)

    @contextmanager
    def _speaking(self, verb: str, ref: Ref) -> Iterator[None]:
        """Say what went wrong at a member as the group's own trouble, without its name."""
        try:
            yield
        except WorkerError as error:
            if error.worker == self.id:
                raise
            failed = isinstance(error, WorkerFailed)
            reason = error.reason if failed else f"a member's answer was {type(error).__name__}"
            round = ref.ticket.round if ref.ticket else 0
            raise type(error)(reason, worker=self.id, verb=verb, round=round) from None
