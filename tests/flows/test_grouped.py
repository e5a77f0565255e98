"""Groups of workers through the whole product: what Prefect and MLflow hold of them."""

import json

import pytest
from mlflow import MlflowClient

GROUPS, COUNT, ROUNDS = 3, 8, 2
SETTINGS = [
    "workers.kind=grouped", f"workers.groups={GROUPS}", f"workers.count={COUNT}",
    "workers.inner_rounds=2", f"rounds={ROUNDS}", "local.epochs=1",
]  # fmt: skip
NAMES = ["group-1", "group-2", "group-3"]


@pytest.fixture(scope="module")
def grouped(session_folder):
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    return session_folder.train("digits", *changes)


@pytest.fixture(scope="module")
def client(session_folder):
    return MlflowClient(session_folder.tracking_uri)


@pytest.fixture(scope="module")
def run(grouped, client):
    return client.get_run(grouped.run_id)


def test_a_group_is_a_worker_in_prefect(run, prefect_url, ask):
    of_flow = {"flow_runs": {"id": {"any_": [run.data.tags["prefect.flow_run_id"]]}}}
    names = [each["name"] for each in ask(prefect_url, "/task_runs/filter", of_flow)]
    assert len(names) == ROUNDS * (3 * GROUPS + 2)
    assert {f"r001-local_train-{name}" for name in NAMES} <= set(names)
    artifacts = ask(prefect_url, "/artifacts/filter", of_flow)
    assert not [a["key"] for a in artifacts if "worker-1" in json.dumps(a["data"])]


def test_a_group_is_a_worker_in_mlflow(run, grouped, client):
    below = client.search_runs(
        [run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'"
    )
    assert sorted(child.info.run_name for child in below) == NAMES
    assert run.data.tags["workers"] == str(GROUPS)
    assert run.data.metrics["workers_arrived"] == GROUPS
    for round in grouped.result["history"]:
        assert sorted(round["workers"]) == NAMES


def test_a_trained_model_is_measured_on_every_group(grouped, session_folder):
    done = session_folder.run("evaluate", grouped.run_id, "--json")
    assert done.status == 0, done.err
    assert sorted(done.result["workers"]) == NAMES
    assert "worker-1" not in done.out
