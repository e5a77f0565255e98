"""No child outlives its parent."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

START = """
import sys, time
from pathlib import Path
server = {start}
if sys.argv[1] == "ready":
    server.wait_ready()
print(server.child.process.pid, flush=True)
time.sleep(600)
"""
PREFECT = (
    "__import__('deployments.prefect_server').prefect_server.start_prefect_server(log=Path('log'))"
)
MLFLOW = (
    "__import__('deployments.mlflow_server').mlflow_server"
    ".start_mlflow_server(folder=Path(), log=Path('log'))"
)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that has ended stays in the table where no init process collects it.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("moment", ["ready", "starting"])
@pytest.mark.parametrize("server", [PREFECT, MLFLOW], ids=["prefect", "mlflow"])
def test_server_ends_when_its_parent_is_killed(
    server: str,
    moment: str,
    start: "Callable[..., object]",
    eventually: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
) -> None:
    parent = start(START.format(start=server), moment, cwd=tmp_path)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    eventually(lambda: not alive(child), "the server ends")
