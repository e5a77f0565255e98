"""A whole training of a cohort agrees with the nested loops of reference.py."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedcore.cohort import train_cohort
from fedcore.data import Dataset
from fedcore.data.holdings import Holdings
from fedcore.federation import found_with
from fedcore.initial import load_into
from fedcore.models import build
from fedcore.reference import reference_training
from fedcore.rules import ControlVariate
from fedcore.settings import parse
from fedcore.simulation import rounds
from fedcore.strategies import strategy_of
from fedcore.trees import Layout
from fedcore.workers import CohortWorker

OPTIMISERS = [
    {"kind": "sgd"},
    {"kind": "momentum", "momentum": 0.8},
    {"kind": "momentum", "momentum": 0.5, "nesterov": True},
    {"kind": "adam", "epsilon": 0.001},
]


def trained(config, sizes, *, engine):
    """The last state of a federation of one cohort, and what the oracle finds."""
    generator = torch.Generator().manual_seed(sum(sizes))
    count = sum(sizes)
    records = Dataset(
        torch.randn(count, 3, generator=generator),
        torch.randint(3, (count,), generator=generator),
        ("a", "b", "c"),
    )
    names = tuple(f"worker-{k}" for k in range(len(sizes)))
    holdings = Holdings(names, torch.tensor(sizes), records)
    handle = CohortWorker.holding("cohort", holdings, engine=engine)
    strategy = strategy_of(config.strategy)
    federation = found_with(config, [handle], strategy, sample=records)
    module = build(federation.terms.blueprint)
    load_into(module, federation.start.model)
    data = {name: holdings.of(k) for k, name in enumerate(names)}
    expected = reference_training(config, module, data, nn.CrossEntropyLoss())
    return list(rounds(federation)), expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    strategy=st.sampled_from(["fedavg", "fedsgd", "fedprox"]),
    optimiser=st.sampled_from(OPTIMISERS),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batch_size=st.integers(0, 5),
    steps=st.none() | st.integers(1, 7),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.sampled_from([None, 0.3]),
    hidden=st.sampled_from([[], [4], [5, 4]]),
    sampled=st.booleans(),
    stacked=st.booleans(),
)
def test_a_cohort_agrees_with_the_oracle(
    strategy, optimiser, sizes, batch_size, steps, epochs, shuffle, weight_decay, clip_norm,
    hidden, sampled, stacked,
):  # fmt: skip
    plan = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "optimiser": optimiser,
        "learning_rate": 0.05,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
    }
    count = max(1, len(sizes) - 1)
    config = parse(
        {
            "rounds": 3,
            "model": {"kind": "mlp", "hidden": hidden},
            "strategy": {"kind": strategy},
            "sampling": {"kind": "uniform", "count": count} if sampled else {"kind": "all"},
            "local": plan,
        }
    )
    # Steps that are linear in weights and gradients can be had with shared weights.
    plain = optimiser["kind"] != "adam" or strategy == "fedsgd"
    shared = plain and not (clip_norm and strategy == "fedprox") and not stacked
    states, expected = trained(config, sizes, engine="low_rank" if shared else "stacked")
    for name, tensor in states[-1].model.tensors.items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-6)
    for state, losses in zip(states, expected.losses, strict=True):
        found = {c.worker: c.train_loss for c in state.record.contributions}
        assert found == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("engine", ["stacked", "loop"])
@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: o["kind"])
def test_control_variates_agree_with_the_oracle(engine, clip_norm, optimiser):
    local = {"epochs": 2, "batch_size": 3, "optimiser": optimiser, "clip_norm": clip_norm}
    config = parse({"rounds": 1, "model": {"kind": "mlp", "hidden": [4]}, "local": local})
    sizes = [5, 2, 7]
    generator = torch.Generator().manual_seed(3)
    records = Dataset(
        torch.randn(14, 3, generator=generator),
        torch.randint(3, (14,), generator=generator),
        ("a", "b", "c"),
    )
    holdings = Holdings(("a", "b", "c"), torch.tensor(sizes), records)
    handle = CohortWorker.holding("cohort", holdings)
    federation = found_with(config, [handle], strategy_of(config.strategy), sample=records)
    brief = federation.strategy.brief(federation.start, federation.terms)
    offset = {
        name: torch.randn(3, *w.shape, generator=generator) / 5
        for name, w in brief.model.parameters.items()
    }
    module = build(federation.terms.blueprint)
    load_into(module, federation.start.model)
    data = {name: holdings.of(k) for k, name in enumerate(holdings.workers)}
    drifts = {
        name: {parameter: o[k] for parameter, o in offset.items()}
        for k, name in enumerate(holdings.workers)
    }
    expected = reference_training(config, module, data, nn.CrossEntropyLoss(), drifts=drifts)
    found = train_cohort(
        replace(brief, rule=ControlVariate(offset)), holdings, range(3), engine=engine
    )
    layout = Layout.of(brief.model.averaged)
    mean = layout.unflatten(found.sums[0] / 14)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-6)
