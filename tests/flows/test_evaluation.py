"""What workers measure, through the whole product: Prefect, MLflow and the command line."""

import csv
import json

import pytest
from mlflow import MlflowClient

from fedcore.settings import parse
from fedcore.simulation import simulate

SETTINGS = ["rounds=3", "local.epochs=1", "workers.count=4", "evaluation.workers=2",
            "evaluation.cross_site=true"]  # fmt: skip
WORKERS = [f"worker-{number}" for number in range(1, 5)]
FIGURES = ["workers_loss", "workers_accuracy", "workers_accuracy_worst",
           "workers_accuracy_spread", "workers_accuracy_jain"]  # fmt: skip


@pytest.fixture(scope="module")
def done(session_folder):
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    return session_folder.train("digits", *changes)


@pytest.fixture(scope="module")
def client(session_folder):
    return MlflowClient(session_folder.tracking_uri)


@pytest.fixture(scope="module")
def flow_run(client, done):
    return client.get_run(done.run_id).data.tags["prefect.flow_run_id"]


@pytest.fixture(scope="module")
def simulated():
    """The same training in plain Python."""
    asked = {
        "rounds": 3,
        "local": {"epochs": 1},
        "workers": {"kind": "virtual", "count": 4},
        "evaluation": {"workers": 2},
    }
    return [state.record for state in simulate(parse(asked))]


def points(client, run, name):
    return {point.step: point.value for point in client.get_metric_history(run, name)}


def test_the_runs_figures_are_those_of_a_simulation(client, done, simulated):
    for name in FIGURES:
        assert points(client, done.run_id, name) == {
            record.round: record.metrics[name] for record in simulated[1:]
        }
    assert simulated[0].metrics.keys().isdisjoint(FIGURES)


def test_each_workers_run_has_its_own_figures_by_the_same_names(client, done, simulated):
    experiment = client.get_run(done.run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{done.run_id}'")
    runs = {run.data.tags["fedrounds.worker"]: run.info.run_id for run in found}
    assert sorted(runs) == WORKERS
    for record in simulated[1:]:
        for each in record.evaluated:
            for name in ("loss", "accuracy"):
                told = points(client, runs[each.worker], f"workers_{name}")
                assert list(told) == [2, 3]
                assert told[record.round] == each.measures[name]


def test_measuring_is_a_task_run_of_each_worker(flow_run, prefect_url, ask):
    of_flow = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
    names = [run["name"] for run in ask(prefect_url, "/task_runs/filter", of_flow)]
    for round in (2, 3):
        for worker in WORKERS:
            assert names.count(f"r{round:03d}-evaluate-{worker}") == 1
    assert "r001-evaluate-worker-1" not in names
    assert {f"r004-cross_site-{worker}" for worker in WORKERS} <= set(names)
    assert "r004-aggregate" not in names


def test_the_tables_of_the_flow_run(flow_run, prefect_url, ask):
    of_flow = {"flow_runs": {"id": {"any_": [flow_run]}}}
    found = {a["key"]: a for a in ask(prefect_url, "/artifacts/filter", of_flow)}
    rounds = json.loads(found["rounds"]["data"])
    assert [row["workers_accuracy_worst"] == "" for row in rounds] == [True, False, False]
    across = json.loads(found["cross-site"]["data"])
    assert [row["model of"] for row in across] == ["common model", *WORKERS]
    assert all(list(row)[1:] == WORKERS for row in across)


def test_the_matrix_lies_in_mlflow_and_the_command_finds_it_again(client, done, session_folder):
    path = client.download_artifacts(done.run_id, "cross_site.csv", session_folder.path)
    with open(path, encoding="utf-8") as file:
        rows = {(r["model"], r["worker"]): float(r["accuracy"]) for r in csv.DictReader(file)}
    assert len(rows) == 5 * 4
    pictures = [file.path for file in client.list_artifacts(done.run_id, "pictures")]
    assert "pictures/cross_site.png" in pictures
    told = session_folder.run("evaluate", done.run_id, "--cross-site", "--json")
    assert told.status == 0, told.err
    result = told.result
    assert {(m, w): v for m, row in result["cross_site"].items() for w, v in row.items()} == rows
    for name in FIGURES:
        assert result["overall"][name] == points(client, done.run_id, name)[3]
        assert name in told.out
