"""Whole trainings by every strategy agree with the nested loops of reference.py, in float64."""

import uuid
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedcore.data import Dataset
from fedcore.data.holdings import Holdings
from fedcore.federation import found_with
from fedcore.initial import load_into
from fedcore.local import train_locally
from fedcore.models import build
from fedcore.reference import reference_training
from fedcore.rounds import publish
from fedcore.settings import parse
from fedcore.settings.strategies import StrategySettings
from fedcore.simulation import rounds
from fedcore.store import fetch
from fedcore.strategies import strategy_of
from fedcore.trees import Layout
from fedcore.values import Contributions
from fedcore.workers import CohortWorker, VirtualWorker
from tests.oracle import aggregation as loops

STRATEGIES = [
    {"kind": "fedavg"},
    {"kind": "fedsgd"},
    {"kind": "fedprox", "mu": 0.7},
    {"kind": "scaffold", "server_learning_rate": 0.8},
    {"kind": "fednova"},
    {"kind": "fednova", "mu": 0.6},
    {"kind": "feddyn", "alpha": 0.3},
    {"kind": "fedavgm", "server_learning_rate": 0.7, "momentum": 0.6},
    {"kind": "fedadagrad", "server_learning_rate": 0.05, "beta1": 0.4, "tau": 0.01},
    {"kind": "fedadam", "server_learning_rate": 0.05, "tau": 0.01},
    {"kind": "fedyogi", "server_learning_rate": 0.05, "tau": 0.01},
    {"kind": "qfedavg", "q": 2.0},
    {"kind": "qfedavg", "q": 0.5},
    {"kind": "fedbn"},
    {"kind": "fedper", "layers": 1},
    {"kind": "fedper", "layers": 2},
    {"kind": "ditto", "pull": 0.4},
    {"kind": "sequential"},
]
PERSONAL = [*(s for s in STRATEGIES if s["kind"] in ("fedbn", "fedper", "ditto"))]
PERSONAL += [
    {"kind": "fedavg", "exchange": ["0.*", "*.running_*"]},
    {"kind": "fedadam", "exchange": ["3.weight", "0.bias"]},
]
LOOSE = [s for s in STRATEGIES if s["kind"] not in ("fedbn", "sequential")]
OPTIMISERS = [
    {"kind": "sgd"},
    {"kind": "momentum", "momentum": 0.8},
    {"kind": "momentum", "momentum": 0.5, "nesterov": True},
    {"kind": "adam", "epsilon": 0.001},
]
CLASSES = ("a", "b", "c")


def held(sizes):
    stream = torch.Generator().manual_seed(sum(sizes))
    count = sum(sizes)
    records = Dataset(
        torch.randn(count, 3, generator=stream),
        torch.randint(3, (count,), generator=stream),
        CLASSES,
    )
    names = tuple(f"worker-{k}" for k in range(len(sizes)))
    return Holdings(names, torch.tensor(sizes), records)


def handles(kind, holdings):
    if kind == "virtual":
        return [VirtualWorker.holding(n, holdings.of(k)) for k, n in enumerate(holdings.workers)]
    if kind == "hosts":
        return CohortWorker.sharing(["one", "two"], holdings)
    return [CohortWorker.holding("all", holdings, engine=kind)]


def agree(config, sizes, kind):
    """Models, losses, and what each worker uses in the end, as `evaluate` tells it."""
    holdings = held(sizes)
    workers = handles(kind, holdings)
    federation = found_with(
        config, workers, strategy_of(config.strategy), sample=holdings.records
    ).named(uuid.uuid4().hex, attempt=1)
    module = build(federation.terms.blueprint)
    load_into(module, federation.start.model)
    data = {name: holdings.of(k) for k, name in enumerate(holdings.workers)}
    wanted = reference_training(config, module, data, nn.CrossEntropyLoss())
    states = list(rounds(federation))
    for name, tensor in states[-1].model.averaged.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, wanted.tensors[name], rtol=1e-10, atol=1e-12)
    for name, tensor in states[-1].model.buffers.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, federation.start.model.buffers[name])
    for state, losses in zip(states, wanted.losses, strict=True):
        found = {c.worker: c.train_loss for c in state.record.contributions}
        assert found == pytest.approx(losses, rel=1e-9)
    assert used(federation, states[-1]) == pytest.approx(
        {name: mean_loss(wanted.used[name], data[name]) for name in data}, rel=1e-9
    )


