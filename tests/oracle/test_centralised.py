"""One worker, or identical workers, is centralised training."""

import numpy as np
import pytest
import torch

from fedcore.data import Dataset, deal
from fedcore.federation import pool
from fedcore.settings import parse
from fedcore.simulation import rounds, simulate
from fedcore.workers import VirtualWorker

BASE = {
    "rounds": 4,
    "data": {"source": {"kind": "digits"}, "test_share": 0.2},
    "local": {"epochs": 2, "learning_rate": 0.1, "optimiser": {"kind": "momentum"}},
}


def centralised(config):
    return list(rounds(pool(config).named("baseline", attempt=1)))


def ulps(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance in units in the last place of the larger of the two."""
    a, b = found.numpy(), wanted.numpy()
    unit = np.spacing(np.maximum(np.abs(a), np.abs(b)))
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)) / unit))


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "quantity_skew", "shards"])
def test_one_worker_in_sequence_is_centralised_bit_for_bit(partition):
    workers = {"kind": "virtual", "ids": ["solo"], "partition": {"kind": partition}}
    config = parse({**BASE, "workers": workers, "strategy": {"kind": "sequential"}})
    for alone, pooled in zip(simulate(config), centralised(config), strict=True):
        assert alone.model.digest == pooled.model.digest
        assert alone.record.metrics["train_loss"] == pooled.record.metrics["train_loss"]


@pytest.mark.parametrize("copies", [1, 2, 3, 10])
def test_identical_workers_averaged_are_centralised_to_one_unit_a_round(copies):
    config = parse({**BASE, "strategy": {"kind": "fedavg"}, "rounds": 1})
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    workers = [VirtualWorker.holding(f"twin-{i}", dealt.pooled) for i in range(copies)]
    (found,) = simulate(config, workers=workers)
    (wanted,) = centralised(config)
    worst = max(
        ulps(tensor, wanted.model.tensors[name]) for name, tensor in found.model.tensors.items()
    )
    assert worst <= 1


def test_fedsgd_is_gradient_descent_on_the_pooled_records():
    """A weighted mean of mean gradients is the mean gradient, however the records are dealt."""
    config = parse(
        {**BASE, "strategy": {"kind": "fedsgd"}, "workers": {"kind": "virtual", "count": 7}}
    )
    for split, pooled in zip(simulate(config), centralised(config), strict=True):
        for name, tensor in split.model.tensors.items():
            torch.testing.assert_close(tensor, pooled.model.tensors[name], rtol=1e-4, atol=1e-6)


def test_the_order_of_workers_moves_no_bit_of_an_average():
    config = parse({**BASE, "rounds": 2, "strategy": {"kind": "fedavg"}})
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    workers = [VirtualWorker.holding(id, data) for id, data in dealt.workers.items()]
    straight = list(simulate(config, workers=workers))
    turned = list(simulate(config, workers=workers[::-1]))
    assert straight[-1].model.digest == turned[-1].model.digest


def test_a_dropout_model_depends_on_the_seed_alone():
    config = parse({**BASE, "rounds": 2, "model": {"kind": "mlp", "dropout": 0.5}})
    torch.manual_seed(1)
    first = [state.model.digest for state in simulate(config)]
    torch.manual_seed(2)
    again = [state.model.digest for state in simulate(config)]
    assert first == again
    other = parse({**BASE, "rounds": 2, "seed": 1, "model": {"kind": "mlp", "dropout": 0.5}})
    assert first != [state.model.digest for state in simulate(other)]


def test_sequential_depends_on_the_order_of_workers():
    """The opposite of the average: the model visits workers in the order of the roster."""
    data = {
        "bob": Dataset(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [0.0]])),
        "alice": Dataset(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0], [1.0]])),
    }
    workers = [VirtualWorker.holding(id, records) for id, records in data.items()]
    config = parse({"rounds": 1, "model": {"kind": "linear"}, "strategy": {"kind": "sequential"}})
    (one,) = simulate(config, workers=workers)
    (two,) = simulate(config, workers=workers[::-1])
    assert one.model.digest != two.model.digest
    assert [c.worker for c in one.record.contributions] == ["bob", "alice"]
