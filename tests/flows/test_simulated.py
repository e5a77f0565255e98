"""Very many workers through the whole product: what Prefect and MLflow hold of them."""

import csv
import json

import pytest
from mlflow import MlflowClient

COUNT, A_ROUND, ROUNDS, HOSTS = 600, 120, 3, 2
SETTINGS = [
    "workers.kind=simulated", f"workers.count={COUNT}", f"workers.hosts={HOSTS}",
    "sampling.kind=uniform", f"sampling.count={A_ROUND}", f"rounds={ROUNDS}", "local.epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def crowd(session_folder):
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    return session_folder.train("digits", *changes)


@pytest.fixture(scope="module")
def run(crowd, session_folder):
    return MlflowClient(session_folder.tracking_uri).get_run(crowd.run_id)


def test_task_runs_do_not_grow_with_the_workers(run, prefect_url, ask):
    flow_run = run.data.tags["prefect.flow_run_id"]
    of_flow = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
    names = [each["name"] for each in ask(prefect_url, "/task_runs/filter", of_flow)]
    assert len(names) == ROUNDS * (3 * HOSTS + 2)
    assert "r001-local_train-host-2" in names


def test_the_training_says_how_its_hosts_trained(crowd):
    lines = crowd.out.splitlines()
    assert f"digits: fedavg over {COUNT} workers" in crowd.out
    assert [line for line in lines if line.startswith("host-1 trains its workers ")] != []
    assert f"Learnt digits in {ROUNDS} rounds from {A_ROUND} workers in each." in lines


def test_the_table_of_workers_has_a_row_for_each_host(run, prefect_url, ask):
    of_flow = {"flow_runs": {"id": {"any_": [run.data.tags["prefect.flow_run_id"]]}}}
    artifacts = ask(prefect_url, "/artifacts/filter", of_flow)
    (table,) = (json.loads(a["data"]) for a in artifacts if a["key"] == "workers")
    assert [(row["worker"], row["workers"]) for row in table] == [("host-1", 300), ("host-2", 300)]
    assert all(": " in row["engine"] for row in table)


def test_each_workers_loss_lies_in_one_table_a_round(run, crowd, session_folder):
    client = MlflowClient(session_folder.tracking_uri)
    files = [file.path for file in client.list_artifacts(run.info.run_id, "workers")]
    assert files == [f"workers/round-{number:05d}.csv" for number in range(1, ROUNDS + 1)]
    path = client.download_artifacts(run.info.run_id, files[1], session_folder.path)
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["worker"] for row in rows}) == A_ROUND
    told = crowd.result["history"][1]
    assert {row["worker"]: float(row["train_loss"]) for row in rows} == told["workers"]
    records = [float(row["records"]) for row in rows]
    mean = sum(float(row["train_loss"]) * n for row, n in zip(rows, records, strict=True))
    assert mean / sum(records) == pytest.approx(told["train_loss"])


def test_quantiles_are_metrics_of_every_round(run, session_folder):
    client = MlflowClient(session_folder.tracking_uri)
    for name in ("train_loss_p10", "train_loss_p50", "train_loss_p90"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, ROUNDS + 1))
    assert run.data.tags["workers"] == str(COUNT)
