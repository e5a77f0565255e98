"""What the Prefect server holds when a command has ended."""

import json

import pytest


@pytest.fixture(scope="module")
def tutorial(session_folder):
    return session_folder.train("tutorial")


@pytest.fixture(scope="module")
def flow_run(tutorial, prefect_url, session_folder, ask):
    from mlflow import MlflowClient

    tags = MlflowClient(session_folder.tracking_uri).get_run(tutorial.run_id).data.tags
    return ask(prefect_url, f"/flow_runs/{tags['prefect.flow_run_id']}")


@pytest.fixture(scope="module")
def task_runs(flow_run, prefect_url, ask):
    of_flow = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}, "limit": 200}
    return ask(prefect_url, "/task_runs/filter", of_flow)


def test_every_executed_task_run_is_recorded_and_completed(task_runs):
    """Ten rounds, two workers, three verbs each; an aggregate after each worker."""
    assert len(task_runs) == 10 * (2 * 3 + 2)
    assert {run["state_type"] for run in task_runs} == {"COMPLETED"}


def test_the_model_goes_to_bob_and_then_to_alice(task_runs):
    first = [run for run in task_runs if run["name"].startswith("r001-")]
    order = [run["name"] for run in sorted(first, key=lambda run: run["start_time"])]
    assert order == [
        "r001-send_model-bob", "r001-local_train-bob", "r001-fetch_update-bob", "r001-aggregate",
        "r001-send_model-alice", "r001-local_train-alice", "r001-fetch_update-alice",
        "r001-aggregate",
    ]  # fmt: skip


def test_each_verb_points_at_the_one_before_it_in_the_graph(task_runs):
    by_id = {run["id"]: run["name"] for run in task_runs}
    edges = {
        (by_id[source["id"]], run["name"])
        for run in task_runs
        for sources in run["task_inputs"].values()
        for source in sources
        if source["input_type"] == "task_run"
    }
    assert {
        ("r001-send_model-bob", "r001-local_train-bob"),
        ("r001-local_train-bob", "r001-fetch_update-bob"),
        ("r001-fetch_update-bob", "r001-aggregate"),
    } <= edges


def test_the_flow_run_is_completed_and_has_its_artifacts(flow_run, prefect_url, ask):
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["name"] == "tutorial"
    of_flow = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    artifacts = ask(prefect_url, "/artifacts/filter", of_flow)
    newest = {a["key"]: a for a in sorted(artifacts, key=lambda a: a["created"])}
    assert set(newest) == {"progress", "rounds", "workers", "labels", "mlflow-run"}
    assert newest["progress"]["data"] == 100
    rounds = json.loads(newest["rounds"]["data"])
    assert [row["round"] for row in rounds] == list(range(1, 11))
    workers = json.loads(newest["workers"]["data"])
    assert [(row["worker"], row["records"], row["labels"]) for row in workers] == [
        ("bob", 2, "0: 2"),
        ("alice", 2, "1: 2"),
    ]
    assert json.loads(newest["labels"]["data"]) == [
        {"worker": "bob", "class 0": 2, "class 1": 0},
        {"worker": "alice", "class 0": 0, "class 1": 2},
    ]


def test_every_log_line_of_the_training_is_in_the_runs_log(flow_run, prefect_url, ask):
    of_flow = {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}, "limit": 200}
    lines = [entry["message"] for entry in ask(prefect_url, "/logs/filter", of_flow)]
    assert any(line.startswith("round 10 of 10, train loss 0.0184") for line in lines)
    assert any("disclosure open" in line for line in lines)
