"""What workers measure in a training, against the same measured by hand in torch."""

import statistics
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn import functional

from fedcore.checkpoint import RunFolder
from fedcore.cohort.evaluation import measures_together
from fedcore.data import Dataset, Table
from fedcore.data.dealing import deal
from fedcore.errors import WorkerUnreachable
from fedcore.evaluation import due, evaluation_brief
from fedcore.federation import found
from fedcore.metrics import MOST
from fedcore.remembering import Remembered
from fedcore.rounds import publish
from fedcore.settings import parse
from fedcore.simulation import rounds, simulate
from fedcore.store import fetch, open_store
from fedcore.values import Contributions
from fedcore.workers import VirtualWorker

OWN_LOSS = {
    "kind": "custom",
    "entrypoint": "torch.nn.functional:cross_entropy",
    "targets": "classes",
}
EVERY_ROUND = {"workers": 1}


def config(**changes):
    given = {
        "rounds": 3,
        "local": {"epochs": 1},
        "workers": {"kind": "virtual", "count": 12, "partition": {"kind": "dirichlet"}},
        "evaluation": EVERY_ROUND,
    }
    return parse({**given, **changes})


@cache
def trained():
    return list(simulate(config()))


def by_hand(model, data):
    """Loss and accuracy of a perceptron of one hidden layer, without any of fedcore's code."""
    w = {name: tensor.double() for name, tensor in model.tensors.items()}
    (first, second) = sorted({name.rpartition(".")[0] for name in w})
    inside = torch.relu(data.features.double() @ w[f"{first}.weight"].T + w[f"{first}.bias"])
    outputs = inside @ w[f"{second}.weight"].T + w[f"{second}.bias"]
    loss = float(functional.cross_entropy(outputs, data.targets))
    return loss, float((outputs.argmax(1) == data.targets).double().mean())


def test_every_workers_figures_are_those_of_the_new_model_on_its_records():
    asked = config()
    dealt = deal(asked.data, asked.workers, asked.model.loss, seed=asked.seed)
    for state in trained():
        found_there = {each.worker: each for each in state.record.evaluated}
        assert found_there.keys() == dealt.workers.keys()
        for worker, data in dealt.workers.items():
            loss, accuracy = by_hand(state.model, data)
            assert found_there[worker].weight == len(data)
            assert found_there[worker].measures["loss"] == pytest.approx(loss, rel=1e-4)
            assert found_there[worker].measures["accuracy"] == pytest.approx(accuracy)


def test_figures_of_a_round_are_over_all_records_and_over_workers():
    asked = config()
    dealt = deal(asked.data, asked.workers, asked.model.loss, seed=asked.seed)
    for state in trained():
        loss, accuracy = by_hand(state.model, dealt.pooled)
        each = [by_hand(state.model, data)[1] for data in dealt.workers.values()]
        metrics = state.record.metrics
        assert metrics["workers_loss"] == pytest.approx(loss, rel=1e-4)
        assert metrics["workers_accuracy"] == pytest.approx(accuracy)
        assert metrics["workers_accuracy_worst"] == pytest.approx(min(each))
        assert metrics["workers_accuracy_spread"] == pytest.approx(statistics.pstdev(each))
        squares = sum(value**2 for value in each)
        assert metrics["workers_accuracy_jain"] == pytest.approx(sum(each) ** 2 / 12 / squares)


def test_a_round_in_which_nobody_measured_says_nothing_rather_than_zero():
    asked = config(rounds=5, evaluation={"workers": 2, "central": 3})
    records = [state.record for state in simulate(asked)]
    assert [len(r.evaluated) for r in records] == [0, 12, 0, 12, 12]
    for name, at in (("workers_accuracy", [2, 4, 5]), ("test_loss", [3, 5])):
        assert [r.round for r in records if name in r.metrics] == at
    names = {name.split("_")[0] for name in records[0].metrics}
    assert names == {"train", "round", "workers", "bytes"}
    assert [name for name in records[0].metrics if name.startswith("workers_")] == [
        "workers_arrived",
        "workers_refused",
    ]


def test_measuring_changes_nothing_of_the_model():
    never = list(simulate(config(evaluation={})))
    assert [s.model.digest for s in never] == [s.model.digest for s in trained()]
    sent = [s.record.metrics["bytes_down"] for s in (never[0], trained()[0])]
    assert sent[1] == 2 * sent[0]


def test_never_and_always_in_the_last():
    assert not any(due(0, round=round, rounds=9) for round in range(1, 10))
    assert [round for round in range(1, 10) if due(20, round=round, rounds=9)] == [9]


def test_all_workers_measure_whoever_was_drawn():
    asked = config(sampling={"kind": "uniform", "count": 2})
    for state in simulate(asked):
        assert len(state.record.contributions) == 2
        assert len(state.record.evaluated) == 12


@pytest.mark.parametrize("kind", ["fedbn", "fedper", "ditto"])
def test_each_worker_of_a_personal_strategy_uses_its_own_tensors_of_that_round(kind):
    model = {"kind": "custom", "entrypoint": "tests.fedcore.test_evaluation:normed"}
    asked = config(strategy={"kind": kind}, model=model, workers={"kind": "virtual", "count": 4})
    dealt = deal(asked.data, asked.workers, asked.model.loss, seed=asked.seed)
    made = found(asked).named(f"personal-{kind}", attempt=1)
    memories = open_store(f"live:personal-{kind}/memory")
    module = normed()
    for state in rounds(made):
        for told in state.record.evaluated:
            learnt = memories.get(f"{told.worker}/{state.round:07d}", Remembered).own
            module.load_state_dict({**state.model.tensors, **learnt})
            data = dealt.workers[told.worker]
            with torch.no_grad():
                loss = functional.cross_entropy(module.eval()(data.features), data.targets)
            assert told.measures["loss"] == pytest.approx(float(loss), rel=1e-5)
    memories.drop("")


