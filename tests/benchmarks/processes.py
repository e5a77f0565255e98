"""The processes of a benchmark: what is measured, each in one of its own, and the servers."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from deployments.mlflow_server import start_mlflow_server
from deployments.prefect_server import start_prefect_server
from tests.benchmarks.laps import STARTED

ROOT = Path(__file__).parents[2]
WARM_UP = 3
"""Rounds that are not counted: caches fill, the first ones also import and build."""


@dataclass(frozen=True)
class Measured:
    """One process's training: medians over its rounds after the warm-up, and its own peak."""

    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    first_round_s: float
    peak_mb: float
    early_mb: float
    end_mb: float
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Servers:
    """A Prefect and an MLflow server; `environment` tells a training of them."""

    environment: Mapping[str, str]

    def processes(self) -> list[psutil.Process]:
        """Everything that serves: between measurements we have no other children."""
        return psutil.Process().children(recursive=True)

    def cpu_seconds(self) -> float:
        """Used so far."""
        return sum(p.cpu_times().user + p.cpu_times().system for p in self.processes())

    def move(self, cores: Sequence[int]) -> None:
        """Let them run on these cores alone, each thread that they have."""
        for process in self.processes():
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores)


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Both servers on files in this folder, for the length of the block."""
    for name in [name for name in os.environ if name.startswith(("PREFECT", "MLFLOW"))]:
        del os.environ[name]
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    started = [
        start_prefect_server(log=folder / "prefect-server.log"),
        start_mlflow_server(folder=folder, log=folder / "mlflow-server.log"),
    ]
    try:
        for server in started:
            server.wait_ready()
        prefect, mlflow = (server.url for server in started)
        yield Servers({"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow})
    finally:
        for server in started:
            server.stop()


def measure(
    module: str, *arguments: str, folder: Path, cores: Sequence[int], serving: Servers
) -> Measured:
    """Run a module of this package on these cores and read what it noted of itself."""
    before = serving.cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
        cwd=folder,
        env=environment(serving, threads=len(cores)) | {STARTED: str(time.time())},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    noted = json.loads(done.stdout.strip().splitlines()[-1])
    rounds = len(noted["walls"])
    return Measured(
        seconds=statistics.median(noted["walls"][WARM_UP:]),
        cpu_seconds=statistics.median(noted["cpus"][WARM_UP:]),
        server_cpu_seconds=(serving.cpu_seconds() - before) / rounds,
        first_round_s=noted["first_round_s"],
        peak_mb=noted["peak_mb"],
        early_mb=noted["mb"][WARM_UP],
        end_mb=noted["mb"][-1],
        accuracies=tuple(noted["accuracies"]),
    )


def environment(serving: Servers, *, threads: int) -> dict[str, str]:
    """What a measured process finds in its environment."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **serving.environment, **own}
