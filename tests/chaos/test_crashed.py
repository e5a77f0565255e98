"""A training that was killed together with its own server is Crashed once a server is back."""

import json
import re
import signal
import time
import urllib.error
import urllib.request

import pytest
from mlflow import MlflowClient

from deployments.prefect_server import own_prefect_server

PATIENCE_S = 180


def test_the_next_server_says_that_a_killed_run_is_crashed(alone, tmp_path_factory):
    home = tmp_path_factory.mktemp("home-of-its-own")
    long = ["--set", "rounds=100000", "--set", "local.epochs=1"]
    process = alone.start(
        "train", "tutorial", *long, PREFECT_HOME=str(home), FEDROUNDS_CRASH_AFTER="40"
    )
    run_id = next(re.search(r"^run (\w+)", line)[1] for line in process.stdout)
    for line in process.stdout:
        if line.startswith("round 20 "):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tags = MlflowClient(alone.tracking_uri).get_run(run_id).data.tags
    flow_run = tags["prefect.flow_run_id"]
    # The server's port was its own; the link leads to where `fedrounds up` shows the run.
    assert tags["prefect.flow_run_link"].startswith("http://127.0.0.1:4200/")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in alone.environment.items():
            patch.setenv(name, value)
        patch.setenv("PREFECT_HOME", str(home))
        with own_prefect_server(alone.path / "prefect.log") as url:
            deadline = time.monotonic() + PATIENCE_S
            while (state := state_of(flow_run, url)) != "CRASHED":
                assert time.monotonic() < deadline, state
                time.sleep(0.5)


def state_of(flow_run: str, url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/flow_runs/{flow_run}", timeout=60) as answer:
            return json.load(answer)["state_type"]
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code}"
