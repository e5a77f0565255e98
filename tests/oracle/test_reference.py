"""Every strategy, optimiser and schedule agrees with the nested loops of reference.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedcore.data import Dataset
from fedcore.federation import found_with
from fedcore.initial import load_into
from fedcore.models import build
from fedcore.reference import reference_training
from fedcore.settings import parse
from fedcore.simulation import simulate
from fedcore.strategies import strategy_of
from fedcore.workers import VirtualWorker

STRATEGIES = ["sequential", "fedavg", "fedsgd", "fedprox"]
OPTIMISERS = [
    {"kind": "sgd"},
    {"kind": "momentum", "momentum": 0.8},
    {"kind": "momentum", "momentum": 0.5, "nesterov": True},
    {"kind": "adam"},
]
SCHEDULES = [
    {"kind": "constant"},
    {"kind": "step", "every": 2, "factor": 0.5},
    {"kind": "exponential", "factor": 0.7},
    {"kind": "cosine", "floor": 0.1},
]


def make_workers(sizes: list[int], *, features: int = 3, classes: int = 3) -> dict[str, Dataset]:
    generator = torch.Generator().manual_seed(sum(sizes))
    names = tuple(str(c) for c in range(classes))
    return {
        f"worker-{i}": Dataset(
            torch.randn(size, features, generator=generator),
            torch.randint(classes, (size,), generator=generator),
            names,
        )
        for i, size in enumerate(sizes)
    }


def both(config, data):
    """The last state and losses of `simulate` beside what the oracle finds."""
    workers = [VirtualWorker.holding(id, records) for id, records in data.items()]
    strategy = strategy_of(config.strategy)
    sample = next(iter(data.values()))
    federation = found_with(config, workers, strategy, sample=sample)
    module = build(federation.terms.blueprint)
    load_into(module, federation.start.model)
    expected = reference_training(config, module, data, nn.CrossEntropyLoss())
    states = list(simulate(config, workers=workers))
    return states, expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    strategy=st.sampled_from(STRATEGIES),
    optimiser=st.sampled_from(OPTIMISERS),
    schedule=st.sampled_from(SCHEDULES),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    batch_size=st.integers(0, 5),
    steps=st.none() | st.integers(1, 7),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.sampled_from([None, 0.3]),
    hidden=st.sampled_from([[], [4]]),
    sampled=st.booleans(),
    seed=st.integers(0, 5),
)
def test_simulation_agrees_with_the_oracle(
    strategy, optimiser, schedule, sizes, batch_size, steps, epochs, shuffle, weight_decay,
    clip_norm, hidden, sampled, seed,
):  # fmt: skip
    data = make_workers(sizes)
    config = parse(
        {
            "seed": seed,
            "rounds": 3,
            "model": {"kind": "mlp", "hidden": hidden},
            "strategy": {"kind": strategy},
            "sampling": {"kind": "uniform", "count": max(1, len(sizes) - 1)}
            if sampled
            else {"kind": "all"},
            "local": {
                "epochs": epochs,
                "steps": steps,
                "batch_size": batch_size,
                "shuffle": shuffle,
                "optimiser": optimiser,
                "learning_rate": 0.05,
                "schedule": schedule,
                "weight_decay": weight_decay,
                "clip_norm": clip_norm,
            },
        }
    )
    states, expected = both(config, data)
    for name, tensor in states[-1].model.tensors.items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-6)
    for state, losses in zip(states, expected.losses, strict=True):
        found = {c.worker: c.train_loss for c in state.record.contributions}
        assert found == pytest.approx(losses, rel=1e-4)


def test_the_oracle_notices_a_wrong_strategy():
    """The comparison above can fail: FedProx is not FedAvg."""
    data = make_workers([5, 6])
    base = {"rounds": 2, "local": {"learning_rate": 0.1}}
    prox, _ = both(parse({**base, "strategy": {"kind": "fedprox", "mu": 1.0}}), data)
    _, avg = both(parse({**base, "strategy": {"kind": "fedavg"}}), data)
    gap = (prox[-1].model.tensors["0.weight"] - avg.tensors["0.weight"]).abs().max()
    assert gap > 1e-4


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedsgd", "sequential"])
def test_batch_norm_buffers_agree_with_the_oracle(strategy, tmp_path, monkeypatch):
    """Float buffers are averaged, integer buffers stay the server's."""
    data = make_workers([8, 4])
    config = parse(
        {
            "rounds": 2,
            "model": {"kind": "custom", "entrypoint": "batch_norm_model:make"},
            "strategy": {"kind": strategy},
            "local": {"batch_size": 4, "epochs": 2, "learning_rate": 0.1},
        }
    )
    (tmp_path / "batch_norm_model.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    states, expected = both(config, data)
    for name, tensor in states[-1].model.tensors.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-6)
    counter = states[-1].model.buffers["1.num_batches_tracked"]
    assert counter.item() == 0
