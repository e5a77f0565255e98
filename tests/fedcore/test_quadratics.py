"""What strategies promise on workers that differ, on problems whose optimum is known.

Least squares in float64: worker k's loss has an optimum and a curvature of its own, so the mean of
what all of them train to is not what their records together would train to.
"""

import uuid

import pytest
import torch

from fedcore.data import Dataset
from fedcore.federation import found_with
from fedcore.rounds import publish
from fedcore.settings import parse
from fedcore.simulation import rounds
from fedcore.store import fetch
from fedcore.strategies import strategy_of
from fedcore.values import Contributions
from fedcore.workers import VirtualWorker

CURVATURES = [(0.3, 2.0), (2.0, 0.2), (1.0, 1.0)]
OPTIMA = [(3.0, -1.0), (-2.0, 2.0), (0.0, -3.0)]


def least_squares(curvature, optimum, *, copies=1):
    """8 records, so many times over, that `optimum` fits without an error."""
    stream = torch.Generator().manual_seed(round(100 * sum(curvature)))
    features = torch.randn(8, 2, generator=stream) * torch.tensor(curvature)
    targets = features @ torch.tensor(optimum).unsqueeze(1)
    return Dataset(features.repeat(copies, 1), targets.repeat(copies, 1))


def federation(data, strategy, **settings):
    config = parse(
        {
            "model": {
                "kind": "custom",
                "entrypoint": "tests.oracle.modules:line",
                "loss": {"kind": "mse"},
            },
            "strategy": strategy,
            **settings,
        }
    )
    workers = [VirtualWorker.holding(name, records) for name, records in data.items()]
    sample = next(iter(data.values()))
    ready = found_with(config, workers, strategy_of(config.strategy), sample=sample)
    return ready.named(uuid.uuid4().hex, attempt=1)


def last(ready):
    *_, state = rounds(ready)
    return state


def pooled(data):
    """What all records together ask for."""
    features = torch.cat([records.features for records in data.values()]).double()
    targets = torch.cat([records.targets for records in data.values()]).double()
    return torch.linalg.lstsq(features, targets).solution.T


def weights(data, strategy, **settings):
    (found,) = last(federation(data, strategy, **settings)).model.parameters.values()
    return found


def distance(data, strategy, **settings):
    """From the model trained to the one that all records together ask for."""
    return float((weights(data, strategy, **settings) - pooled(data)).norm())


def differing():
    pairs = zip(CURVATURES, OPTIMA, strict=True)
    return {f"worker-{k}": least_squares(*pair) for k, pair in enumerate(pairs)}


LOCAL = {"learning_rate": 0.1, "steps": 10, "batch_size": 0}


def test_fedavg_stops_short_of_the_pooled_optimum():
    assert distance(differing(), {"kind": "fedavg"}, rounds=200, local=LOCAL) > 0.1


@pytest.mark.parametrize(
    "strategy", [{"kind": "scaffold"}, {"kind": "feddyn", "alpha": 0.3}], ids=lambda s: s["kind"]
)
@pytest.mark.parametrize("sampling", [{"kind": "all"}, {"kind": "uniform", "count": 2}], ids=str)
def test_scaffold_and_feddyn_reach_the_pooled_optimum(strategy, sampling):
    found = distance(differing(), strategy, rounds=200, local=LOCAL, sampling=sampling)
    assert found < 1e-3


UNEVEN = {
    "short": least_squares((1.0, 1.0), (3.0, -1.0)),
    "long": least_squares((1.0, 1.0), (-2.0, 2.0), copies=8),
    "middle": least_squares((1.0, 1.0), (0.0, -3.0), copies=3),
}


def short_steps(strategy, optimiser):
    """Where it goes as steps get shorter: extrapolated from two learning rates, from each of which
    it is away by about as much as they are from 0. It starts where it should stay."""
    model = {"kind": "custom", "entrypoint": "tests.oracle.modules:line", "loss": {"kind": "mse"}}
    initial = {"kind": "inline", "weights": {"0.weight": pooled(UNEVEN).tolist()}}
    half, whole = (
        weights(
            UNEVEN,
            strategy,
            rounds=200,
            model={**model, "initial": initial},
            local={
                "epochs": 1,
                "batch_size": 8,
                "shuffle": False,
                "learning_rate": rate,
                "optimiser": optimiser,
            },
        )
        for rate in (0.002, 0.004)
    )
    return float((2 * half - whole - pooled(UNEVEN)).norm())


@pytest.mark.parametrize(
    "optimiser", [{"kind": "sgd"}, {"kind": "momentum", "momentum": 0.5}], ids=lambda o: o["kind"]
)
def test_fednova_goes_to_the_pooled_optimum_whatever_number_of_steps_each_worker_takes(optimiser):
    """1, 8 and 3 steps a round: whoever holds more records takes more steps as well, and counts
    twice for it in FedAvg, however short the steps are."""
    assert short_steps({"kind": "fedavg"}, optimiser) > 0.3
    assert short_steps({"kind": "fednova"}, optimiser) < 1e-3


def losses(ready, state, measure="loss"):
    """Of each worker on its own records, with the model that it would use."""
    brief = ready.strategy.brief(state, ready.terms)
    sent = publish(brief, terms=ready.terms, wave="evaluate")
    told = [fetch(w.evaluate(w.send(sent)), Contributions) for w in ready.workers]
    return {c.worker: c.measures[measure] / c.measures["seen"] for part in told for c in part}


def contradicting():
    """The same points; what one worker calls a, the other calls b."""
    stream = torch.Generator().manual_seed(1)
    features = torch.randn(40, 2, generator=stream)
    labels = (features[:, 0] > 0).long()
    return {
        "one": Dataset(features, labels, ("a", "b")),
        "other": Dataset(features, 1 - labels, ("a", "b")),
    }


@pytest.mark.parametrize(
    "strategy", [{"kind": "ditto", "pull": 0.05}, {"kind": "fedper"}], ids=lambda s: s["kind"]
)
def test_a_worker_whose_labels_contradict_the_others_does_better_with_a_model_of_its_own(strategy):
    found = {}
    for kind in ({"kind": "fedavg"}, strategy):
        ready = federation(
            contradicting(),
            kind,
            model={"kind": "mlp", "hidden": [6]},
            rounds=15,
            local={"epochs": 3, "batch_size": 10, "learning_rate": 0.3},
        )
        found[kind["kind"]] = losses(ready, last(ready), "accuracy")
    common, own = found["fedavg"], found[strategy["kind"]]
    assert common["one"] + common["other"] == pytest.approx(1.0)  # nobody can serve both
    assert min(own.values()) > 0.9


def test_qfedavg_serves_a_minority_better_than_fedavg_does():
    """Four workers agree and one does not: the losses differ less, and the highest is lower."""
    data = {f"worker-{k}": least_squares((1.0, 1.0), (2.0, 1.0)) for k in range(4)}
    data["worker-4"] = least_squares((1.0, 1.0), (-2.0, -1.0))
    spread, highest = {}, {}
    for strategy in ({"kind": "fedavg"}, {"kind": "qfedavg", "q": 2.0}):
        ready = federation(data, strategy, rounds=60, local={**LOCAL, "steps": 2})
        found = torch.tensor(list(losses(ready, last(ready)).values()))
        spread[strategy["kind"]] = float(found.std())
        highest[strategy["kind"]] = float(found.max())
    assert spread["qfedavg"] < 0.6 * spread["fedavg"]
    assert highest["qfedavg"] < 0.8 * highest["fedavg"]
