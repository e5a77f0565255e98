"""Placed: what computes is done elsewhere, everything else here, with the same answers."""

import pickle
import re
from dataclasses import dataclass, field

import pytest
import torch

from fedcore.data import Dataset
from fedcore.errors import WorkerUnreachable
from fedcore.federation import found_with
from fedcore.rounds import publish
from fedcore.settings import parse
from fedcore.store import fetch
from fedcore.strategies import fedavg
from fedcore.values import Contributions, Sealed
from fedcore.workers import VirtualWorker
from fedcore.workers.placed import Placed

DATA = Dataset(torch.arange(12.0).reshape(6, 2) / 12, torch.tensor([0, 1, 0, 1, 0, 1]), ("a", "b"))


@dataclass
class Elsewhere:
    """Pickles what it is given, as a cluster would, and keeps what came back."""

    made: list[str] = field(default_factory=list)
    count: int = 2

    def call(self, verb, ref):
        verb, ref = pickle.loads(pickle.dumps((verb, ref)))
        answer = verb(ref)
        self.made.append(answer.kind)
        return answer


class Gone:
    count = 2

    def call(self, verb, ref):
        raise ConnectionError("the process died")


def asked(worker):
    config = parse({"model": {"kind": "mlp", "hidden": [3]}, "local": {"epochs": 2}})
    federation = found_with(config, [worker], fedavg(), sample=DATA).named("placed", attempt=1)
    made = federation.strategy.brief(federation.start, federation.terms)
    return publish(made, terms=federation.terms, wave="x")


def test_training_and_evaluating_travel_and_what_only_passes_values_on_does_not(tmp_path):
    told = []
    elsewhere = Elsewhere()
    for name in ("here", "there"):
        worker = VirtualWorker.holding("bob", DATA, stores=f"file://{tmp_path}/{name}/")
        placed = Placed(worker, elsewhere) if name == "there" else worker
        model = placed.send(asked(placed))
        sealed = fetch(placed.fetch(placed.train(model)), Sealed)
        placed.forget(model.ticket)
        model = placed.send(asked(placed))
        told.append((sealed.rows, fetch(placed.evaluate(model), Contributions)))
    assert elsewhere.made == ["Update", "Contributions"]
    assert torch.equal(told[0][0], told[1][0])
    assert told[0][1] == told[1][1]


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_process_that_died_is_a_worker_out_of_reach(verb):
    worker = Placed(VirtualWorker.holding("bob", DATA), Gone())
    model = worker.send(asked(worker))
    with pytest.raises(
        WorkerUnreachable, match=re.escape(f"bob in round 1, {verb}") + ".*the process died"
    ):
        getattr(worker, verb)(model)
    worker.forget(model.ticket)
