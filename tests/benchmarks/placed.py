"""What a second process is worth: the same training on one Dask process and on two.

    python -m tests.benchmarks.placed [--epochs 1 5 20] [--hosts 2] [--times 3] [--rounds 20]

The workload is `W3` of `tests.benchmarks.workloads`, run as the product: a Prefect server of the
training's own, checkpoints and MLflow each round. Trainings on one and on two processes take
turns, so that what else the machine does disturbs both. Prints a table of seconds per round:
medians, and the fastest round, which others disturbed least.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.laps import STARTED, Laps
from tests.benchmarks.ours import Committed
from tests.benchmarks.processes import ROOT, WARM_UP

PROCESSES = (1, 2)


def train(processes: int, epochs: int, hosts: int, rounds: int) -> None:
    """Measure in this process."""
    from deployments.prefect_api import prefect_api

    laps = Laps()
    logging.getLogger("fedrounds").addHandler(Committed(laps))
    with prefect_api(log=Path("prefect.log")) as api:
        api.wait_ready()
        from fedcore.settings.backend import Dask
        from flows.federated import federated_training
        from tests.benchmarks.workloads import config

        made = config("W3", hosts=hosts)
        local = made.local.but(epochs=epochs)
        backend = Dask(processes=processes)
        laps.start()
        federated_training(made.but(rounds=rounds, local=local, backend=backend))
    laps.report()


def measured(*arguments: int) -> list[float]:
    """Seconds of each round after the warm-up, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT", "MLFLOW", "FEDROUNDS_HOME"))
        }
        own = {
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(Path(folder) / "prefect"),
            STARTED: str(time.time()),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.placed", "--train", *map(str, arguments)],
            cwd=folder,
            env=kept | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    walls: list[float] = json.loads(done.stdout.strip().splitlines()[-1])["walls"]
    return walls[WARM_UP:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--train", type=int, nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        processes, epochs, hosts, rounds = asked.train
        train(processes, epochs, hosts, rounds)
        return
    print("| epochs | | one process | two | times as fast |\n| --- | --- | --- | --- | --- |")
    for epochs in asked.epochs:
        walls: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
        for _ in range(asked.times):
            for processes in PROCESSES:
                walls[processes] += measured(processes, epochs, asked.hosts, asked.rounds)
        for name, of in (("median", statistics.median), ("fastest", min)):
            one, two = (of(walls[processes]) for processes in PROCESSES)
            print(f"| {epochs} | {name} | {one:.3f} | {two:.3f} | {one / two:.2f} |", flush=True)


if __name__ == "__main__":
    main()
