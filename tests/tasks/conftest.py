"""A real MLflow for the tests: SQLite in a folder of their own, and a server that can be killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedcore.checkpoint import RunFolder
from fedcore.initial import initial_state
from fedcore.models import Blueprint
from fedcore.rounds import FEW_WORKERS
from fedcore.settings import TrainingConfig
from fedcore.settings.model import Mlp
from fedcore.values import Contribution, Contributions, Description, RoundRecord, ServerState
from tasks import tracking
from tasks.tracking import Run
from tasks.tracking.server import client

BLUEPRINT = Blueprint(Mlp(hidden=[4]), inputs=(6,), outputs=3, classes=3)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in them: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.prepare()
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A working folder with an empty MLflow database, used directly."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FEDROUNDS_HOME", str(tmp_path / "home"))
    return tmp_path


@dataclass
class MlflowServer:
    """`mlflow server` in a process group of its own."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--workers", "1",
                 "--host", "127.0.0.1", "--port", str(self.port),
                 "--backend-store-uri", "sqlite:///mlflow.db",
                 "--artifacts-destination", "mlartifacts"],
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                env={**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def session_server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(empty_database, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = MlflowServer(folder, port)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def server(
    session_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MlflowServer:
    """A running server, and its URI as the tracking URI."""
    if session_server.process is None:
        session_server.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", session_server.url)
    monkeypatch.setenv("FEDROUNDS_HOME", str(tmp_path / "home"))
    return session_server


@dataclass
class Training:
    """A training that has a run, and a checkpoint and a record for every round."""

    run: Run
    folder: RunFolder
    state: ServerState
    workers: int
    records: list[RoundRecord] = field(default_factory=list)

    def round(self) -> None:
        """Finish one more round."""
        number = self.state.round + 1
        counted = Contributions.of(
            Contribution(name, 10.0 + i, {"loss": (10.0 + i) * (i + 1) / number, "seen": 10.0 + i})
            for i, name in enumerate(names(self.workers))
        )
        model = self.state.model
        moved = model.replaced({n: t + 0.125 * number for n, t in model.parameters.items()})
        metrics = {
            "train_loss": 2.0 / number,
            "test_loss": 0.5 + abs(number - 3),
            "test_accuracy": 1 - 0.5 / number,
            "workers_arrived": float(self.workers),
        }
        if self.workers > FEW_WORKERS:
            metrics |= {f"train_loss_p{q}": float(q) for q in (10, 50, 90)}
        going = ServerState(self.state.round, moved, counted=counted)
        self.state = going.finish(metrics, timestamp_ms=1_800_000_000_000 + number, missing={})
        self.folder.save(self.state)
        assert self.state.record is not None
        self.records.append(self.state.record)

    def points(self, name: str, run_id: str = "") -> list[tuple[int, float]]:
        """Every stored point of a metric: step and value."""
        history = client().get_metric_history(run_id or self.run.id, name)
        return sorted((p.step, p.value) for p in history)

    def expected(self, name: str) -> list[tuple[int, float]]:
        return [(r.round, r.metrics[name]) for r in self.records]


def names(count: int) -> list[str]:
    return [f"worker-{number:03d}" for number in range(1, count + 1)]


def descriptions(count: int) -> list[Description]:
    return [
        Description(name, 10 + i, (6,), {"a": 4, "b": 6, "c": i}, f"{i + 1:064x}")
        for i, name in enumerate(names(count))
    ]


def begin(*, workers: int = 3, rounds: int = 0, blueprint: Blueprint = BLUEPRINT) -> Training:
    """A new run with so many finished rounds, of which MLflow has not been told."""
    config = TrainingConfig(name="test", rounds=100)
    run = tracking.start_run(config, kind="federated", descriptions=descriptions(workers))
    folder = RunFolder.of(run.id)
    folder.create(config)
    training = Training(run, folder, ServerState(0, initial_state(blueprint, seed=1)), workers)
    for _ in range(rounds):
        training.round()
    return training


@pytest.fixture(name="begin")
def _begin() -> Callable[..., Training]:
    """`begin(workers=3, rounds=0)`: a training whose rounds MLflow has not been told of yet."""
    return begin
