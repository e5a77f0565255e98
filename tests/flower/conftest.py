"""Flower, in an environment of its own: its requirements and ours cannot be met in one."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("strategies.py")
# It imports flwr, which is not there where the tests run.
collect_ignore = [SCRIPT.name]

Floats = NDArray[np.float64]
Flower = Callable[[Mapping[str, tuple[str, dict[str, float]]], Mapping[str, Floats]], dict]


@pytest.fixture(scope="session")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Flower:
    """Run Flower's strategies: (jobs, given) to models, all as strategies.py describes them."""
    python = Path(os.environ.get("FEDROUNDS_FLOWER") or ROOT / ".venv/flower/bin/python")
    if not python.exists():
        pytest.fail(
            f"Flower must have an environment of its own; given: no {python}; `make test` makes "
            "it, or set FEDROUNDS_FLOWER to the python of one with "
            "tests/flower/requirements.txt installed."
        )

    def run(
        jobs: Mapping[str, tuple[str, dict[str, float]]], given: Mapping[str, Floats]
    ) -> dict[str, Floats]:
        folder = tmp_path_factory.mktemp("flower")
        (folder / "jobs.json").write_text(json.dumps(jobs))
        np.savez(folder / "given.npz", **given)
        done = subprocess.run(
            [python, "-I", SCRIPT, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0"},
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        with np.load(folder / "models.npz") as models:
            return dict(models)

    return run
