"""`prefect deploy` with our file, and a Prefect worker that runs a training from the pool."""

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.serve import DEPLOYMENTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefect(clean, prefect_url, tmp_path_factory):
    """Prefect's own command line, on the shared server."""
    folder = tmp_path_factory.mktemp("work-pool")

    def prefect(*arguments: str, cwd: Path = ROOT) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=cwd,
            env={
                **clean,
                "PREFECT_API_URL": prefect_url,
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
                "FEDROUNDS_HOME": str(folder / "home"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return prefect


def test_a_prefect_worker_runs_a_deployed_training(prefect, prefect_url, ask, tmp_path):
    prefect("work-pool", "create", "fedrounds", "--type", "process", "--overwrite")
    prefect("--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
    pool = {"work_pools": {"name": {"any_": ["fedrounds"]}}}
    deployed = {d["name"]: d["id"] for d in ask(prefect_url, "/deployments/filter", pool)}
    assert set(deployed) == {served.name for served in DEPLOYMENTS}
    run = ask(prefect_url, f"/deployments/{deployed['tutorial']}/create_flow_run", {})["id"]
    prefect("worker", "start", "--pool", "fedrounds", "--run-once", cwd=tmp_path)
    assert ask(prefect_url, f"/flow_runs/{run}")["state_type"] == "COMPLETED"
