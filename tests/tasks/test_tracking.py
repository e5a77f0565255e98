"""What MLflow holds of a training: all of it, once, whatever happened on the way."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import ViewType
from safetensors.torch import load

from fedcore.errors import ConfigError, UnknownRun
from fedcore.settings import TrainingConfig
from fedcore.settings.model import Inline, Linear
from fedcore.trees import digest
from fedcore.values import Contributions, Description
from tasks import tracking
from tasks.tracking import FlowRunLink, Progress, Tracker
from tasks.tracking.artifacts import read_artifact, write_file
from tasks.tracking.children import children
from tasks.tracking.rounds import model_rounds
from tasks.tracking.server import client

Begin = Callable[..., Any]
FLOW_RUN = FlowRunLink("0198c2aa-1111-7000-8000-000000000001", "http://prefect/runs/1")
RETRY = FlowRunLink("0198c2aa-2222-7000-8000-000000000002", "http://prefect/runs/2")


def all_runs() -> list[Any]:
    mlflow = client()
    experiments = [e.experiment_id for e in mlflow.search_experiments()]
    return list(mlflow.search_runs(experiments, run_view_type=ViewType.ALL, max_results=1000))


def once(training: Any) -> None:
    """No step of any metric is missing, none is there twice."""
    for name in training.records[0].metrics:
        assert training.points(name) == training.expected(name), name


# --- where -----------------------------------------------------------------------------------


def test_without_a_setting_the_database_in_the_working_folder_is_used(place: Path) -> None:
    assert tracking.tracking_uri() == f"sqlite:///{place}/mlflow.db"


def test_the_setting_wins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    assert tracking.tracking_uri() == "http://example.org"


def test_a_leftover_file_store_is_not_used(place: Path, begin: Begin) -> None:
    (place / "mlruns" / "0").mkdir(parents=True)
    (place / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\n")
    training = begin(rounds=1)
    tracking.log_round(training.run, training.records[0])
    once(training)
    assert [p.name for p in (place / "mlruns").rglob("*")] == ["0", "meta.yaml"]


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_the_file_store_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="must be a server or a database"):
        tracking.check_reachable()


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("http://me:secret@127.0.0.1:9/?token=secret", "nothing listens there"),
        ("http://no-such-host.invalid:5000", "no such host|answered"),
        ("sqlite:////no/such/folder/mlflow.db", "there is no folder"),
        ("sqlite:////proc/mlflow.db", "unable to open"),
        ("postgresql://me:secret@127.0.0.1:9/mlflow", "psycopg2|refused|no answer"),
    ],
)
def test_what_does_not_answer_is_refused_soon_without_its_secrets(
    place: Path, monkeypatch: pytest.MonkeyPatch, uri: str, cause: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=cause) as caught:
        tracking.check_reachable()
    assert time.monotonic() - began < 12
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_file_that_is_no_database_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "other.db").write_text("not a database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/other.db")
    with pytest.raises(ConfigError, match="not a database"):
        tracking.check_reachable()


@pytest.fixture
def closed_door() -> Iterator[str]:
    """A server that answers 401 to everybody."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Door) as door:
        thread = threading.Thread(target=door.serve_forever)
        thread.start()
        yield f"127.0.0.1:{door.server_port}"
        door.shutdown()
        thread.join()


def test_a_server_that_does_not_let_us_in_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, closed_door: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{closed_door}")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME") as caught:
        tracking.check_reachable()
    assert "secret" not in str(caught.value)


def test_a_server_that_hangs_is_refused_within_ten_seconds(server: Any) -> None:
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(ConfigError, match="no answer in 8 seconds"):
            tracking.check_reachable()
        assert time.monotonic() - began < 11
    finally:
        server.signal(signal.SIGCONT)


