"""The wheel, in an empty environment, from a folder that has packages named like ours."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = {path.name for path in (ROOT / "deployments/configs").glob("*.yaml")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "fedrounds"
    # A copy of what git would publish: building in place leaves files in the checkout.
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True, capture_output=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", out, source]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("fedrounds-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of an environment that has the wheel and its extra, and nothing of ours."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(place, with_pip=True)
    pip = [place / "bin/python", "-I", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[flows]"],
        check=True,
        capture_output=True,
    )
    subprocess.run([*pip, "check"], check=True, capture_output=True)
    return place / "bin"


@pytest.fixture
def namesakes(tmp_path, prefect_home):
    """A folder of somebody who has flows and tasks of his own, and the environment to be there."""
    for name in ("flows", "tasks", "deployments", "fedcore"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a namesake')\n")
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    return tmp_path, {**kept, "PREFECT_HOME": str(prefect_home), "DO_NOT_TRACK": "1"}


def test_the_wheel_holds_all_that_is_needed_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "fedcore", "tasks", "flows", "deployments",
    }  # fmt: skip
    assert {Path(n).name for n in names if n.startswith("deployments/configs/")} == CONFIGS
    for package in ("fedcore", "tasks", "flows", "deployments"):
        assert f"{package}/py.typed" in names
    assert "deployments/comparisons/digits-comparison.yaml" in names
    assert "deployments/prefect.yaml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_command_trains_digits_among_namesakes(installed, namesakes):
    folder, environment = namesakes
    done = subprocess.run(
        [installed / "fedrounds", "train", "digits", "--set", "rounds=2", "--json"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rounds"] == 2


def test_the_installed_command_serves_deployments_among_namesakes(
    installed, namesakes, ask, eventually
):
    folder, environment = namesakes
    ports = []
    for _ in range(2):
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    up = subprocess.Popen(
        [installed / "fedrounds", "up", "--prefect-port", str(ports[0]),
         "--mlflow-port", str(ports[1])],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said = ""
        while "Ctrl-C ends" not in said:
            line = up.stdout.readline()
            assert line, said
            said += line
        api = re.search(r"export PREFECT_API_URL=(\S+)", said)[1]

        served = {d["name"]: d["id"] for d in ask(api, "/deployments/filter", {})}
        assert {"tutorial", "tutorial-centralised", "digits", "digits-nightly"} <= set(served)
        run = ask(api, f"/deployments/{served['tutorial']}/create_flow_run", {})["id"]

        def state():
            return ask(api, f"/flow_runs/{run}")["state_type"]

        eventually(lambda: state() in ("COMPLETED", "FAILED", "CRASHED"), "the run ends")
        assert state() == "COMPLETED"
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)
    assert up.returncode == 0


@pytest.mark.parametrize("command", [["train"], ["evaluate", "latest"], ["model", "x"], ["up"]])
def test_without_the_extra_a_command_says_so_in_one_line(command, tmp_path):
    code = (
        "import sys; sys.modules['prefect'] = sys.modules['mlflow'] = None; "
        "from deployments.cli import main; sys.argv[1:] = " + repr(command) + "; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'fedrounds[flows]'" in done.stderr
    assert done.stderr.count("\n") == 1
