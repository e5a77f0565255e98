"""From settings to everything a training needs: workers, strategy, terms, first state."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedcore.data.dataset import Dataset
from fedcore.data.dealing import Dealt, deal
from fedcore.data.holdings import Holdings
from fedcore.errors import ConfigError, Incompatible
from fedcore.initial import initial_state
from fedcore.models import blueprint, build, check_fit
from fedcore.personal import kept_at_workers
from fedcore.roster import Roster
from fedcore.rounds import FEW_WORKERS
from fedcore.settings import TrainingConfig
from fedcore.settings.aggregators import FLTrust
from fedcore.settings.participation import All, RealClock
from fedcore.settings.strategies import Averaging, StrategySettings
from fedcore.settings.training import GroupedWorkers, SimulatedWorkers
from fedcore.shares import share
from fedcore.store import LIVE, fetch, put
from fedcore.strategies import centralised, strategy_of
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Description, ServerState
from fedcore.weightings import BySteps, Normalised
from fedcore.workers import CohortWorker, GroupWorker, VirtualWorker, Worker
from fedcore.workers.group import FEWEST

__all__ = ["CENTRALISED", "Federation", "check_cross_site", "found", "found_with", "pool"]

CENTRALISED = "centralised"
"""The only worker of a centralised training."""


@dataclass(frozen=True)
class Federation:
    """A training that is ready to begin. `test` is the coordinator's own data, if it has any."""

    config: TrainingConfig
    strategy: Strategy
    workers: Sequence[Worker]
    descriptions: Sequence[Description]
    terms: Terms
    start: ServerState
    test: Dataset | None

    def named(self, run: str, *, attempt: int) -> "Federation":
        """The same federation as a run, which has a name from here on."""
        return replace(self, terms=replace(self.terms, run=run, attempt=attempt))


def found(config: TrainingConfig, *, stores: str = LIVE, memories: str = LIVE) -> Federation:
    """Deal the data out to the workers of the settings, whose stores' URLs begin with `stores`
    and what they remember with `memories`.

    Raises:
        ConfigError: data, model, workers and strategy do not go together. Nothing was written.
    """
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    return found_with(
        config,
        _workers(config, dealt, stores=stores, memories=memories),
        strategy_of(config.strategy),
        sample=dealt.sample,
        test=dealt.test,
    )


def _workers(config: TrainingConfig, dealt: Dealt, *, stores: str, memories: str) -> list[Worker]:
    settings = config.workers
    if isinstance(settings, SimulatedWorkers):
        return _hosts(settings, dealt, stores=stores, memories=memories)
    each: list[Worker] = [
        VirtualWorker.holding(id, data, stores=stores, memories=memories)
        for id, data in dealt.workers.items()
    ]
    return _groups(settings, each, stores=stores) if isinstance(settings, GroupedWorkers) else each


def _hosts(settings: SimulatedWorkers, dealt: Dealt, *, stores: str, memories: str) -> list[Worker]:
    hosts, count = settings.hosts, len(dealt.parts)
    if hosts > count:
        raise Incompatible(
            f"workers.hosts must be at most the number of workers, {count}; given: {hosts}; "
            "lower it."
        )
    ids = _named("host", hosts)
    sharing = CohortWorker.sharing(
        ids, dealt.holdings, engine=settings.engine, stores=stores, memories=memories
    )
    return [*sharing]


def _groups(settings: GroupedWorkers, members: Sequence[Worker], *, stores: str) -> list[Worker]:
    groups, count = settings.groups, len(members)
    if groups * FEWEST > count:
        raise Incompatible(
            f"workers.groups must be so few that each has {FEWEST} of the {count} members; given: "
            f"{groups}; lower it."
        )
    shares = [share(count, host=number, hosts=groups) for number in range(groups)]
    return [
        GroupWorker.of(
            id,
            members[own.start : own.stop],
            inner_rounds=settings.inner_rounds,
            stores=stores,
        )
        for id, own in zip(_named("group", groups), shares, strict=True)
    ]


