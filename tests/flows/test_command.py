"""`fedrounds train` as a person meets it."""

import json
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from fedcore.trees import digest

SMALL = ["--set", "rounds=3", "--set", "workers.count=3", "--set", "local.epochs=1"]


@pytest.fixture(scope="module")
def done(session_folder):
    return session_folder.train("digits", *SMALL)


@pytest.fixture(scope="module")
def client(session_folder):
    return MlflowClient(session_folder.tracking_uri)


def test_the_run_id_comes_first_and_the_terminal_says_what_leaves_the_workers(done):
    lines = done.out.splitlines()
    assert lines[0].split() == ["run", done.result["run_id"]]
    assert "disclosure open: updates leave the workers in the clear" in lines[1]


def test_json_is_the_whole_history_in_full_precision(done):
    result = done.result
    assert set(result) == {"run_id", "rounds", "model_digest", "history"}
    assert [h["round"] for h in result["history"]] == [1, 2, 3]
    for entry in result["history"]:
        assert set(entry) == {"round", "train_loss", "test_loss", "test_accuracy", "workers"}
        assert len(entry["workers"]) == 3
        assert 0 < entry["test_accuracy"] <= 1


def test_nothing_on_the_terminal_looks_like_a_failure(done):
    text = (done.out + done.err).lower()
    for word in ("traceback", "error", "exception", "warning", "failed", "locked"):
        assert word not in text


def test_the_same_settings_give_the_same_model_bit_for_bit(session_folder, done):
    again = session_folder.train("digits", *SMALL)
    assert again.result["model_digest"] == done.result["model_digest"]
    assert again.run_id != done.run_id
    other = session_folder.train("digits", *SMALL, "--set", "seed=1")
    assert other.result["model_digest"] != done.result["model_digest"]


def test_mlflow_holds_exactly_the_parent_and_its_children(folder):
    done = folder.train("digits", *SMALL)
    client = MlflowClient(folder.tracking_uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert [r.info.run_id for r in parents] == [done.run_id]
    assert len(runs) == 1 + 3
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_every_round_can_be_written_to_a_file(session_folder, done):
    for history in done.result["history"]:
        told = session_folder.run(
            "model", done.run_id, "--round", str(history["round"]), "--output", "w.safetensors"
        )
        assert told.status == 0, told.err
        found = digest(load_file(session_folder.path / "w.safetensors"))
        assert found in told.out
    assert found == done.result["model_digest"]
    wrong = session_folder.run("model", done.run_id, "--round", "9")
    assert wrong.status == 2
    assert "9" in wrong.err
    assert wrong.err.count("\n") == 1


def test_the_run_has_models_pictures_settings_and_its_true_status(client, done):
    run = client.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["strategy"] == "fedavg"
    assert run.data.tags["disclosure"] == "open"
    assert run.data.params["local.epochs"] == "1"
    assert len(run.inputs.dataset_inputs) == 4
    files = {f.path for f in client.list_artifacts(done.run_id)}
    assert {"settings.yaml", "workers.json", "rounds", "pictures"} <= files
    pictures = {f.path for f in client.list_artifacts(done.run_id, "pictures")}
    assert pictures == {f"pictures/{name}.png" for name in ("loss", "confusion", "label_counts")}
    models = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{done.run_id}'"
    )
    assert {m.name for m in models} == {"best", "final"}


def test_metrics_have_the_names_of_the_code_and_one_point_a_round(client, done):
    run = client.get_run(done.run_id)
    for name in (
        "train_loss", "test_loss", "test_accuracy", "round_seconds", "bytes_up", "bytes_down",
        "workers_arrived",
        "workers_refused",
    ):  # fmt: skip
        history = client.get_metric_history(done.run_id, name)
        assert [m.step for m in history] == [1, 2, 3]
    parameters = 64 * 64 + 64 + 64 * 10 + 10
    assert run.data.metrics["bytes_up"] == run.data.metrics["bytes_down"] == 3 * 4 * parameters


def test_a_trained_model_can_be_measured_on_every_worker(session_folder, done):
    told = session_folder.run("evaluate", done.run_id, "--json")
    assert told.status == 0, told.err
    found = told.result
    last = done.result["history"][-1]
    assert found["central"]["test_accuracy"] == last["test_accuracy"]
    assert found["central"]["test_loss"] == pytest.approx(last["test_loss"])
    assert sum(w["records"] for w in found["workers"].values()) == 1438
    assert all(0 < w["accuracy"] <= 1 for w in found["workers"].values())


def test_a_settings_file_of_ones_own_and_data_from_a_csv(folder):
    rows = ["size,colour_code,site,grade"]
    rows += [f"{i % 7},{i % 3},{'north' if i % 2 else 'south'},{'abc'[i % 3]}" for i in range(90)]
    (folder.path / "mine.csv").write_text("\n".join(rows))
    (folder.path / "mine.yaml").write_text(
        "name: mine\n"
        "rounds: 2\n"
        "data: {source: {kind: files, path: mine.csv, label: grade}}\n"
        "model: {kind: logistic}\n"
        "workers: {kind: virtual, partition: {kind: by_column, column: site}}\n"
    )
    result = folder.train("mine.yaml").result
    assert set(result["history"][0]["workers"]) == {"site-north", "site-south"}


def test_help_and_commands_answer_without_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "deployments.cli", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    for command in ("train", "centralised", "compare", "evaluate", "model", "up"):
        assert command in done.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def test_settings_as_recorded_train_the_same_model_again(session_folder, client, done):
    local = client.download_artifacts(done.run_id, "settings.yaml", str(session_folder.path))
    again = session_folder.train(local)
    assert again.result["model_digest"] == done.result["model_digest"]
    assert json.dumps(again.result["history"][0]["workers"])


def test_a_training_that_diverges_fails_with_status_1_and_keeps_what_is_committed(folder):
    wild = ["--set", "model.kind=linear", "--set", "local.learning_rate=20", "--set", "rounds=200"]
    failed = folder.run("train", "digits", *wild, "--set", "workers.count=2")
    assert failed.status == 1, failed.out + failed.err
    assert "must end in finite weights; given: NaN or infinity in" in failed.err
    assert "The global model is unchanged; start a new run" in failed.err
    assert failed.err.count("\n") == 1
    run = MlflowClient(folder.tracking_uri).get_run(failed.run_id)
    assert run.info.status == "FAILED"
    weights = folder.run("model", failed.run_id)
    assert weights.status == (0 if "round 1 of" in failed.out else 2)
