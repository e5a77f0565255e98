"""What all tests share: one intra-op thread, and the command line as a person runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import HealthCheck, settings

from deployments.prefect_server import own_prefect_server

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

# Drawing examples is slow on a machine that does many other things, and that is all it says.
settings.register_profile("ours", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

# Long enough for a machine that does many other things; nothing waits for it in vain.
PATIENCE = 120.0
FEDROUNDS = [sys.executable, "-P", "-m", "deployments.cli"]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> dict:
        """The JSON that --json prints last."""
        return json.loads(self.out.strip().splitlines()[-1])

    @property
    def run_id(self) -> str:
        """The run id, which is printed first."""
        return self.out.split()[1]


@dataclass(frozen=True)
class Folder:
    """A folder that a person works in, with a Prefect home and a tracking database of its own."""

    path: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `fedrounds`, in a session of its own so that its children can be counted."""
        process = subprocess.Popen(
            [*FEDROUNDS, *arguments],
            cwd=self.path,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hears_ctrl_c,
        )
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End what a test has left running."""
        for process in self.started:
            process.kill()
            process.communicate()

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run `fedrounds` to its end."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        return Done(process.returncode, out, err)

    def train(self, *arguments: str, **environment: str) -> Done:
        """Train with --json, which must succeed in silence on standard error."""
        done = self.run("train", *arguments, "--json", **environment)
        assert done.status == 0, done.out + done.err
        assert done.err == ""
        return done

    @property
    def tracking_uri(self) -> str:
        """Where this folder's history is."""
        return f"sqlite:///{self.path / 'mlflow.db'}"


def _hears_ctrl_c() -> None:
    # Who starts the tests in the background has the shell ignore it, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def bare_environment() -> dict[str, str]:
    """The environment without anything of Prefect, MLflow or fedrounds in it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "MLFLOW", "FEDROUNDS"))
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Prefect home for many commands: filling an empty one takes seconds."""
    return tmp_path_factory.mktemp("prefect-home")


@pytest.fixture(scope="session")
def prefect_url(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a server that all tests share."""
    log = tmp_path_factory.mktemp("prefect-log") / "prefect.log"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(prefect_home))
        with own_prefect_server(log) as url:
            yield url


@pytest.fixture
def alone(tmp_path: Path, prefect_home: Path) -> Iterator[Folder]:
    """A folder whose commands bring their own Prefect server."""
    made = Folder(tmp_path, {**bare_environment(), "PREFECT_HOME": str(prefect_home)})
    yield made
    made.stop()


@pytest.fixture
def folder(alone: Folder, prefect_url: str) -> Iterator[Folder]:
    """A folder whose commands use the shared Prefect server, which saves them seconds."""
    made = Folder(alone.path, {**alone.environment, "PREFECT_API_URL": prefect_url})
    yield made
    made.stop()


@pytest.fixture(scope="session")
def session_folder(
    tmp_path_factory: pytest.TempPathFactory, prefect_home: Path, prefect_url: str
) -> Folder:
    """A folder whose trainings several tests look at; they must not change it."""
    environment = {
        **bare_environment(),
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_API_URL": prefect_url,
    }
    return Folder(tmp_path_factory.mktemp("session"), environment)


class Ask(Protocol):
    """Ask a Prefect API, given its URL, a path and, for a POST, a body."""

    def __call__(self, url: str, path: str, body: object | None = None) -> object: ...


@pytest.fixture(scope="session")
def ask() -> Ask:
    def ask(url: str, path: str, body: object | None = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{url}{path}", data, {"Content-Type": "application/json"})
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urlopen(request, timeout=PATIENCE) as answer:
                    return json.load(answer)
            except HTTPError as error:
                # The server's word for a database that is locked for the moment; Prefect's own
                # client asks again, too.
                with error:
                    if error.code != 503 or time.monotonic() > deadline:
                        raise
            time.sleep(0.5)

    return ask