def test_two_processes_can_start_on_an_empty_folder_at_once(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    code = "from tasks import tracking; tracking.prepare(); tracking.prepare()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said == [b"", b""]  # nothing of it is a newcomer's business


# --- a run -----------------------------------------------------------------------------------


@pytest.fixture(params=["direct", "server"])
def either(request: pytest.FixtureRequest) -> str:
    """The database directly, and a server."""
    request.getfixturevalue({"direct": "place", "server": "server"}[request.param])
    return str(request.param)


def test_a_run_says_what_it_is(either: str, begin: Begin) -> None:
    config = TrainingConfig(name="digits of mine", experiment=f"mine/{either}")
    described = [
        Description("alice", 30, (64,), {"0": 10, "1": 20}, "a" * 64),
        Description("bob", 12, (64,), {"0": 12, "1": 0}, "b" * 64),
    ]
    run = tracking.start_run(config, kind="federated", descriptions=described, flow_run=FLOW_RUN)
    mlflow = client()
    kept = mlflow.get_run(run.id)
    tags, params = kept.data.tags, kept.data.params
    assert kept.info.run_name == "digits of mine"
    assert mlflow.get_experiment(run.experiment_id).name == f"mine/{either}"
    assert kept.info.status == "RUNNING"
    assert (tags["strategy"], tags["workers"], tags["disclosure"], tags["kind"]) == (
        "fedavg",
        "2",
        "open",
        "federated",
    )
    assert tags["prefect.flow_run_id"] == FLOW_RUN.id
    assert tags["prefect.flow_run_link"] == FLOW_RUN.url
    assert len(tags["fedrounds.settings_digest"]) == 64
    assert tags["fedrounds.version"]
    assert tags["fedrounds.folder"] == str(tracking.find_run(run.id).folder)
    assert params["local.learning_rate"] == "0.3"
    assert params["model.hidden"] == "[64]"
    assert params["local.steps"] == "none"
    assert params["strategy.kind"] == "fedavg"
    sets = {d.dataset.name: d.dataset for d in kept.inputs.dataset_inputs}
    assert set(sets) == {"digits", "alice", "bob"}
    assert sets["alice"].digest == "a" * 32
    assert json.loads(sets["digits"].profile)["num_rows"] == 42
    settings = yaml.safe_load(read_artifact(mlflow, run.id, "settings.yaml"))
    assert TrainingConfig.model_validate(settings) == config
    workers = json.loads(read_artifact(mlflow, run.id, "workers.json"))
    assert [(w["worker"], w["records"], w["labels"]["0"]) for w in workers] == [
        ("alice", 30, 10),
        ("bob", 12, 12),
    ]
    assert workers[1]["fingerprint"] == "b" * 64


def test_a_long_setting_is_cut_in_the_table_and_whole_in_the_file(place: Path) -> None:
    weights = {"0.weight": [[0.1234567] * 3000]}
    config = TrainingConfig(model=Linear(initial=Inline(weights=weights)))
    run = tracking.start_run(config, kind="federated", descriptions=[])
    shown = client().get_run(run.id).data.params["model.initial.weights"]
    assert len(shown) == 6000
    assert shown.endswith("whole in settings.yaml)")
    settings = yaml.safe_load(read_artifact(client(), run.id, "settings.yaml"))
    assert TrainingConfig.model_validate(settings) == config


def test_there_is_never_a_run_that_nobody_opened(place: Path, begin: Begin) -> None:
    training = begin(workers=3, rounds=2)
    tracker = Tracker(training.run, training.folder)
    threads = [threading.Thread(target=tracker.round, args=(training.records,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracking.finish(training.run, "FINISHED", records=training.records)
    found = all_runs()
    assert Counter(run.info.run_name for run in found)["test"] == 1
    assert {run.info.run_name for run in found} == {
        "test",
        "worker-001",
        "worker-002",
        "worker-003",
    }
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_start_that_fails_leaves_no_run(place: Path, begin: Begin) -> None:
    (place / "mlartifacts").write_text("in the way of the folder")
    with pytest.raises(ConfigError, match="MLflow must take the training's run"):
        begin()
    assert [run.info.lifecycle_stage for run in all_runs()] == ["deleted"]


def test_a_deleted_experiment_is_named(place: Path, begin: Begin) -> None:
    client().delete_experiment(begin().run.experiment_id)
    with pytest.raises(ConfigError, match="deleted; restore it"):
        begin()


# --- finding it again ------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_its_flow_run_and_as_the_latest(either: str, begin: Begin) -> None:
    older, newer = begin(workers=2, rounds=1), begin(workers=3)
    newer.folder.save(newer.state)
    begin(workers=4)  # killed before its start was saved: nothing to go on with
    found = tracking.find_run(older.run.id)
    assert (found.id, found.status, found.kind, found.name) == (
        older.run.id,
        "RUNNING",
        "federated",
        "test",
    )
    assert found.run == older.run
    assert found.folder == older.folder.path
    assert tracking.find_run("latest").id == newer.run.id
    assert tracking.find_run("latest", latest="trained").id == older.run.id
    tracking.finish(newer.run, "FINISHED")
    tracking.finish(older.run, "FAILED")
    assert tracking.find_run("latest").id == older.run.id
    tracking.reopen(tracking.find_run(older.run.id), flow_run=FLOW_RUN)
    tracking.reopen(tracking.find_run(older.run.id), flow_run=RETRY)
    tracking.reopen(tracking.find_run(older.run.id), flow_run=FLOW_RUN)
    for flow_run in (FLOW_RUN, RETRY):
        by_flow_run = tracking.find_by_flow_run(flow_run.id)
        assert by_flow_run is not None
        assert by_flow_run.id == older.run.id
        assert tracking.find_run(flow_run.id).status == "RUNNING"
    tags = client().get_run(older.run.id).data.tags
    assert tags["prefect.flow_run_id"] == FLOW_RUN.id
    assert tags["prefect.flow_run_ids"].split() == [FLOW_RUN.id, RETRY.id]
    assert tracking.find_by_flow_run("0198c2aa-3333-7000-8000-000000000003") is None
    tracking.finish(older.run, "FINISHED")


def test_what_is_not_found_is_said_with_what_is_near(place: Path, begin: Begin) -> None:
    with pytest.raises(UnknownRun, match="not finished; given: none"):
        tracking.find_run("latest")
    training = begin(rounds=1)
    tracking.log_workers(training.run, training.records)
    near = training.run.id[:-1] + "x"
    with pytest.raises(UnknownRun, match=f"nearest: '{training.run.id}'"):
        tracking.find_run(near)
    with pytest.raises(UnknownRun, match=f"newest so named is {training.run.id}"):
        tracking.find_run("test")
    with pytest.raises(UnknownRun, match="nearest: 'latest'"):
        tracking.find_run("lastest")
    known = children(client(), training.run.id, experiment=training.run.experiment_id)
    with pytest.raises(UnknownRun, match=f"a worker's part of run {training.run.id}"):
        tracking.find_run(known["worker-002"])
    stranger = client().create_run("0").info.run_id
    with pytest.raises(UnknownRun, match="another program's run"):
        tracking.find_run(stranger)
    client().delete_run(training.run.id)
    with pytest.raises(UnknownRun, match="deleted in MLflow; restore it"):
        tracking.find_run(training.run.id)
    with pytest.raises(UnknownRun, match="not finished; given: none"):
        tracking.find_run("latest")


# --- rounds ----------------------------------------------------------------------------------


def test_a_round_told_again_is_stored_once(either: str, begin: Begin) -> None:
    training = begin(rounds=4)
    for record in training.records[:3]:
        tracking.log_round(training.run, record)
    tracking.log_round(training.run, training.records[2])
    tracking.log_history(training.run, training.records)
    tracking.log_history(training.run, training.records)
    once(training)
    assert set(client().get_run(training.run.id).data.metrics) == set(training.records[0].metrics)


def test_a_metric_that_is_not_a_number_is_stored_once_too(place: Path, begin: Begin) -> None:
    training = begin(rounds=1)
    record = replace(training.records[0], metrics={"train_loss": math.nan, "test_loss": 1.0})
    for _ in range(2):
        tracking.log_round(training.run, record)
    (point,) = training.points("train_loss")
    assert math.isnan(point[1])
    assert training.points("test_loss") == [(1, 1.0)]


def test_more_rounds_than_fit_in_a_batch(place: Path, begin: Begin) -> None:
    training = begin(workers=1)
    for _ in range(600):
        training.round()
    tracking.log_history(training.run, training.records)
    once(training)


def test_the_model_of_any_round_is_plain_named_tensors(either: str, begin: Begin) -> None:
    training = begin(rounds=3)
    with pytest.raises(UnknownRun, match="has none yet"):
        tracking.load_model_file(training.run, 1)
    for round in (1, 2, 3):
        tracking.log_round_model(training.run, round, training.folder.load(round).model)
    for round in (1, 2, 3):
        tensors = load(tracking.load_model_file(training.run, round))
        assert digest(tensors) == training.folder.load(round).model.digest
    with pytest.raises(UnknownRun, match="given: 9; choose from 1 to 3"):
        tracking.load_model_file(tracking.find_run(training.run.id), 9)
    tracking.finish(training.run, "FINISHED")


def test_workers_have_curves_of_their_own_and_never_two(either: str, begin: Begin) -> None:
    training = begin(workers=4, rounds=3)
    tracking.log_workers(training.run, training.records[:1])
    tracking.log_workers(training.run, training.records)
    tracking.log_workers(training.run, training.records)
    mlflow = client()
    known = children(mlflow, training.run.id, experiment=training.run.experiment_id)
    assert sorted(known) == ["worker-001", "worker-002", "worker-003", "worker-004"]
    runs = mlflow.search_runs(
        [training.run.experiment_id], f"tags.`mlflow.parentRunId` = '{training.run.id}'"
    )
    assert len(runs) == 4
    third = known["worker-003"]
    assert mlflow.get_run(third).info.run_name == "worker-003"
    assert training.points("train_loss", third) == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert training.points("records", third) == [(1, 12.0), (2, 12.0), (3, 12.0)]
    tracking.finish(training.run, "KILLED", records=training.records)
    assert {mlflow.get_run(id).info.status for id in known.values()} == {"KILLED"}
    tracking.reopen(tracking.find_run(training.run.id))
    assert {mlflow.get_run(id).info.status for id in known.values()} == {"RUNNING"}
    tracking.finish(training.run, "FINISHED", records=training.records)


def test_a_lonely_worker_needs_no_curve(place: Path, begin: Begin) -> None:
    training = begin(workers=1, rounds=2)
    tracking.log_workers(training.run, training.records)
    assert len(all_runs()) == 1


def test_very_many_workers_become_quantiles_and_tables(place: Path, begin: Begin) -> None:
    training = begin(workers=101, rounds=2)
    for _ in range(2):
        tracking.log_workers(training.run, training.records)
    assert len(all_runs()) == 1
    tracking.log_history(training.run, training.records)
    for quantile in (10, 50, 90):
        points = training.points(f"train_loss_p{quantile}")
        assert points == [(1, float(quantile)), (2, float(quantile))]
    table = read_artifact(client(), training.run.id, "workers/round-00002.csv").decode()
    assert table.splitlines()[:2] == ["worker,train_loss,records", "worker-001,0.5,10"]
    assert len(table.splitlines()) == 102


def test_trainings_that_start_at_once_on_the_same_data_all_start(server: Any) -> None:
    """Each names the data set and the experiment, and MLflow takes a new name only once."""
    who = [Description("bob", 3, (2,), {}, "f" * 64), Description("alice", 4, (2,), {}, "e" * 64)]
    at_once = threading.Barrier(6)

    def begin(experiment: str) -> str:
        at_once.wait()
        config = TrainingConfig(experiment=experiment)
        return tracking.start_run(config, kind="federated", descriptions=who).id

    with ThreadPoolExecutor(6) as pool:
        for number in range(3):
            runs = list(pool.map(begin, [f"race-{number}"] * 6))
            assert len({*runs}) == 6
            for run in runs:
                assert len(client().get_run(run).inputs.dataset_inputs) == 3


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_its_true_status_and_what_it_reached(
    place: Path, begin: Begin, status: Any
) -> None:
    training = begin(rounds=5)
    for _ in range(2):
        tracking.finish(training.run, status, records=training.records)
    kept = client().get_run(training.run.id)
    assert kept.info.status == status
    assert kept.info.end_time
    assert kept.data.metrics["best_round"] == 3  # the smallest test loss
    assert kept.data.metrics["best_test_loss"] == 0.5
    assert kept.data.metrics["best_test_accuracy"] == training.records[2].metrics["test_accuracy"]
    assert training.points("best_round") == [(5, 3.0)]


def test_the_best_round_without_test_records_has_the_smallest_train_loss() -> None:
    def record(round: int, **metrics: float) -> Any:
        from fedcore.values import RoundRecord

        return RoundRecord(round, 1, metrics, Contributions())

    losses = [3.0, math.nan, 1.0, 1.0, math.inf]
    records = [record(i, train_loss=loss) for i, loss in enumerate(losses, 1)]
    assert tracking.summary(records) == {"best_round": 3.0, "best_train_loss": 1.0}
    assert tracking.summary(records[1:2])["best_round"] == 2.0


# --- direct and served together --------------------------------------------------------------


def test_a_run_made_directly_is_seen_through_a_server_started_later(
    server: Any, monkeypatch: pytest.MonkeyPatch, begin: Begin
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.folder}/mlflow.db")
    training = begin(rounds=2)
    for round in (1, 2):
        training.folder.load(round)
        tracking.log_round_model(training.run, round, training.folder.load(round).model)
    server.kill()
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert tracking.find_run("latest").id == training.run.id
    assert load(tracking.load_model_file(training.run, 2))
    # As the server's own pages fetch it, without a look at this machine's disk:
    shown = _get(f"{server.url}/get-artifact?path=settings.yaml&run_uuid={training.run.id}")
    assert yaml.safe_load(shown)["name"] == "test"
    listed = json.loads(
        _get(
            f"{server.url}/ajax-api/2.0/mlflow/artifacts/list?run_id={training.run.id}&path=rounds"
        )
    )
    assert [Path(f["path"]).name for f in listed["files"]] == [
        "round-00001.safetensors",
        "round-00002.safetensors",
    ]
    # It goes on through the server:
    tracking.log_round_model(training.run, 3, training.state.model)
    assert tracking.load_model_file(training.run, 3)
    tracking.finish(training.run, "FINISHED")


def test_a_run_made_through_a_server_goes_on_without_it(
    server: Any, monkeypatch: pytest.MonkeyPatch, begin: Begin
) -> None:
    training = begin(rounds=2)
    kept = client().get_run(training.run.id).info.artifact_uri
    tracking.log_round_model(training.run, 1, training.folder.load(1).model)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.folder}/mlflow.db")
    assert load(tracking.load_model_file(training.run, 1))
    tracking.log_round_model(training.run, 2, training.folder.load(2).model)
    second = begin(rounds=1)  # in the experiment that the server made
    assert client().get_run(second.run.id).info.artifact_uri.split("/")[0] == kept.split("/")[0]
    tracking.finish(second.run, "FINISHED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert load(tracking.load_model_file(training.run, 2))
    assert _get(f"{server.url}/get-artifact?path=settings.yaml&run_uuid={second.run.id}")
    tracking.finish(training.run, "FINISHED")


def _get(url: str) -> bytes:
    import urllib.request

    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def test_artifacts_that_a_server_named_stay_in_their_folder(place: Path) -> None:
    from mlflow import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with pytest.raises(MlflowException, match="must lie under mlartifacts"):
        get_artifact_repository("mlflow-artifacts:/1/../../x", tracking.tracking_uri())


# --- trouble ---------------------------------------------------------------------------------


def test_a_server_that_dies_and_comes_back_has_every_step_once(
    server: Any, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tracking.progress.METRICS_EVERY_S", 0.0)
    training = begin(workers=3)
    tracker = Tracker(training.run, training.folder)
    for _ in range(2):
        training.round()
        tracker.round(training.records, training.state.model)
    assert tracker.progress.trouble == ""
    server.kill()
    began = time.monotonic()
    for _ in range(3):
        training.round()
        tracker.round(training.records, training.state.model)  # does not raise
    assert time.monotonic() - began < 10
    assert server.url in tracker.progress.trouble
    assert tracker.progress.metrics == 2
    server.start()
    tracker.progress = replace(tracker.progress, retry_at=0.0)
    training.round()
    tracker.round(training.records, training.state.model)
    assert tracker.progress.trouble == ""
    assert tracker.settle(training.records) == ""
    once(training)
    for record in training.records:
        tensors = load(tracking.load_model_file(training.run, record.round))
        assert digest(tensors) == training.folder.load(record.round).model.digest
    known = children(client(), training.run.id, experiment=training.run.experiment_id)
    assert len(known) == 3
    points = training.points("train_loss", known["worker-001"])
    assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6]
    tracking.finish(training.run, "FINISHED", records=training.records)


def test_a_process_that_knows_nothing_tells_all_again_and_nothing_twice(
    either: str, begin: Begin
) -> None:
    training = begin(workers=2, rounds=3)
    Tracker(training.run, training.folder).settle(training.records)
    # A kill in the middle of an upload leaves half a file behind.
    write_file(client(), training.run.id, "rounds/round-00002.safetensors", b"half a file")
    for _ in range(2):
        training.round()
    resumed = Tracker(training.run, training.folder)
    assert resumed.settle(training.records) == ""
    once(training)
    assert resumed.progress.models == 5
    model = training.folder.load(2).model
    assert digest(load(tracking.load_model_file(training.run, 2))) == model.digest
    known = children(client(), training.run.id, experiment=training.run.experiment_id)
    assert [s for s, _ in training.points("train_loss", known["worker-002"])] == [1, 2, 3, 4, 5]
    tracking.finish(training.run, "FINISHED")


def test_fast_rounds_are_told_together(server: Any, begin: Begin) -> None:
    training = begin(workers=60)
    tracker = Tracker(training.run, training.folder)
    told = []
    for _ in range(5):
        training.round()
        tracker.round(training.records, training.state.model)
        told.append(tracker.progress.metrics)
    assert told == [1] * 5
    assert sorted(model_rounds(training.run)) == [1, 2, 3, 4, 5]
    assert tracker.settle(training.records) == ""
    once(training)


def test_a_server_that_hangs_holds_up_one_round_and_not_the_next(
    server: Any, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    training = begin(rounds=1)
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        behind = tracking.keep_up(
            training.run, training.records, progress=Progress(), folder=training.folder
        )
        assert time.monotonic() - began < 8
        assert behind.trouble
        began = time.monotonic()
        again = replace(behind, retry_at=time.time() + 60)
        assert (
            tracking.keep_up(training.run, training.records, progress=again, folder=training.folder)
            == again
        )
        assert time.monotonic() - began < 0.1
    finally:
        server.signal(signal.SIGCONT)
    assert Tracker(training.run, training.folder).settle(training.records) == ""
    once(training)
    tracking.finish(training.run, "FINISHED")


def test_trouble_that_lasts_is_reported_at_the_end(server: Any, begin: Begin) -> None:
    training = begin(rounds=2)
    tracker = Tracker(training.run, training.folder)
    tracker.round(training.records[:1])
    server.kill()
    report = tracker.settle(training.records, patience=2)
    assert "must hold all 2 rounds; it holds 1 of them" in report
    assert training.run.id in report
    said = tracking.attempt(
        lambda: tracking.finish(training.run, "FINISHED"), doing="close the run", patience=0.5
    )
    assert said.startswith("MLflow must answer to close the run; http://127.0.0.1:")
    with pytest.raises(ConfigError, match="MLflow must answer to find run latest"):
        tracking.find_run("latest")
    with pytest.raises(ConfigError, match="must hand out the model after round 1"):
        tracking.load_model_file(training.run, 1)


def test_a_slip_at_the_end_is_tried_again() -> None:
    tries: list[int] = []

    def slips_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("gone")

    assert tracking.attempt(slips_once, doing="try") == ""
    assert len(tries) == 2


def test_a_mistake_in_our_own_code_is_not_taken_for_trouble() -> None:
    def mistaken() -> None:
        raise TypeError("ours")

    with pytest.raises(TypeError):
        tracking.attempt(mistaken, doing="try")


def test_a_pruned_checkpoint_does_not_hold_up_the_rest(place: Path, begin: Begin) -> None:
    training = begin(rounds=3)
    (training.folder.path / "round-00002.safetensors").unlink()
    assert Tracker(training.run, training.folder).settle(training.records) == ""
    with pytest.raises(UnknownRun, match="choose from 1, 3"):
        tracking.load_model_file(training.run, 2)


def test_the_link_to_a_run_needs_a_server(server: Any, begin: Begin, tmp_path: Path) -> None:
    run = begin().run
    assert tracking.run_link(run) == f"{server.url}/#/experiments/{run.experiment_id}/runs/{run.id}"
    tracking.finish(run, "FINISHED")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        assert tracking.run_link(run) == ""


def test_the_fluent_interface_is_not_touched(place: Path, begin: Begin) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    training = begin(rounds=1)
    Tracker(training.run, training.folder).settle(training.records)
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before
    assert isinstance(client(), MlflowClient)


@pytest.mark.parametrize(("workers", "kept"), [(60, [0, 0, 60]), (3, [3, 3, 3])])
def test_of_many_workers_what_mlflow_has_been_told_is_let_go(
    place: Path, begin: Begin, workers: int, kept: list[int]
) -> None:
    from uuid import uuid4

    from tasks.record import Recorder

    training = begin(workers=workers, rounds=3)
    tracker = Tracker(training.run, training.folder)
    tracker.round(training.records[:2])
    records = list(training.records)
    recorder = Recorder(training.run, training.folder, tracker, 3, [], uuid4(), records)
    recorder.let_go()
    assert [len(record.contributions) for record in recorder.records] == kept
    assert [record.metrics for record in recorder.records] == [
        record.metrics for record in training.records
    ]
    assert tracker.settle(recorder.records) == ""
    if workers == 60:
        table = read_artifact(client(), training.run.id, "workers/round-00003.csv").decode()
        assert len(table.splitlines()) == 61
