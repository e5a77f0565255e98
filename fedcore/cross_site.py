"""Every worker's local model on every worker's records: who would gain from whose training.

A local model is the last common one after one more local training that nobody aggregates, as in
round R + 1 of R, at the learning rate of the last round and without what a strategy remembers
against drift. NVIDIA FLARE calls it cross-site evaluation (Roth et al. 2022, NVIDIA FLARE:
Federated Learning from Simulation to Real-World), and measures the server's model beside them, too.
Letters: M models, K workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedcore.admission import admitted
from fedcore.errors import QuorumNotMet, WorkerError
from fedcore.evaluation import evaluation_brief
from fedcore.federation import Federation
from fedcore.metrics import Measured, meter
from fedcore.models import Blueprint
from fedcore.rounds import publish
from fedcore.store import fetch, open_store
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.trees import Layout
from fedcore.values import Brief, Contributions, ModelState, Ref, ServerState
from fedcore.weightings import ByRecords
from fedcore.workers.worker import Worker

__all__ = [
    "COMMON",
    "CrossSite",
    "cross_site",
    "local_brief",
    "local_models",
    "matrix",
    "measured_at",
    "published",
]

COMMON = "common model"
"""The first row: what the federation has learnt, beside which local models are looked at."""

Column = Mapping[str, Mapping[str, float]]
"""What one worker found of each model, by model and metric."""


@dataclass(frozen=True, eq=False)
class CrossSite:
    """`values[metric]` float64 [M, K]: model m on the records of worker k.

    `models` are COMMON and the workers whose local model arrived; `workers` those that measured.
    """

    models: tuple[str, ...]
    workers: tuple[str, ...]
    values: Mapping[str, Tensor]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Workers whose model or whose figures are not there, and why."""

    @property
    def judged_by(self) -> str:
        """The metric that people look at first."""
        return "accuracy" if "accuracy" in self.values else "loss"


def cross_site(federation: Federation, state: ServerState) -> CrossSite:
    """The matrix of a finished state, in plain Python.

    Raises:
        RoundError: no worker has a local model to show, or measures one.
    """
    strategy, terms = federation.strategy, federation.terms
    brief = local_brief(strategy, state, terms)
    sent = publish(brief, terms=terms, wave="all")
    answers, missing = dict[str, Ref](), dict[str, str]()
    for worker in federation.workers:
        try:
            answers[worker.id] = worker.fetch(worker.train(worker.send(sent)))
        except WorkerError as error:
            missing[worker.id] = f"{error.verb}: {error.reason}"
    models = local_models(answers, brief, terms=terms, missing=missing)
    there = published(models, strategy, state, terms)
    columns = dict[str, Column]()
    for worker in federation.workers:
        try:
            columns[worker.id] = measured_at(worker, there, terms.blueprint)
        except WorkerError as error:
            missing[worker.id] = f"{error.verb}: {error.reason}"
        worker.forget(terms.ticket(brief.ticket.round))
    open_store(terms.outbox).drop(brief.ticket.key)
    return matrix(columns, models=list(models), missing=missing, round=brief.ticket.round)


def local_brief(strategy: Strategy, state: ServerState, terms: Terms) -> Brief:
    """What all workers are told in order to make their local models. They remember nothing of it:
    the state is that of a training that may go on."""
    round = state.round + 1
    return replace(
        strategy.brief(state, terms),
        ticket=terms.ticket(round, purpose="cross_site"),
        plan=strategy.plan(terms, round=min(round, terms.rounds)),
        answer="rows",
        weightings=(ByRecords(),),
        chosen=None,
        remembering=None,
    )


def local_models(
    answers: Mapping[str, Ref], brief: Brief, *, terms: Terms, missing: dict[str, str]
) -> dict[str, ModelState]:
    """COMMON and every local model that arrived whole, by worker; the others go to `missing`.

    Raises:
        QuorumNotMet, Diverged: there is none.
    """
    one = replace(terms, quorum=1)
    counts = admitted(answers, brief, one, asked=terms.workers, missing=missing)
    missing |= counts.refused
    layout, found = Layout.of(brief.model.averaged), {COMMON: brief.model}
    for sealed in counts.sealed:
        assert sealed.rows is not None, "rows were asked for"
        found[sealed.contributions.workers[0]] = brief.model.replaced(
            layout.unflatten(sealed.rows[0])
        )
    return found


def published(
    models: Mapping[str, ModelState], strategy: Strategy, state: ServerState, terms: Terms
) -> dict[str, Ref]:
    """Each model laid out for all workers to measure, with a ticket of its own."""
    round, refs = state.round + 1, {}
    for place, (name, model) in enumerate(models.items()):
        purpose = f"cross_site-{place}"
        brief = evaluation_brief(strategy, state, terms, round=round, purpose=purpose)
        refs[name] = publish(replace(brief, model=model), terms=terms, wave="all")
    return refs


def measured_at(worker: Worker, models: Mapping[str, Ref], blueprint: Blueprint) -> Column:
    """What each of the models reaches on one worker's records.

    Raises:
        WorkerError: the worker did not measure one of them.
    """
    settings = blueprint.model
    chosen = meter(settings.loss, settings.metrics, classes=blueprint.classes)
    found = {}
    for name, ref in models.items():
        (told,) = fetch(worker.evaluate(worker.send(ref)), Contributions)
        sums = dict(told.measures)
        found[name] = chosen.values(Measured(sums, int(sums.pop("seen"))))
    return found


def matrix(
    columns: Mapping[str, Column], *, models: Sequence[str], missing: dict[str, str], round: int
) -> CrossSite:
    """The columns side by side, rows and columns in the order given.

    Raises:
        QuorumNotMet: no worker measured anything.
    """
    if not columns:
        raise QuorumNotMet(round=round, quorum=1, arrived=0, missing=missing)
    metrics = next(iter(columns.values()))[COMMON]
    values = {
        metric: torch.tensor(
            [[column[model][metric] for column in columns.values()] for model in models],
            dtype=torch.float64,
        )
        for metric in metrics
    }
    return CrossSite(tuple(models), tuple(columns), values, missing)
