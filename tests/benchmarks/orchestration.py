"""What orchestration costs: milliseconds and memory of a round in which nothing is learnt.

    python -m tests.benchmarks.orchestration [--rounds 25] [--long 100]

Each worker has one record and the model one weight, so a round is what Prefect, MLflow and the
checkpoint take. The Prefect server is a process of its own. Prints a table.
"""

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """One training's rounds: medians of its first and last fifth, in milliseconds."""

    workers: int
    rounds: int
    task_runs_per_round: int
    ms_first: float
    ms_last: float
    cpu_ms: float
    ms_of_local_train: float
    mb_early: float
    mb_end: float


CONFIG = """
name: nothing
rounds: {rounds}
data:
  source: {{kind: custom, entrypoint: "nothing:table", arguments: {{records: {workers}}}}}
  test_share: 0
model: {{kind: linear, bias: false}}
local: {{epochs: 1, batch_size: 0, shuffle: false, learning_rate: 0.001}}
workers: {{kind: virtual, count: {workers}, partition: {{kind: iid}}}}
"""
TABLE = """
import torch
from fedcore.data import Dataset, Table

def table(records):
    return Table(Dataset(torch.ones(records, 1), torch.ones(records, 1)), {})
"""


class Clock(logging.Handler):
    """Notes when each round is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.mb: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "record"):
            self.walls.append(time.perf_counter())
            self.cpus.append(time.process_time())
            self.mb.append(resident_mb())


def resident_mb() -> float:
    """Memory of this process now (its peak would hide that it shrinks)."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def measure(workers: int, rounds: int) -> Cost:
    """Train in this process; the Prefect server is another one."""
    from deployments.drain import counted_task_runs, drain
    from fedcore.settings import parse, read
    from flows.federated import federated_training

    Path("nothing.py").write_text(TABLE)
    Path("nothing.yaml").write_text(CONFIG.format(rounds=rounds, workers=workers))
    clock = Clock()
    logging.getLogger("fedrounds").addHandler(clock)
    with counted_task_runs() as count:
        federated_training(parse(read(Path("nothing.yaml"))))
        drained = drain(count, timeout=300)
    assert drained.complete, drained
    gc.collect()
    walls = [1e3 * (b - a) for a, b in zip(clock.walls, clock.walls[1:], strict=False)]
    cpus = [1e3 * (b - a) for a, b in zip(clock.cpus, clock.cpus[1:], strict=False)]
    fifth = max(len(walls) // 5, 1)
    return Cost(
        workers=workers,
        rounds=rounds,
        task_runs_per_round=drained.executed // rounds,
        ms_first=statistics.median(walls[:fifth]),
        ms_last=statistics.median(walls[-fifth:]),
        cpu_ms=statistics.median(cpus),
        ms_of_local_train=local_train_ms(workers),
        mb_early=statistics.median(clock.mb[fifth : 2 * fifth]),
        mb_end=statistics.median(clock.mb[-fifth:]),
    )


def local_train_ms(workers: int) -> float:
    """The same round in plain Python: what is not orchestration."""
    from fedcore.settings import parse, read
    from fedcore.simulation import simulate

    config = parse(read(Path("nothing.yaml"))).but(rounds=20)
    return statistics.median(1e3 * s.record.metrics["round_seconds"] for s in simulate(config))


def main() -> None:
    """Each measurement in a process of its own, so that none inherits another's memory."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=25)
    arguments.add_argument("--long", type=int, default=100)
    arguments.add_argument("--one", type=int, nargs=2, metavar=("WORKERS", "ROUNDS"))
    given = arguments.parse_args()
    if given.one:
        one(*given.one)
        return
    plan = [(1, given.rounds), (50, given.rounds), (10, given.long)]
    found = [run(workers, rounds) for workers, rounds in plan]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'workers':>8}{'rounds':>8}{'tasks':>7}{'ms first':>10}{'ms last':>9}{'cpu ms':>8}"
          f"{'plain ms':>10}{'MB early':>10}{'MB end':>8}")  # fmt: skip
    for c in found:
        print(
            f"{c['workers']:8}{c['rounds']:8}{c['task_runs_per_round']:7}{c['ms_first']:10.1f}"
            f"{c['ms_last']:9.1f}{c['cpu_ms']:8.1f}{c['ms_of_local_train']:10.2f}"
            f"{c['mb_early']:10.0f}{c['mb_end']:8.0f}"
        )


def run(workers: int, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.orchestration", "--one"]
    root = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, str(workers), str(rounds)],
            cwd=folder,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))},
                "PREFECT_HOME": f"{folder}/home",
                "PYTHONPATH": root,
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def one(workers: int, rounds: int) -> None:
    from deployments.prefect_api import prefect_api

    with prefect_api(log=Path("prefect.log")) as api:
        api.wait_ready()
        print(json.dumps(asdict(measure(workers, rounds))))


if __name__ == "__main__":
    main()
