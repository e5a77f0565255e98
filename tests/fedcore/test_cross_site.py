"""Every worker's local model on every worker's records, against the same worked out in torch."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedcore.cross_site import COMMON, cross_site
from fedcore.data.dealing import deal
from fedcore.errors import Incompatible, WorkerUnreachable
from fedcore.federation import found
from fedcore.settings import parse
from fedcore.simulation import rounds
from fedcore.store import open_store
from fedcore.workers import VirtualWorker


def config(**changes):
    given = {
        "rounds": 2,
        "local": {"epochs": 2, "batch_size": 0, "learning_rate": 0.2},
        "model": {"kind": "logistic"},
        "workers": {"kind": "virtual", "count": 4},
        "evaluation": {"cross_site": True, "workers": 1},
    }
    return parse({**given, **changes})


def trained(name, **changes):
    made = found(config(**changes)).named(name, attempt=1)
    (*_, last) = rounds(made)
    return made, last


def local_model_by_hand(model, data):
    """Two steps of plain gradient descent on all records."""
    w, b = (t.clone().double().requires_grad_() for t in sorted_tensors(model))
    for _ in range(2):
        outputs = data.features.double() @ w.T + b
        found_w, found_b = torch.autograd.grad(
            functional.cross_entropy(outputs, data.targets), (w, b)
        )
        with torch.no_grad():
            w -= 0.2 * found_w
            b -= 0.2 * found_b
    return w.detach(), b.detach()


def sorted_tensors(model):
    return sorted(model.tensors.values(), key=lambda tensor: -tensor.dim())


def test_every_cell_is_one_workers_local_model_on_one_workers_records():
    made, last = trained("cells")
    matrix = cross_site(made, last)
    asked = config()
    dealt = deal(asked.data, asked.workers, asked.model.loss, seed=asked.seed).workers
    assert matrix.models == (COMMON, *dealt)
    assert matrix.workers == tuple(dealt)
    for m, model in enumerate(matrix.models):
        w, b = (
            (t.double() for t in sorted_tensors(last.model))
            if model == COMMON
            else local_model_by_hand(last.model, dealt[model])
        )
        for k, worker in enumerate(matrix.workers):
            data = dealt[worker]
            outputs = data.features.double() @ w.T + b
            loss = float(functional.cross_entropy(outputs, data.targets))
            hits = float((outputs.argmax(1) == data.targets).double().mean())
            assert float(matrix.values["loss"][m, k]) == pytest.approx(loss, rel=1e-4)
            assert float(matrix.values["accuracy"][m, k]) == pytest.approx(hits)


def test_the_common_models_row_is_what_the_workers_measured_in_the_last_round():
    made, last = trained("row")
    matrix = cross_site(made, last)
    told = {each.worker: each.measures for each in last.record.evaluated}
    assert [told[worker]["loss"] for worker in matrix.workers] == matrix.values["loss"][0].tolist()


@pytest.mark.parametrize("kind", ["fedavg", "fedprox", "scaffold", "feddyn", "sequential"])
def test_it_leaves_nothing_behind(kind):
    """A training that goes on after it is the same, bit for bit: scaffold remembers nothing."""
    made = found(config(strategy={"kind": kind}, rounds=3)).named(f"on-{kind}", attempt=1)
    digests = []
    for between in (False, True):
        here = made.named(f"on-{kind}-{between}", attempt=1)
        for state in rounds(here):
            if between:
                known = open_store(f"live:on-{kind}-True/memory").names()
                first = cross_site(here, state)
                assert open_store(f"live:on-{kind}-True/memory").names() == known
                again = cross_site(here, state)
                assert torch.equal(first.values["loss"], again.values["loss"])
        digests.append(state.model.digest)
    assert digests[0] == digests[1]


class Mute(VirtualWorker):
    """Out of reach when it is asked to seal its local model."""

    def fetch(self, update):
        raise WorkerUnreachable("no route", worker=self.id, verb="fetch", round=3)


class Blind(VirtualWorker):
    """Out of reach when it is asked to measure."""

    def evaluate(self, model):
        raise WorkerUnreachable("no route", worker=self.id, verb="evaluate", round=3)


def test_who_does_not_answer_has_no_row_or_no_column():
    made, last = trained("silent")
    a, b, c, d = made.workers
    mute = Mute(a.id, a.store, a.data, a.memory)
    blind = Blind(b.id, b.store, b.data, b.memory)
    matrix = cross_site(replace(made, workers=[mute, blind, c, d]), last)
    assert matrix.models == (COMMON, b.id, c.id, d.id)
    assert matrix.workers == (a.id, c.id, d.id)
    assert matrix.values["accuracy"].shape == (4, 3)
    assert matrix.missing == {a.id: "fetch: no route", b.id: "evaluate: no route"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": {"kind": "virtual", "count": 51}}, "at most 50 .*given: 51 workers"),
        ({"workers": {"kind": "simulated", "count": 4}}, "simulated.*workers.kind virtual"),
        ({"strategy": {"kind": "ditto"}}, "ditto, which has tensors that never travel"),
        ({"strategy": {"kind": "fedper"}, "model": {"kind": "mlp"}}, "fedper, which has tensors"),
    ],
)
def test_what_cannot_be_measured_across_is_refused_at_the_start(changes, message):
    with pytest.raises(Incompatible, match=message):
        found(config(**changes))
