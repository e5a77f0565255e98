"""FedProx's study on Synthetic(alpha, beta): how far workers that differ pull a model about.

Li et al. 2020, Federated Optimization in Heterogeneous Networks, section 5, figures 1 and 2.
`python -m tests.benchmarks.baselines synthetic` runs it.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedcore.data import Dataset, deal
from fedcore.federation import Federation, found_with
from fedcore.initial import load_into
from fedcore.local import module_for
from fedcore.rounds import publish
from fedcore.seeds import derive
from fedcore.selection import select
from fedcore.settings import parse
from fedcore.settings.participation import Uniform
from fedcore.simulation import rounds
from fedcore.store import fetch
from fedcore.strategies import fedavg, feddyn, fednova, fedprox, scaffold
from fedcore.strategy import Strategy
from fedcore.terms import Terms
from fedcore.values import Brief, Description, Ref, ServerState, Ticket
from fedcore.workers import VirtualWorker

__all__ = ["DATA", "Curve", "Point", "Straggler", "curve", "table", "training"]

ROUNDS, EPOCHS, DRAWN, LAST = 200, 20, 10, 50
DATA: Mapping[str, float] = {"(0, 0)": 0, "(0.5, 0.5)": 0.25, "(1, 1)": 1}
"""The authors' deviations alpha = beta, and the variance that ours takes."""


@dataclass(frozen=True)
class Point:
    """The model after a round: its loss on all training records, its accuracy on the test records,
    and mean_k |g_k - g|^2 with g_k the gradient of worker k's loss, g that of all records' (the
    authors' measure of dissimilarity)."""

    loss: float
    accuracy: float
    dissimilarity: float


Curve = Sequence[Point]


@dataclass(frozen=True)
class Straggler:
    """A worker that does all epochs in the rounds in which `punctual` draws it, and in others a
    number between 1 and one less, which is drawn too. It tells its owner's worker a shorter plan.
    """

    worker: VirtualWorker
    place: int
    """In the roster."""
    punctual: Terms

    @property
    def id(self) -> str:
        """The worker's."""
        return self.worker.id

    @property
    def count(self) -> int:
        """One."""
        return self.worker.count

    def describe(self) -> Description:
        """As the worker does."""
        return self.worker.describe()

    def send(self, brief: Ref) -> Ref:
        """The brief, or the same with fewer epochs."""
        given = fetch(brief, Brief)
        terms, round = self.punctual, given.ticket.round
        full = select(terms, ServerState(round - 1, given.model)).places
        if full is None or self.place in full.tolist():
            return self.worker.send(brief)
        stream = derive(terms.seed, round, self.id, "straggling")
        epochs = int(torch.randint(1, given.plan.epochs, (), generator=stream))
        fewer = replace(given, plan=replace(given.plan, epochs=epochs))
        return self.worker.send(publish(fewer, terms=terms, wave=f"{self.id}-late"))

    def train(self, model: Ref) -> Ref:
        """As the worker does."""
        return self.worker.train(model)

    def fetch(self, update: Ref) -> Ref:
        """As the worker does."""
        return self.worker.fetch(update)

    def evaluate(self, model: Ref) -> Ref:
        """As the worker does."""
        return self.worker.evaluate(model)

    def forget(self, ticket: Ticket) -> None:
        """As the worker does."""
        self.worker.forget(ticket)


def training(
    data: str,
    strategy: Strategy,
    *,
    stragglers: float = 0.0,
    dropped: bool = False,
    length: int = ROUNDS,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Federation:
    """30 workers, of whom ten are drawn a round; that share of the ten are stragglers, who do part
    of the epochs or are left out. The others are the same for all strategies."""
    config = parse(
        {
            "seed": seed,
            "rounds": length,
            "data": {
                "source": {"kind": "synthetic", "alpha": DATA[data], "beta": DATA[data]},
                "test_share": 0.1,
            },
            "model": {"kind": "logistic"},
            "local": {"epochs": epochs, "batch_size": 10, "learning_rate": 0.01},
            "workers": {"kind": "virtual", "partition": {"kind": "by_column", "column": "group"}},
            "sampling": {"kind": "uniform", "count": DRAWN},
        }
    )
    dealt = deal(config.data, config.workers, config.model.loss, seed=seed)
    workers = [VirtualWorker.holding(id, held) for id, held in dealt.workers.items()]
    made = found_with(config, workers, strategy, sample=dealt.sample, test=dealt.test)
    made = made.named(f"{data} {strategy.name} {stragglers} {dropped}", attempt=1)
    # The first of the same draw: fewer are drawn, the punctual ones among the ten.
    punctual = replace(made.terms, sampling=Uniform(count=round(DRAWN * (1 - stragglers))))
    if dropped:
        return replace(made, terms=punctual)
    late = [Straggler(worker, place, punctual) for place, worker in enumerate(workers)]
    return replace(made, workers=late)


def curve(federation: Federation) -> Curve:
    """Train, and measure after every round."""
    config = federation.config
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    held = list(dealt.workers.values())
    return [_point(state, federation.terms, held) for state in rounds(federation)]


def _point(state: ServerState, terms: Terms, held: Sequence[Dataset]) -> Point:
    module = module_for(terms.blueprint)
    load_into(module, state.model)
    losses, gradients = [], []
    for records in held:
        loss = nn.functional.cross_entropy(module(records.features), records.targets)
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
        losses.append(loss.item())
    each: Tensor = torch.stack(gradients)
    sizes = torch.tensor([float(len(records)) for records in held])
    weights = sizes / sizes.sum()
    apart = (each - weights @ each).square().sum(dim=1).mean()
    assert state.record is not None, "a round that ended has a record"
    accuracy = state.record.metrics["test_accuracy"]
    return Point(float(weights @ torch.tensor(losses)), accuracy, float(apart))


CASES: Sequence[tuple[str, str, Strategy, float, bool]] = [
    *(("1, 2", data, s, 0.0, False) for data in DATA for s in (fedavg(), fedprox(mu=1))),
    *(("", "(1, 1)", fedprox(mu=mu), 0.0, False) for mu in (0.001, 0.01, 0.1)),
    *(
        ("1", "(1, 1)", strategy, share, strategy.name == "fedavg")
        for share in (0.5, 0.9)
        for strategy in (fedavg(), fedprox(mu=0), fedprox(mu=1))
    ),
    *(("", "(1, 1)", s, 0.0, False) for s in (fednova(), scaffold(), feddyn(alpha=0.1))),
]
"""Figure, data, strategy, share of stragglers, whether they are dropped."""


def table(*, seed: int = 0) -> dict[str, Curve]:
    """Print a row for each training as it ends; the curves by the names of the rows."""
    print("| figure | data | strategy | stragglers | loss | most | accuracy | dissimilarity |")
    print("| --- " * 8 + "|")
    found = {}
    for figure, data, strategy, share, dropped in CASES:
        made = curve(training(data, strategy, stragglers=share, dropped=dropped, seed=seed))
        last = made[-LAST:]
        mu = getattr(strategy.rule, "mu", None)
        name = strategy.name if mu is None else f"{strategy.name}, mu = {mu:g}"
        late = f"{100 * share:.0f} %{', dropped' if dropped and share else ''}"
        print(
            f"| {figure} | {data} | {name} | {late} "
            f"| {statistics.fmean(p.loss for p in last):.2f} | {max(p.loss for p in last):.2f} "
            f"| {100 * statistics.fmean(p.accuracy for p in last):.1f} "
            f"| {statistics.fmean(p.dissimilarity for p in last):.1f} |",
            flush=True,
        )
        found[f"{data} {name} {late}"] = made
    return found
