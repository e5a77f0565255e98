"""Real servers, real processes: nothing here is mocked."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[2]
# Long enough for a machine that does many other things; nothing waits for it in vain.
PATIENCE = 120.0


class Start(Protocol):
    """Start a Python program in a folder, with nothing of the caller's Prefect or MLflow."""

    def __call__(
        self, code: str, *arguments: str, cwd: Path, **environment: str
    ) -> "subprocess.Popen[str]": ...


@pytest.fixture(scope="session")
def clean(prefect_home: Path) -> dict[str, str]:
    """An environment in which only the Prefect home is set."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    return {**bare, "PREFECT_HOME": str(prefect_home), "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def start(clean: dict[str, str]) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=cwd,
            env={**clean, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool], str], None]:
    """Wait until something holds; fail with what was awaited."""

    def eventually(holds: Callable[[], bool], awaited: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"{awaited}: not within {PATIENCE:.0f} s")
            time.sleep(0.2)

    return eventually
