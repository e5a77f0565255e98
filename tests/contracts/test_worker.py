"""What every worker must keep, whatever kind it is."""

import pickle
import threading
from importlib import import_module
from uuid import uuid4

import numpy as np
import pytest
import torch

from fedcore.data import Dataset, Holdings
from fedcore.errors import CheckpointError, WorkerFailed, WorkerRefused
from fedcore.federation import found_with
from fedcore.rounds import publish
from fedcore.settings import parse
from fedcore.store import fetch, open_store
from fedcore.strategies import fedavg
from fedcore.values import Contributions, Ref, Sealed
from fedcore.workers import CohortWorker, GroupWorker, VirtualWorker

DATA = Dataset(torch.arange(12.0).reshape(6, 2) / 12, torch.tensor([0, 1, 0, 1, 0, 1]), ("a", "b"))


def virtual(id: str, data: Dataset):
    return VirtualWorker.holding(id, data)


def cohort(id: str, data: Dataset):
    return CohortWorker.holding(id, Holdings((id,), torch.tensor([len(data)]), data))


def group(id: str, data: Dataset):
    half = len(data) // 2
    parts = {f"{id}-1": range(half), f"{id}-2": range(half, len(data))}
    members = [
        VirtualWorker.holding(name, data.take(np.array(part))) for name, part in parts.items()
    ]
    return GroupWorker.of(id, members)


def data_of(worker):
    """A pointer to records behind the handle."""
    return worker.members[0].data if isinstance(worker, GroupWorker) else worker.data


KINDS = {"virtual": virtual, "cohort": cohort, "group": group}
UPDATES = {"virtual": "Update", "cohort": "CohortUpdate", "group": "Update"}
TRAIN_AT_ONCE = {"virtual": 1, "cohort": 1, "group": 2}
TRAINERS = {
    "virtual": "fedcore.workers.virtual.train_locally",
    "cohort": "fedcore.workers.cohort.participate_together",
    "group": "fedcore.workers.virtual.train_locally",
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def worker(kind):
    return KINDS[kind]("bob", DATA)


@pytest.fixture
def brief(worker):
    config = parse({"model": {"kind": "mlp", "hidden": [3]}, "local": {"epochs": 2}})
    federation = found_with(config, [worker], fedavg(), sample=DATA).named(uuid4().hex, attempt=1)
    made = federation.strategy.brief(federation.start, federation.terms)
    return publish(made, terms=federation.terms, wave="bob")


def test_the_verbs_answer_with_pointers_to_what_lies_at_the_worker(worker, brief):
    model = worker.send(brief)
    update = worker.train(model)
    sealed = worker.fetch(update)
    assert {model.owner, update.owner, sealed.owner} == {"bob"}
    assert [r.ticket for r in (model, update, sealed)] == [brief.ticket] * 3
    assert fetch(sealed, Sealed).contributions[0].weight == 6


def test_every_verb_does_a_tickets_work_once(worker, brief):
    model = worker.send(brief)
    assert worker.send(brief) == model
    update = worker.train(model)
    sealed = fetch(worker.fetch(update), Sealed)
    assert worker.train(model) == update
    assert fetch(worker.fetch(update), Sealed) is sealed


def test_verbs_asked_at_the_same_time_train_once(kind, worker, brief, monkeypatch):
    """A retry may come while the first call still runs."""
    module, _, name = TRAINERS[kind].rpartition(".")
    calls, real = [], getattr(import_module(module), name)
    monkeypatch.setattr(
        TRAINERS[kind], lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    model = worker.send(brief)
    threads = [threading.Thread(target=worker.train, args=(model,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == TRAIN_AT_ONCE[kind]


def test_training_twice_gives_the_same_bits(kind, brief):
    told = []
    for _ in range(2):
        worker = KINDS[kind]("bob", DATA)
        model = worker.send(brief)
        sealed = fetch(worker.fetch(worker.train(model)), Sealed)
        told.append(sealed.rows if sealed.sums is None else sealed.sums)
        worker.forget(brief.ticket)
    assert torch.equal(*told)


@pytest.mark.parametrize("verb", ["train", "fetch", "evaluate"])
def test_a_worker_never_hands_over_its_data(worker, brief, verb):
    with pytest.raises(
        WorkerRefused, match=r"bob in round 0.*pointer to a (Dataset|Holdings).*unchanged"
    ):
        getattr(worker, verb)(data_of(worker))


def test_a_pointer_to_another_workers_update_is_refused(kind, worker, brief):
    update = worker.train(worker.send(brief))
    stranger = Ref("alice", update.kind, update.store, update.key, update.ticket)
    with pytest.raises(
        WorkerRefused, match=f"of bob; given: a pointer to a {UPDATES[kind]} of alice"
    ):
        worker.fetch(stranger)


def test_verbs_out_of_order_are_refused(kind, worker, brief):
    model = worker.send(brief)
    with pytest.raises(WorkerRefused, match=f"fetch needs a pointer to a {UPDATES[kind]}"):
        worker.fetch(model)


def test_what_a_handle_holds_is_small_and_no_data(worker):
    assert len(pickle.dumps(worker)) < 1000
    assert b"0.0833" not in pickle.dumps(worker)
    assert "tensor" not in repr(worker)


def test_a_description_counts_and_shows_no_record(worker):
    description = worker.describe()
    assert description.records == 6
    assert dict(description.labels) == {"a": 3, "b": 3}
    assert description.inputs == (2,)
    assert not any(isinstance(v, torch.Tensor) for v in vars(description).values())


def test_evaluation_comes_back_as_sums(worker, brief):
    (found,) = fetch(worker.evaluate(worker.send(brief)), Contributions)
    assert found.measures["seen"] == 6
    assert 0 <= found.measures["accuracy"] <= 6


def test_an_error_in_the_workers_code_names_it_and_says_the_model_is_unchanged(kind, brief):
    broken = KINDS[kind](
        "bob", Dataset(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), ("a", "b"))
    )
    with pytest.raises(WorkerFailed, match=r"bob in round 1, train: its code raised.*unchanged"):
        broken.train(broken.send(brief))


def test_what_was_kept_for_retries_can_be_forgotten(worker, brief):
    update = worker.train(worker.send(brief))
    worker.forget(update.ticket)
    with pytest.raises(CheckpointError, match="given: nothing"):
        open_store(update.store).get(update.key, object)
    assert worker.describe().records == 6
