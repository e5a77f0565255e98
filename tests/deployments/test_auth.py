"""Servers that were there before, with basic auth on: they are used, and nothing is started."""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing

import psutil
import pytest

from deployments.prefect_server import start_prefect_server
from deployments.serve import start_serving

SECRET = "correct-horse-battery"
PREFECT_AUTH = f"ada:{SECRET}"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, body=None, *, auth=PREFECT_AUTH):
    token = base64.b64encode(auth.encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + 120
    while True:
        request = urllib.request.Request(url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # Prefect's word for an SQLite that is locked for the moment; its client asks again.
            with error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
        time.sleep(0.5)


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory, clean):
    """MLflow's own basic-auth server, as `mlflow server --app-name basic-auth` starts it."""
    folder = tmp_path_factory.mktemp("mlflow-auth")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///basic_auth.db\n"
        f"admin_username = ada\nadmin_password = {SECRET}\n"
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth",
                "--backend-store-uri", "sqlite:///mlflow.db", "--port", str(port),
                "--host", "127.0.0.1", "--workers", "1",
            ],
            cwd=folder,
            env={
                **clean,
                "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": SECRET,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-a-test-only",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                except urllib.error.HTTPError as error:
                    error.close()
                    break  # it answers, if only to ask who we are
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.2)
            yield url
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def prefect_auth_url(tmp_path_factory, clean):
    folder = tmp_path_factory.mktemp("prefect-auth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", PREFECT_AUTH)
        patch.setenv("PREFECT_HOME", str(folder / "home"))
        server = start_prefect_server(log=folder / "log")
    try:
        server.wait_ready()
        yield f"{server.url}/api"
    finally:
        server.stop()


@pytest.fixture
def secured(mlflow_url, prefect_auth_url):
    return {
        "PREFECT_API_URL": prefect_auth_url,
        "PREFECT_API_AUTH_STRING": PREFECT_AUTH,
        "MLFLOW_TRACKING_URI": mlflow_url,
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }


def runs(mlflow_url, experiment="fedrounds/toy"):
    name = urllib.request.quote(experiment, safe="")
    found = ask(f"{mlflow_url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}")
    body = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 1000}
    return {
        run["info"]["run_id"]: run["info"]["status"]
        for run in ask(f"{mlflow_url}/api/2.0/mlflow/runs/search", body)["runs"]
    }


def test_the_command_uses_both_and_starts_nothing(alone, secured):
    done = alone.train("tutorial", **secured)
    assert runs(secured["MLFLOW_TRACKING_URI"])[done.run_id] == "FINISHED"
    flows = ask(f"{secured['PREFECT_API_URL']}/flow_runs/filter", {})
    assert [(run["name"], run["state_type"]) for run in flows] == [("tutorial", "COMPLETED")]
    assert SECRET not in done.out + done.err
    assert not (alone.path / "mlflow.db").exists()
    assert not (alone.path / ".fedrounds" / "prefect-server.log").exists()
    written = [p for p in alone.path.rglob("*") if p.is_file()]
    assert not [p for p in written if SECRET.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PREFECT_API_AUTH_STRING", "is PREFECT_API_AUTH_STRING right?"),
        ("MLFLOW_TRACKING_PASSWORD", "The MLflow server must let us in"),
    ],
)
def test_a_wrong_password_is_told_with_status_2(alone, secured, name, message):
    wrong = "ada:wrong" if name.startswith("PREFECT") else "wrong"
    done = alone.run("train", "tutorial", **{**secured, name: wrong})
    assert done.status == 2, done.out + done.err
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_deployed_run_uses_both(tmp_path, secured, clean, eventually):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        child = start_serving(log=tmp_path / "log", environment={**clean, **secured})
    try:
        child.wait_ready()
        api = secured["PREFECT_API_URL"]
        served = {d["name"]: d["id"] for d in ask(f"{api}/deployments/filter", {})}
        made = ask(f"{api}/deployments/{served['tutorial']}/create_flow_run", {})

        def state():
            return ask(f"{api}/flow_runs/{made['id']}")["state_type"]

        final = ("COMPLETED", "FAILED", "CRASHED")
        eventually(lambda: state() in final, "the deployed run ends")
        assert state() == "COMPLETED"
    finally:
        child.stop()
    assert set(runs(secured["MLFLOW_TRACKING_URI"]).values()) == {"FINISHED"}