def normed():
    return torch.nn.Sequential(
        torch.nn.Linear(64, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    )


class Silent(VirtualWorker):
    """Out of reach when it is asked to measure."""

    def evaluate(self, model):
        raise WorkerUnreachable("no route", worker=self.id, verb="evaluate", round=1)


def test_a_worker_that_does_not_answer_is_left_out_and_named():
    made = found(config(workers={"kind": "virtual", "count": 3})).named("silent", attempt=1)
    bob, *others = made.workers
    bob = Silent(bob.id, bob.store, bob.data, bob.memory)
    (*_, last) = rounds(replace(made, workers=[bob, *others]))
    assert last.record.evaluated.workers == tuple(worker.id for worker in others)
    assert last.record.unmeasured == {bob.id: "evaluate: no route"}
    assert last.record.missing == {}
    assert len(last.record.contributions) == 3
    means = [each.measures["accuracy"] for each in last.record.evaluated]
    assert last.record.metrics["workers_accuracy_worst"] == min(means)


def test_a_round_that_nobody_measured_is_finished_all_the_same():
    made = found(config(workers={"kind": "virtual", "count": 2})).named("mute", attempt=1)
    mute = [Silent(w.id, w.store, w.data, w.memory) for w in made.workers]
    (*_, last) = rounds(replace(made, workers=mute))
    assert "workers_accuracy" not in last.record.metrics
    assert last.record.unmeasured.keys() == {worker.id for worker in mute}


def test_figures_survive_a_checkpoint(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(config())
    for state in trained():
        folder.save(state)
    assert folder.records() == [state.record for state in trained()]
    assert folder.latest() == trained()[-1]


@pytest.mark.parametrize("kind", ["fedavg", "ditto"])
def test_a_training_that_goes_on_in_another_attempt_measures_the_same(kind):
    asked = config(strategy={"kind": kind}, workers={"kind": "virtual", "count": 3})
    whole = list(rounds(found(asked).named(f"whole-{kind}", attempt=1)))
    made = found(asked).named(f"again-{kind}", attempt=1)
    half = next(iter(rounds(made)))
    next(rounds(replace(made, start=half)))  # a second round, which is lost
    rest = list(rounds(replace(made.named(f"again-{kind}", attempt=2), start=half)))
    for state, other in zip(whole[1:], rest, strict=True):
        assert state.record.evaluated == other.record.evaluated
        assert _lasting(state) == _lasting(other)


def _lasting(state):
    return {n: v for n, v in state.record.metrics.items() if n != "round_seconds"}


def test_losses_where_there_are_no_classes():
    asked = config(
        data={"source": {"kind": "custom", "entrypoint": "tests.fedcore.test_evaluation:lines"}},
        model={"kind": "linear", "metrics": [{"kind": "mean_absolute_error"}]},
        workers={"kind": "virtual", "count": 3, "partition": {"kind": "iid"}},
    )
    (*_, last) = simulate(asked)
    losses = [each.measures["loss"] for each in last.record.evaluated]
    assert last.record.metrics["workers_loss_worst"] == pytest.approx(max(losses))
    assert "workers_mean_absolute_error" in last.record.metrics
    assert "workers_accuracy" not in last.record.metrics


def lines():
    x = torch.linspace(-1, 1, 60)[:, None]
    return Table(Dataset(x, 2 * x + x**2))


@pytest.mark.parametrize(
    ("model", "strategy", "together"),
    [
        ({"kind": "mlp"}, "fedavg", True),
        ({"kind": "mlp", "loss": {"kind": "mse"}}, "scaffold", True),
        ({"kind": "mlp", "loss": {"kind": "sum_squared_error"}}, "fedavg", True),
        ({"kind": "mlp"}, "ditto", False),
        ({"kind": "mlp", "loss": OWN_LOSS}, "fedavg", False),
    ],
)
def test_simulated_workers_measure_what_as_many_apart_do(model, strategy, together):
    told = []
    for workers in ({"kind": "virtual"}, {"kind": "simulated"}):
        made = found(
            config(
                model=model,
                strategy={"kind": strategy},
                local={"epochs": 1, "learning_rate": 0.001},
                workers={**workers, "count": 15, "partition": {"kind": "dirichlet"}},
            )
        ).named("alike", attempt=1)
        brief = evaluation_brief(made.strategy, made.start, made.terms, round=0)
        assert measures_together(brief) is together
        ref = publish(brief, terms=made.terms, wave="all")
        sums = Contributions.joined(
            fetch(worker.evaluate(worker.send(ref)), Contributions) for worker in made.workers
        )
        for worker in made.workers:
            worker.forget(brief.ticket)
        told.append(sums)
    apart, hosted = told
    assert float(hosted.measures["seen"].sum()) > MOST, "more records than are computed at once"
    assert apart.workers == hosted.workers
    assert apart.measures.keys() == hosted.measures.keys()
    for name in ("seen", "accuracy"):
        assert torch.equal(apart.measures[name], hosted.measures[name])
    assert torch.allclose(apart.measures["loss"], hosted.measures["loss"], rtol=1e-5)