def used(federation, state):
    """The loss of each worker's own model on its own records."""
    terms = federation.terms
    brief = federation.strategy.brief(state, terms)
    sent = publish(brief, terms=terms, wave="evaluate")
    told = [fetch(w.evaluate(w.send(sent)), Contributions) for w in federation.workers]
    return {c.worker: c.measures["loss"] / c.measures["seen"] for part in told for c in part}


def mean_loss(module, data):
    module.eval()
    with torch.no_grad():
        return float(nn.CrossEntropyLoss()(module(data.features), data.targets))


def config_of(strategy, module, *, sampled, **local):
    return parse(
        {
            "seed": 5,
            "rounds": 4,
            "model": {"kind": "custom", "entrypoint": f"tests.oracle.modules:{module}"},
            "strategy": strategy,
            "sampling": {"kind": "uniform", "count": sampled} if sampled else {"kind": "all"},
            "local": {"learning_rate": 0.1, **local},
        }
    )


def named(strategy):
    return "-".join(str(v) for v in strategy.values())


def kinds_of(strategies):
    return {s["kind"] for s in strategies}


def test_every_strategy_is_compared():
    every = {
        get_args(v.model_fields["kind"].annotation)[0]
        for v in get_args(get_args(StrategySettings)[0])
    }
    assert kinds_of(STRATEGIES) == every - {"custom"}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    strategy=st.sampled_from(LOOSE),
    optimiser=st.sampled_from(OPTIMISERS),
    kind=st.sampled_from(["virtual", "loop", "stacked", "auto", "hosts"]),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    batch_size=st.integers(0, 5),
    steps=st.none() | st.integers(1, 7),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.sampled_from([None, 0.3]),
    schedule=st.sampled_from([{"kind": "constant"}, {"kind": "exponential", "factor": 0.7}]),
    sampled=st.booleans(),
)
def test_strategies_agree_with_the_oracle(strategy, optimiser, kind, sizes, sampled, **local):
    if strategy["kind"] == "fednova" and (optimiser["kind"] == "adam" or "nesterov" in optimiser):
        optimiser = OPTIMISERS[1]
    if kind == "stacked" and strategy["kind"] in kinds_of(PERSONAL):
        kind = "auto"
    count = max(1, len(sizes) - 1) if sampled else 0
    config = config_of(strategy, "perceptron", sampled=count, optimiser=optimiser, **local)
    agree(config, sizes, kind)


@pytest.mark.parametrize("kind", ["virtual", "auto"])
@pytest.mark.parametrize("strategy", STRATEGIES + PERSONAL[len(PERSONAL) - 2 :], ids=named)
def test_batch_norms_and_personal_parts_agree_with_the_oracle(strategy, kind):
    """Float buffers are averaged and not optimised, integer buffers stay the server's, and what
    does not travel goes on where its worker left it, however long it was not drawn."""
    if strategy["kind"] == "sequential" and kind == "auto":
        pytest.skip("workers that train together cannot be visited one after the other")
    momentum = {"kind": "momentum", "momentum": 0.5}
    config = config_of(strategy, "normed", sampled=3, optimiser=momentum, batch_size=4, epochs=2)
    agree(config, [8, 4, 12, 6, 10], kind)


def test_centred_clipping_goes_on_from_the_step_of_the_round_before():
    """Karimireddy et al. 2021, algorithm 2: v starts from the last v, not from 0."""
    rule = {"kind": "centred_clipping", "radius": 0.05, "iterations": 2}
    config = config_of({"kind": "fedavg", "aggregator": rule}, "perceptron", sampled=0)
    holdings = held([5, 3, 8])
    federation = found_with(
        config, handles("virtual", holdings), strategy_of(config.strategy), sample=holdings.records
    ).named(uuid.uuid4().hex, attempt=1)
    layout = Layout.of(federation.start.model.averaged)
    models = [layout.flatten(federation.start.model.averaged)]
    previous = [0.0] * layout.size
    state = federation.start
    for after in rounds(federation):
        brief = federation.strategy.brief(state, federation.terms)
        each = [train_locally(brief, holdings.of(k), worker="") for k in range(3)]
        rows = [(layout.flatten(made.trained) - models[-1]).tolist() for made in each]
        previous = loops.centred_clipping(rows, previous, radius=0.05, iterations=2)
        models.append(layout.flatten(after.model.averaged))
        moved = models[-1] - models[-2]
        torch.testing.assert_close(moved, torch.tensor(previous).double(), rtol=1e-6, atol=1e-7)
        state = after
