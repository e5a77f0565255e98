"""Threads, Dask and Ray train the same model; what dies costs a retry and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from mlflow import MlflowClient

from fedcore.errors import ConfigError
from fedcore.settings import parse
from flows.backend import check_backend
from tests.conftest import PATIENCE

SMALL = ["digits", "--set", "rounds=2", "--set", "workers.count=4"]
# A verb takes long enough for a kill to fall into it.
LONG = [*SMALL, "--set", "local.epochs=200"]


def on(backend: str, **more: object) -> list[str]:
    changes = {"kind": backend, **more}
    return [
        word for name, value in changes.items() for word in ("--set", f"backend.{name}={value}")
    ]


@pytest.fixture(scope="module")
def small(session_folder):
    return session_folder.train(*SMALL)


@pytest.fixture(scope="module")
def long(session_folder):
    return session_folder.train(*LONG)


def task_runs_of(folder, run_id, url, ask):
    tags = MlflowClient(folder.tracking_uri).get_run(run_id).data.tags
    of_flow = {"id": {"any_": [tags["prefect.flow_run_id"]]}}
    return ask(url, "/task_runs/filter", {"flow_runs": of_flow, "limit": 200})


def process_of(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != "zombie":
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def nobody_is_left(session: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while process_of(session):
        assert time.monotonic() < deadline, process_of(session)
        time.sleep(0.1)


def read_until(process, pattern):
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found
    pytest.fail(f"ended before it printed {pattern}: {process.stderr.read()}")


def kill_a_process_that_trains(pid: int) -> None:
    """One of the cluster's processes while it computes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children(recursive=True):
            words = " ".join(child.cmdline())
            # Of Dask's processes those that nannies spawned, of Ray's those that have a verb.
            if "spawn_main" not in words and not words.startswith("ray::_perform"):
                continue
            if child.cpu_percent(0.1) > 20:
                child.kill()
                return
    pytest.fail("no process of the cluster was at work")


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_the_model_is_that_of_threads_bit_for_bit_and_the_terminal_is_quiet(
    folder, small, backend, prefect_url, ask
):
    done = folder.train(*SMALL, *on(backend))  # which asserts silence on standard error
    assert done.result["model_digest"] == small.result["model_digest"]
    assert done.result["history"] == small.result["history"]
    assert done.out.splitlines()[1:4] == small.out.splitlines()[1:4]
    task_runs = task_runs_of(folder, done.run_id, prefect_url, ask)
    assert len(task_runs) == 2 * (3 * 4 + 2)
    assert {run["state_type"] for run in task_runs} == {"COMPLETED"}
    assert list((folder.path / ".fedrounds" / "values").iterdir()) == []


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_process_that_is_killed_costs_a_retry_and_not_the_run(
    folder, long, backend, prefect_url, ask
):
    process = folder.start("train", *LONG, *on(backend), "--json")
    run_id = read_until(process, r"^run (\w+)")[1]
    kill_a_process_that_trains(process.pid)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert long.result["model_digest"] in out
    task_runs = task_runs_of(folder, run_id, prefect_url, ask)
    assert {run["state_type"] for run in task_runs} == {"COMPLETED"}
    # The verb that it was at; on Dask also the one that waited for the same process.
    retried = [run["run_count"] for run in task_runs if run["run_count"] > 1]
    assert retried in ([2], [2, 2]), retried


def test_a_training_that_is_killed_takes_its_cluster_along_and_can_be_resumed(folder, long):
    process = folder.start("train", *LONG, *on("dask"))
    run_id = read_until(process, r"^run (\w+)")[1]
    read_until(process, r"^round 1 of 2")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    nobody_is_left(process.pid)
    values = folder.path / ".fedrounds" / "values"
    assert len(list(values.iterdir())) == 1
    done = folder.run("train", "--resume", run_id, "--json")
    assert done.result["model_digest"] == long.result["model_digest"]
    assert list(values.iterdir()) == []


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_ctrl_c_on_the_terminal_ends_all_processes_in_order(folder, backend):
    process = folder.start("train", *LONG, *on(backend))
    read_until(process, r"^round 1 of 2")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "fedrounds: stopped; go on with: fedrounds train --resume latest\n"
    nobody_is_left(process.pid)
    assert list((folder.path / ".fedrounds" / "values").iterdir()) == []


CLUSTER = """
import sys
from dask.distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(
        n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def test_a_cluster_that_runs_already_and_a_folder_of_ones_choice(folder, small):
    (folder.path / "cluster.py").write_text(CLUSTER)
    cluster = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=folder.path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = cluster.stdout.readline().strip()
        done = folder.train(*SMALL, *on("dask", address=address, store="shared"))
    finally:
        cluster.communicate("")
    assert done.result["model_digest"] == small.result["model_digest"]
    assert list((folder.path / "shared").iterdir()) == []
    gone = folder.run("train", *SMALL, *on("dask", address=address))
    assert gone.status == 2
    assert re.fullmatch(r"fedrounds: backend\.address must be a Dask scheduler [^\n]+\n", gone.err)


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_extra_is_said_in_one_line(folder, backend, module):
    # What Python does for a module that is not there; read at every start of the interpreter.
    (folder.path / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None")
    path = f"{folder.path}{os.pathsep}{folder.environment['PYTHONPATH']}"
    done = folder.run("train", *SMALL, *on(backend), PYTHONPATH=path)
    assert done.status == 2
    assert done.err == (
        f"fedrounds: The backend {backend} needs {module}; given: an installation without it; "
        f"pip install 'fedrounds[{backend}]'.\n"
    )
    assert done.out == ""


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ({"kind": "dask", "store": "memory://x"}, r"backend\.store: must be a folder that other"),
        ({"kind": "ray", "store": "live:x"}, r"backend\.store: must be a folder that other"),
        ({"kind": "dask", "store": "s3://me:secret@host/x"}, r"must hold no password"),
        ({"kind": "ray", "address": "ray://me:secret@host"}, r"must hold no password"),
        ({"kind": "threads", "store": "s3://bucket"}, r"there is no such setting"),
        ({"kind": "dask", "processes": 0}, r"backend\.processes: .*greater than or equal to 1"),
        ({"kind": "dask", "address": "tcp://10.0.0.7:8786"}, r"that the cluster can reach"),
        ({"kind": "ray", "address": "ray://head:10001"}, r"that the cluster can reach"),
    ],
)
def test_what_a_backend_cannot_use_is_refused(backend, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_backend(parse({"backend": backend}).backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "backend",
    [
        {"kind": "threads"},
        {"kind": "dask", "store": "s3://bucket/fedrounds", "address": "tcp://10.0.0.7:8786"},
        {"kind": "ray", "address": "ray://127.0.0.1:10001"},
    ],
)
def test_what_a_backend_can_use_is_taken(backend):
    check_backend(parse({"backend": backend}).backend)
