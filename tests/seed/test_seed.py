"""The seed's forty printed losses, through the flows, read back from MLflow.

The seed printed no initial weights; those in the named trainings were solved for and reproduce
every printed digit.
"""

import pytest
from mlflow import MlflowClient

CENTRALISED = [
    "0.6514",
    "0.4835",
    "0.3618",
    "0.2716",
    "0.2045",
    "0.1543",
    "0.1167",
    "0.0884",
    "0.0671",
    "0.0509",
    "0.0387",
    "0.0295",
    "0.0225",
    "0.0171",
    "0.0130",
    "0.0100",
    "0.0076",
    "0.0058",
    "0.0044",
    "0.0034",
]
FEDERATED = [
    "0.2889",
    "4.6312",
    "1.6807",
    "0.8786",
    "1.0805",
    "0.4585",
    "0.6363",
    "0.2632",
    "0.3731",
    "0.1522",
    "0.2191",
    "0.0881",
    "0.1290",
    "0.0511",
    "0.0761",
    "0.0296",
    "0.0451",
    "0.0172",
    "0.0268",
    "0.0100",
]


@pytest.fixture(scope="module")
def client(session_folder):
    return MlflowClient(session_folder.tracking_uri)


def printed(client, run_id):
    history = sorted(client.get_metric_history(run_id, "train_loss"), key=lambda m: m.step)
    assert [m.step for m in history] == list(range(1, len(history) + 1))
    return [f"{m.value:.4f}" for m in history]


def children(client, run_id):
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.info.run_name: run.info.run_id for run in found}


def test_the_federated_tutorial_prints_the_seeds_twenty_losses(session_folder, client):
    done = session_folder.train("tutorial")
    workers = children(client, done.run_id)
    assert set(workers) == {"bob", "alice"}
    bob, alice = (printed(client, workers[name]) for name in ("bob", "alice"))
    assert [loss for pair in zip(bob, alice, strict=True) for loss in pair] == FEDERATED
    assert [f"{h['workers']['bob']:.4f}" for h in done.result["history"]] == FEDERATED[::2]


@pytest.mark.parametrize("command", ["centralised", "train"])
def test_the_centralised_tutorial_prints_the_seeds_twenty_losses(session_folder, client, command):
    """Whether one asks for the baseline or for a federation of one worker with all rows."""
    done = session_folder.run(command, "tutorial-centralised", "--json")
    assert done.status == 0, done.err
    assert printed(client, done.run_id) == CENTRALISED
    assert {tuple(h["workers"]) for h in done.result["history"]} == {("centralised",)}