def _named(what: str, count: int) -> list[str]:
    return [f"{what}-{number:0{len(str(count))}d}" for number in range(1, count + 1)]


def pool(config: TrainingConfig, *, stores: str = LIVE, memories: str = LIVE) -> Federation:
    """The centralised baseline: the same settings, all training records at one worker."""
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    workers = [VirtualWorker.holding(CENTRALISED, dealt.pooled, stores=stores, memories=memories)]
    alone = config.but(
        sampling=All(),
        terms=config.terms.but(quorum=0),
        evaluation=config.evaluation.but(cross_site=False),
    )
    return found_with(
        alone,
        workers,
        centralised(strategy_of(config.strategy)),
        sample=dealt.sample,
        test=dealt.test,
    )


def found_with(
    config: TrainingConfig,
    workers: Sequence[Worker],
    strategy: Strategy,
    *,
    sample: Dataset,
    test: Dataset | None = None,
) -> Federation:
    """A federation of these workers, whatever the settings say of data and workers.

    `sample` shows what their records look like; two of them are tried on the model.
    """
    if not workers:
        raise ConfigError("A training needs at least one worker; given: none; name some.")
    descriptions = [worker.describe() for worker in workers]
    count = sum(worker.count for worker in workers)
    _check(config, descriptions, count=count)
    _check_enough(config, strategy, count=count)
    if any(isinstance(worker, CohortWorker) and worker.roster != count for worker in workers):
        raise Incompatible(
            f"Hosts of simulated workers must share all workers of a training; given: {count} "
            "workers, of which some are others; train them apart."
        )
    if strategy.sequential and count > len(workers):
        raise Incompatible(
            f"A strategy that visits one worker after the other must have them apart; given: "
            f"{strategy.name} over simulated ones, which train together; set workers.kind virtual."
        )
    plan = blueprint(config.model, sample)
    check_fit(plan, sample)
    store = f"live:coordinator/{uuid.uuid4().hex}"
    root = None
    if strategy.trusts:
        own, test = _apart(test, config.strategy)
        root = put(store, "root", own, owner="coordinator")
    kept = None if test is None else put(store, "test", test, owner="coordinator")
    terms = Terms.of(
        config,
        store=store,
        descriptions=descriptions,
        roster=_roster(workers, descriptions),
        blueprint=plan,
        test=kept,
    )
    terms = replace(terms, root=root)
    personal = kept_at_workers(strategy.exchange, build(plan))
    if any(isinstance(worker, GroupWorker) for worker in workers):
        _check_for_groups(strategy, terms, personal=personal)
    start = strategy.init(initial_state(plan, seed=config.seed), personal=personal)
    made = Federation(config, strategy, list(workers), descriptions, terms, start, test)
    if config.evaluation.cross_site:
        check_cross_site(made)
    return made


def check_cross_site(federation: Federation) -> None:
    """Whether every worker's local model can be measured at every worker.

    Raises:
        Incompatible: it cannot.
    """
    given, way_out = "", "leave evaluation.cross_site out"
    if any(isinstance(worker, CohortWorker) for worker in federation.workers):
        given, way_out = "simulated ones", f"set workers.kind virtual, or {way_out}"
    elif federation.terms.workers > FEW_WORKERS:
        given = f"{federation.terms.workers} workers"
    elif federation.start.personal or federation.strategy.anchor is not None:
        given = f"those of {federation.strategy.name}, which has tensors that never travel"
    if given:
        raise Incompatible(
            f"Cross-site evaluation must have at most {FEW_WORKERS} workers apart, whose local "
            f"models may leave them; given: {given}; {way_out}."
        )


