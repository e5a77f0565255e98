"""The served deployments run when clicked and when scheduled, in a folder full of namesakes."""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from deployments.crash_automation import crash_after_seconds
from deployments.serve import DEPLOYMENTS, parameters, start_serving
from fedcore.errors import ConfigError

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
DEPLOY_FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"


@pytest.fixture(scope="module")
def deployments(
    prefect_url: str,
    clean: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    ask,
) -> Iterator[dict[str, str]]:
    """Serve from a folder with packages named like ours; the ids of deployments by name."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("flows", "tasks", "deployments", "fedcore"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('a namesake')\n")
    environment = {
        **clean,
        "PREFECT_API_URL": prefect_url,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        child = start_serving(log=folder / "serve.log", environment=environment)
    try:
        child.wait_ready()
        yield {each["name"]: each["id"] for each in ask(prefect_url, "/deployments/filter", {})}
    finally:
        child.stop()


def test_all_are_served_by_module_and_the_nightly_one_has_its_schedule(
    deployments: dict[str, str], prefect_url: str, ask
) -> None:
    found = {each["name"]: each for each in ask(prefect_url, "/deployments/filter", {})}
    for served in DEPLOYMENTS:
        assert found[served.name]["entrypoint"] == served.entrypoint
        assert found[served.name]["parameters"] == parameters(served)
        crons = [each["schedule"]["cron"] for each in found[served.name]["schedules"]]
        assert crons == ([served.cron] if served.cron else [])


def test_clicked_run_completes_with_the_given_parameters(
    deployments: dict[str, str], prefect_url: str, ask, eventually
) -> None:
    config = {**dict(parameters(DEPLOYMENTS[0])["config"]), "rounds": 2}
    path = f"/deployments/{deployments['tutorial']}/create_flow_run"
    created = ask(prefect_url, path, {"parameters": {"config": config}})
    assert completed(created["id"], prefect_url, ask, eventually)["parameters"]["config"] == config


def test_run_by_schedule_completes(
    deployments: dict[str, str], prefect_url: str, ask, eventually
) -> None:
    """The scheduler dies in silence under some versions of what Prefect depends on."""
    # More than one chance: a busy scheduler may look only when the first time has passed.
    schedule = {
        "interval": 20.0,
        "anchor_date": (datetime.now(UTC) + timedelta(seconds=8)).isoformat(),
    }
    deployment = deployments["tutorial-centralised"]
    path = f"/deployments/{deployment}/schedules"
    ask(prefect_url, path, [{"schedule": schedule, "active": True}])
    ended = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": list(FINAL)}}},
    }
    eventually(lambda: bool(ask(prefect_url, "/flow_runs/filter", ended)), "a scheduled run ends")
    run = ask(prefect_url, "/flow_runs/filter", ended)[0]
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["auto_scheduled"]
    assert run["parameters"] == parameters(DEPLOYMENTS[1])


def completed(run: str, url: str, ask, eventually) -> dict[str, object]:
    def state() -> str:
        return str(ask(url, f"/flow_runs/{run}")["state_type"])

    eventually(lambda: state() in FINAL, "the run ends")
    found = ask(url, f"/flow_runs/{run}")
    assert found["state_type"] == "COMPLETED", found["state"]
    return dict(found)


WAITING = """
import sys, time
from deployments.prefect_settings import apply_client_defaults
apply_client_defaults()
from prefect import flow
from prefect.runtime import flow_run
from deployments.crash_automation import install_crash_automation
install_crash_automation()
install_crash_automation()
@flow
def waiting():
    print(flow_run.id, flush=True)
    time.sleep(600)
waiting()
"""


def test_killed_run_is_crashed_and_a_living_one_is_not(
    prefect_url: str, start, ask, eventually, tmp_path: Path
) -> None:
    soonest = {"PREFECT_API_URL": prefect_url, "FEDROUNDS_CRASH_AFTER": "40"}
    healthy = start(WAITING, cwd=tmp_path, **soonest)
    alive = healthy.stdout.readline().strip()
    killed = start(WAITING, cwd=tmp_path, **soonest)
    dead = killed.stdout.readline().strip()
    names = [each["name"] for each in ask(prefect_url, "/automations/filter", {})]
    assert len(names) == 1
    # Not before it has told of itself: a run that never did is not waited for.
    heartbeat = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}

    def heard() -> bool:
        events = ask(prefect_url, "/events/filter", heartbeat)["events"]
        return any(each["resource"]["prefect.resource.id"].endswith(dead) for each in events)

    eventually(heard, "a heartbeat")
    killed.send_signal(signal.SIGKILL)

    def state(run: str) -> str:
        return str(ask(prefect_url, f"/flow_runs/{run}")["state_type"])

    eventually(lambda: state(dead) == "CRASHED", "the killed run is Crashed")
    assert state(alive) == "RUNNING"


@pytest.mark.parametrize("given", ["39", "-1", "1.5", "soon", ""])
def test_time_limit_is_checked(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDROUNDS_CRASH_AFTER", given)
    with pytest.raises(ConfigError, match="FEDROUNDS_CRASH_AFTER must be whole seconds"):
        crash_after_seconds()


def test_deploy_file_has_the_same_deployments_with_the_same_settings() -> None:
    file = yaml.safe_load(DEPLOY_FILE.read_text())
    deployed = {each["name"]: each for each in file["deployments"]}
    assert set(deployed) == {served.name for served in DEPLOYMENTS}
    for served in DEPLOYMENTS:
        found = deployed[served.name]
        assert found["pull"] == []
        assert found["entrypoint"] == served.entrypoint
        assert found["parameters"] == parameters(served)
        crons = [each["cron"] for each in found.get("schedules", [])]
        assert crons == ([served.cron] if served.cron else [])
