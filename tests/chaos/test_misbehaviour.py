"""Workers that raise, hang, answer late, twice, for another round, with NaN: the run ends right.

The oracle goes over who counted, and knows nothing of who did what.
"""

import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from mlflow import MlflowClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from torch import nn

from deployments.prefect_settings import apply_client_defaults
from fedcore.checkpoint import RunFolder
from fedcore.data.dealing import deal
from fedcore.errors import Diverged, QuorumNotMet
from fedcore.federation import found
from fedcore.initial import load_into
from fedcore.models import build
from fedcore.settings import parse
from flows import training
from flows.federated import federated_training
from tasks import tracking
from tests.chaos.misbehaviour import DEADLINE_S, HARMLESS, SCENES, Chaotic, Scene
from tests.conftest import PATIENCE

WORKERS, QUORUM, EPOCHS, RATE = 5, 2, 2, 0.1


def settings(rounds):
    return parse(
        {
            "name": "chaos",
            "rounds": rounds,
            "model": {"kind": "mlp", "hidden": []},
            "workers": {
                "kind": "virtual",
                "count": WORKERS,
                "partition": {"kind": "quantity_skew"},
            },
            # Whole gradients: nothing is drawn, so the oracle is a few lines.
            "local": {
                "epochs": EPOCHS,
                "batch_size": 0,
                "shuffle": False,
                "learning_rate": RATE,
                "optimiser": {"kind": "sgd"},
            },
            "terms": {"quorum": QUORUM, "deadline": DEADLINE_S, "retries": 1},
        }
    )


@pytest.fixture
def trained(prefect_url, tmp_path, monkeypatch):
    """Train among workers that misbehave, resumed until it is finished; what it left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FEDROUNDS_HOME", str(tmp_path / "home"))
    apply_client_defaults()
    tracking.prepare()
    scene = SCENES[str(tmp_path)] = Scene()

    def train(rounds, seed):
        def chaotic(config, **where):
            made = found(config, **where)
            return replace(made, workers=[Chaotic(w, seed, str(tmp_path)) for w in made.workers])

        monkeypatch.setattr(training, "found", chaotic)
        config, resume, stops, left = settings(rounds), None, [], []
        while True:
            try:
                with temporary_settings({PREFECT_API_URL: prefect_url}):
                    outcome = federated_training(config, resume=resume)
            except (QuorumNotMet, Diverged) as stop:
                stops.append(stop)
                (path,) = (tmp_path / "home").glob("*/settings.json")
                resume = path.parent.name
                run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(resume)
                left.append((RunFolder(path.parent).rounds()[-1], run.info.status))
            else:
                # A round that failed was not committed, and the run says so.
                assert left == [(stop.round - 1, "FAILED") for stop in stops]
                return config, RunFolder.of(outcome.run_id), stops, scene

    yield train
    scene.over.set()
    for thread in threading.enumerate():
        if thread.name == "verb":
            thread.join(PATIENCE)
    # What those told Prefect last: without a server, the tests' process would wait to be rid of it.
    EventsWorker.drain_all(timeout=PATIENCE, at_exit=False)


def by_hand(module, start, data):
    """What a worker's training makes of the model."""
    load_into(module, start)
    module.train()
    for _ in range(EPOCHS):
        module.zero_grad()
        nn.functional.cross_entropy(module(data.features), data.targets).backward()
        with torch.no_grad():
            for p in module.parameters():
                p -= RATE * p.grad
    return {name: tensor.detach().double() for name, tensor in module.state_dict().items()}


def check(config, folder, stops, scene):
    dealt = deal(config.data, config.workers, config.model.loss, seed=config.seed)
    module = build(found(config).terms.blueprint)
    assert folder.rounds()[-1] == config.rounds
    before = folder.load(0).model
    for round in range(1, config.rounds + 1):
        state = folder.load(round)
        record, counted = state.record, state.record.contributions.workers
        mine = {name: by_hand(module, before, dealt.workers[name]) for name in counted}
        n = {name: len(dealt.workers[name]) for name in counted}
        for key, tensor in state.model.tensors.items():
            mean = sum(n[name] / sum(n.values()) * mine[name][key] for name in counted)
            torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-6)
        assert sorted([*counted, *record.missing]) == sorted(dealt.workers)
        assert all(why and "\n" not in why for why in record.missing.values())
        refused = [why for why in record.missing.values() if why.startswith("refused: ")]
        assert record.metrics["workers_arrived"] == len(counted) >= QUORUM
        assert record.metrics["workers_refused"] == len(refused)
        for name in counted:
            assert scene.done[round, name][1] in HARMLESS, (round, name, scene.done[round, name])
        before = state.model
    assert stops
    for stop in stops:
        assert len(stop.missing) > WORKERS - QUORUM
        assert all(f"{name} ({why})" in str(stop) for name, why in stop.missing.items())
    assert {kind for _, kind in scene.done.values()} - set(HARMLESS), "nobody misbehaved"


def test_thirty_rounds_among_misbehaving_workers_end_right(trained):
    check(*trained(30, seed=8))  # which has each of the misdeeds, and stops three times


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_rounds_among_misbehaving_workers_end_right(trained):
    check(*trained(200, seed=2))


HANGS = """
import threading
from fedcore.checkpoint import RunFolder
from fedcore.settings import parse
from fedcore.workers.virtual import VirtualWorker
from flows.federated import federated_training
from deployments.prefect_settings import apply_client_defaults
from tasks import tracking

train = VirtualWorker.train

def hanging(worker, model):
    if worker.id == "worker-1":
        threading.Event().wait()
    return train(worker, model)

VirtualWorker.train = hanging
apply_client_defaults()
tracking.prepare()
done = federated_training(parse({"rounds": 2, "workers": {"kind": "virtual", "count": 3},
    "terms": {"quorum": 1, "deadline": 5, "retries": 0}}))
print([dict(record.missing) for record in RunFolder.of(done.run_id).records()], flush=True)
"""


def test_a_worker_that_hangs_for_good_holds_up_neither_the_flow_nor_the_process(folder):
    (folder.path / "hangs.py").write_text(HANGS)
    done = subprocess.run(
        [sys.executable, "hangs.py"],
        cwd=folder.path,
        env=folder.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[{'worker-1': 'no answer within 5 s'}] * 2}\n"