def _roster(workers: Sequence[Worker], descriptions: Sequence[Description]) -> Roster:
    """Who stands behind the handles; hosts of simulated workers share one roster."""
    first = workers[0]
    if isinstance(first, CohortWorker):
        held = fetch(first.data, Holdings)
        return Roster(held.workers, held.sizes.double())
    records = torch.tensor([d.records for d in descriptions], dtype=torch.float64)
    return Roster(tuple(worker.id for worker in workers), records)


def _apart(test: Dataset | None, settings: StrategySettings) -> tuple[Dataset, Dataset]:
    """The coordinator's own training records, taken from the test records, and the others."""
    chosen = settings.aggregator if isinstance(settings, Averaging) else None
    records = chosen.records if isinstance(chosen, FLTrust) else FLTrust().records
    held = 0 if test is None else len(test)
    if test is None or held <= records:
        raise Incompatible(
            f"fltrust must have {records} records of the coordinator's own and one to test with; "
            f"given: {held} that no worker has; raise data.test_share, or lower "
            "strategy.aggregator.records."
        )
    # Drawn by the hold-out already: any records are as good as any others.
    rows = np.arange(held)
    return test.take(rows[:records]), test.take(rows[records:])


def _check_enough(config: TrainingConfig, strategy: Strategy, *, count: int) -> None:
    asked = getattr(config.sampling, "count", count)
    if asked < strategy.least:
        raise Incompatible(
            f"The aggregator must have at least {strategy.least} workers in a round; given: "
            f"{asked}; ask more, or count on fewer faulty ones (strategy.aggregator.faulty)."
        )


def _check(config: TrainingConfig, descriptions: Sequence[Description], *, count: int) -> None:
    ids = [description.worker for description in descriptions]
    if len(set(ids)) < len(ids):
        raise ConfigError(
            f"Workers must have distinct names; given: {', '.join(ids)}; rename one of them."
        )
    for description in descriptions:
        if not description.records:
            raise ConfigError(
                f"A worker must have records; given: {description.worker} without any; "
                "leave it out or give it data."
            )
    inputs = {description.inputs for description in descriptions}
    if len(inputs) > 1:
        raise ConfigError(
            f"Workers must have features of one shape; given: {sorted(inputs)}; align their data."
        )
    asked = getattr(config.sampling, "count", count)
    if asked > count:
        raise Incompatible(
            f"sampling.count must be at most the number of workers, {count}; given: {asked}; "
            "lower it, or add workers."
        )
    if config.terms.quorum and count > len(ids):
        raise Incompatible(
            f"terms.quorum must be 0 for simulated workers, which answer host by host; given: "
            f"{config.terms.quorum}; leave it out."
        )
    drawn = getattr(config.sampling, "candidates", asked)
    if drawn < asked:
        raise ConfigError(
            f"sampling.candidates must be at least sampling.count, {asked}; given: {drawn}; raise "
            "it."
        )
    if config.terms.spare and count > len(ids) and isinstance(config.clock, RealClock):
        raise Incompatible(
            f"terms.spare must be 0 for simulated workers, which all answer at once; given: "
            f"{config.terms.spare}; leave it out, or give them a clock."
        )
    if config.terms.quorum > asked:
        raise Incompatible(
            f"terms.quorum must be at most the {asked} workers asked in a round; given: "
            f"{config.terms.quorum}; lower it."
        )


def _check_for_groups(strategy: Strategy, terms: Terms, *, personal: Sequence[str]) -> None:
    """A group answers as one worker: what must be known of, or kept at, each member is lost."""
    told = strategy.weightings(terms, round=1)
    each = any(w.needs or isinstance(w, BySteps | Normalised) for w in told)
    if each or strategy.correction or strategy.anchor is not None or personal:
        raise Incompatible(
            "Groups of workers must be given a strategy that neither measures nor keeps anything "
            f"for each one; given: {strategy.name}{' with tensors that stay' if personal else ''}; "
            "choose fedavg, fedprox or one with a server optimiser, or set workers.kind virtual."
        )
